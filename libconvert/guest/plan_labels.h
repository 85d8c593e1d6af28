// SPDX-License-Identifier: Apache-2.0
// SELinux labels for files that the guest doesn't have yet: as its own policy names them (file_contexts, see
// selabel_file(5)), without running anything of it.
#pragma once

#include "libconvert/guest/filesystem.h"

#include <optional>
#include <string>
#include <vector>

namespace kvmport {

/// Reads the policy once; borrows the guest.
class LabelPolicy {
 public:
  explicit LabelPolicy(const GuestFilesystem& guest);

  /// False when the guest has no SELinux, or it is switched off: files then need no labels.
  bool active() const { return active_; }
  /// The label of a file of this type at `path`; nothing when the policy doesn't know it.
  std::optional<std::string> label_for(const std::string& path, FileType type) const;

 private:
  struct Rule {
    std::string pattern, stem, type, label; ///< stem: what a matching path must begin with
  };
  void read_rules(const std::string& text);
  void read_substitutions(const std::string& text);

  bool active_ = false;
  std::vector<Rule> rules_;
  std::vector<std::pair<std::string, std::string>> substitutions_;
};

} // namespace kvmport
