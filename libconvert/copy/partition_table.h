// SPDX-License-Identifier: Apache-2.0
// The partitions of a disk, as far as their table can be trusted: MBR with logical partitions, GPT (UEFI specification
// 2.10, section 5.3), or none, when the whole disk may be one filesystem. A doubtful table has no partitions.
#pragma once

#include "formats/image.h"

#include <string>
#include <vector>

namespace kvmport {

struct Partition {
  std::string name; ///< "partition 2", "the whole disk"
  Range range;      ///< bytes, inside the disk
};

struct PartitionTable {
  std::vector<Partition> partitions; ///< those that may hold a Linux filesystem and overlap no other one
  std::vector<std::string> notes;    ///< why others are missing
};

/// Never throws on what it reads, only on errors of reading.
PartitionTable read_partition_table(const Image& image);

} // namespace kvmport
