// SPDX-License-Identifier: Apache-2.0
// Kernel modules of one version: what /lib/modules/VERSION and the kernel itself have, and what a module needs
// (modules.dep(5)).
#pragma once

#include "libconvert/guest/guest.h"
#include "libconvert/guest/plan.h"

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace kvmport::linux_guest {

/// "virtio_blk" of "kernel/drivers/block/virtio-blk.ko.xz"; empty when it is no module file.
std::string module_name(std::string_view path);
/// `path` without what compression adds: "….ko".
std::string plain_module_path(std::string_view path);

class KernelModules {
 public:
  /// Reads modules.dep, modules.builtin and /boot/config-VERSION of the guest.
  KernelModules(const Draft& draft, const Kernel& kernel);

  bool builtin(const std::string& name) const { return builtin_.contains(name); }
  bool loadable(const std::string& name) const { return paths_.contains(name); }
  bool available(const std::string& name) const { return builtin(name) || loadable(name); }
  /// Below the modules directory: "kernel/drivers/…".
  const std::string& path(const std::string& name) const { return paths_.at(name); }
  /// The names of `name` and all that it needs, those that others need first; built-in ones are left out.
  std::vector<std::string> with_dependencies(const std::string& name) const;

 private:
  void read_dep(std::string_view text, const std::string& version);
  void read_config(std::string_view text);

  std::map<std::string, std::string> paths_;
  std::map<std::string, std::vector<std::string>> needs_;
  std::set<std::string> builtin_;
};

} // namespace kvmport::linux_guest
