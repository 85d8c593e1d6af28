// SPDX-License-Identifier: Apache-2.0
// Space of a partitioned disk that belongs to no partition. Much may lie there that no table names: boot loaders before
// the first partition (GRUB's core image), GPTs at both ends, extended boot records, the database of Windows' dynamic
// disks in the last mebibyte, metadata of RAID controllers and ZFS at the ends. So only large gaps behind the first
// partition count, without their edges, on disks whose partitions are all of well-known kinds, and only when libblkid
// sees nothing in them. UEFI specification 2.10, section 5.3 (GPT); GRUB manual, "BIOS installation"; partition types:
// util-linux, include/pt-mbr-partnames.h and pt-gpt-partnames.h.
#pragma once

#include "formats/partitions.h"
#include "libconvert/copy/free_map.h"

namespace kvmport {

/// Gaps up to this length, and so much at both edges of longer ones, are copied.
inline constexpr std::uint64_t shortest_free_gap = 16U << 20, gap_edge = 1U << 20;

/// `table` is the disk's, without notes.
FreeBlocks read_free_gaps(const Image& disk, const DiskPartitions& table);

} // namespace kvmport
