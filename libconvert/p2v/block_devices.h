// SPDX-License-Identifier: Apache-2.0
// What block devices of this host lie on: partitions on disks, dm and md devices on others. Read from sysfs alone, so
// that tests can use recorded trees. Layout: Linux, Documentation/ABI/stable/sysfs-block.
#pragma once

#include "formats/image.h"

#include <cstdint>
#include <filesystem>
#include <string>
#include <sys/types.h>
#include <vector>

namespace kvmport {

/// Where this host shows itself.
struct HostRoots {
  std::filesystem::path sys = "/sys";
  std::filesystem::path proc = "/proc";
};

/// A partition of a disk as the running kernel sees it.
struct HostPartition {
  dev_t device = 0;
  Range range; ///< bytes of the disk
};

/// The whole disks at the bottom below `device`, sorted: itself when it is one. Empty when sysfs doesn't know it.
std::vector<dev_t> bottom_disks(const HostRoots& host, dev_t device);
/// The partitions of a whole disk that the kernel uses, by their start.
std::vector<HostPartition> partitions_of(const HostRoots& host, dev_t disk);
/// "sda", "dm-0"; empty when sysfs doesn't know it.
std::string kernel_name(const HostRoots& host, dev_t device);
/// "MAJOR:MINOR" as sysfs and mountinfo write it; nothing for other text.
std::optional<dev_t> parse_device(std::string_view text);
std::string device_text(dev_t device);
/// Its driver takes requests, not bios as pmem and the head of an NVMe multipath do.
bool takes_requests(const HostRoots& host, dev_t disk);

} // namespace kvmport
