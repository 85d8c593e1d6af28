// SPDX-License-Identifier: Apache-2.0
// The filesystems of this host that lie on given disks, through partitions, dm and md, and in which order they can be
// frozen. From mountinfo (proc_pid_mountinfo(5)) and sysfs.
#pragma once

#include "libconvert/p2v/block_devices.h"

#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace kvmport {

/// One line of mountinfo.
struct MountPoint {
  std::uint64_t id = 0, parent = 0;
  dev_t device = 0; ///< of the superblock
  std::filesystem::path path;
  std::string type, source;
  bool read_only = false; ///< the superblock is
};
std::vector<MountPoint> parse_mountinfo(std::string_view text);
std::vector<MountPoint> read_mountinfo(const std::filesystem::path& path);

/// A mounted filesystem that can change.
struct MountedFilesystem {
  dev_t device = 0;
  std::string type, source;
  std::vector<dev_t> devices; ///< block devices that it lies on: a partition, a volume, several of a btrfs
  std::vector<dev_t> disks;   ///< whole disks below those
  unsigned depth = 0;         ///< mounts between it and the root; 0 is the root filesystem
  std::vector<MountPoint> places;
};

/// Filesystems that are mounted to be written and have a part on one of `disks`, in the order of freezing: those
/// mounted deepest first, the root last. Mounts of this process's namespace; Error LIVE_NOT_POSSIBLE when that of
/// process 1 has one that isn't in it.
std::vector<MountedFilesystem> filesystems_on(const HostRoots& host, std::span<const dev_t> disks);

} // namespace kvmport
