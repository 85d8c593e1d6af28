// SPDX-License-Identifier: Apache-2.0
// DiskPartition tables of a disk image: MBR with logical partitions, and GPT (UEFI specification 2.10, section 5:
// header and array checked by CRC32, the backup at the end used when the first is damaged). Nothing is read outside of
// the disk; at most 256 partitions.
#pragma once

#include "formats/image.h"

#include <string>
#include <string_view>
#include <vector>

namespace kvmport {

struct DiskPartition {
  unsigned number = 0;     ///< as Linux numbers it: 1…; logical partitions from 5
  Range range;             ///< bytes of the disk
  std::string type;        ///< GPT: type GUID, lower case; MBR: "0x83"
  std::string uuid, label; ///< PARTUUID and PARTLABEL as blkid(8) shows them
};

struct DiskPartitions {
  std::string kind; ///< "gpt", "dos"; empty: no table
  std::vector<DiskPartition> partitions;
  std::vector<std::string> notes; ///< damage that was seen
};

/// Reads the table. A disk without one, or with a damaged one, gives an empty kind (and a note). Partitions that lie
/// outside of the disk, are empty or are extended containers are left out. Errors only when the image can't be read.
DiskPartitions read_partitions(const Image& disk, std::uint32_t logical_sector = 512);

/// Whether DiskPartition::type is that of EFI system partitions, or of those in which GRUB for BIOS lies on GPT.
bool is_efi_system_type(std::string_view type);
bool is_bios_boot_type(std::string_view type);

/// Whether BIOS firmware finds something to start: an MBR with code in it (of any kind).
bool has_boot_code(const Image& disk);

/// Whether a disk was made for UEFI firmware: it has a protective MBR (UEFI specification 2.10, 5.2.3) or an EFI system
/// partition in its MBR (type 0xEF), and no boot code. Only the first 512 bytes are read, whatever the sectors' size.
bool made_for_uefi(const Image& disk);

/// What blkid(8) calls the content of a range.
struct Content {
  std::string type; ///< "ext4", "xfs", "swap", "swsuspend", "vfat", "crypto_LUKS", "LVM2_member", "linux_raid_member",
                    ///< …; empty: unknown
  std::string uuid, label;
};
/// Probes with libblkid on a private copy of the range's first and last mebibytes.
Content probe_content(const Image& disk, Range range);

} // namespace kvmport
