// SPDX-License-Identifier: Apache-2.0
// A guest made of a host directory: tests put files in, run steps on it, and read what came out.
#pragma once

#include "base/file.h"
#include "libconvert/guest/linux/steps.h"
#include "libconvert/guest/plan.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace kvmport::test {

class GuestTree {
 public:
  GuestTree();
  GuestTree& file(const std::string& path, const std::string& content);
  GuestTree& link(const std::string& target, const std::string& path);
  GuestTree& directory(const std::string& path);

  /// Plans `steps` without applying them.
  Plan plan(const GuestInfo& info, const std::vector<Step>& steps) const;
  /// Plans and applies.
  Plan run(const GuestInfo& info, const std::vector<Step>& steps);
  Plan run(const GuestInfo& info, void (*step)(const GuestInfo&, Draft&));

  /// Paths of all regular files.
  std::vector<std::string> files() const;
  std::string read(const std::string& path) const;
  bool exists(const std::string& path) const; ///< links count, dangling or not
  std::string readlink(const std::string& path) const;
  GuestFilesystem& filesystem() const { return *filesystem_; }

 private:
  TempDir root_;
  std::unique_ptr<GuestFilesystem> filesystem_;
};

/// The steps that edit configuration, in the order of linux_steps(); all but the initramfs.
std::vector<Step> configuration_steps();

/// A disk of a description.
MachineDisk disk_named(const std::string& name, ControllerType controller = ControllerType::scsi, unsigned unit = 0);
/// Partition `n` of disk `disk` whose name is `disk_name`; UUIDs are made of disk, partition and type.
BlockDevice partition(int disk, const std::string& disk_name, unsigned n, const std::string& type);
/// One disk `name`: 1 ext4 root, 2 swap, 3 crypto_LUKS, 4 LVM2_member, 5 xfs without a filesystem UUID.
GuestInfo one_disk_guest(const std::string& name = "sda", ControllerType controller = ControllerType::scsi);
/// The UUIDs that partition() gives.
std::string fs_uuid(int disk, unsigned n);
std::string part_uuid(int disk, unsigned n);

/// One warning or note per line, for matching.
std::string warnings_of(const Plan& plan);

} // namespace kvmport::test
