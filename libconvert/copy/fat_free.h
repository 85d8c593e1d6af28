// SPDX-License-Identifier: Apache-2.0
// The free clusters of one FAT12, FAT16 or FAT32 filesystem, if it was unmounted cleanly, its allocation tables agree
// and its boot sector is sound. There is no log: the allocation table itself says which cluster holds a file's bytes.
// Microsoft, "FAT32 File System Specification" 1.03, sections "Boot Sector and BPB", "FAT Type Determination", "FAT
// Data Structure" (clean and error bits of FAT[1]) and "FAT32 FSInfo"; the boot sector's dirty bit: Linux,
// include/uapi/linux/msdos_fs.h (FAT_STATE_DIRTY).
#pragma once

#include "libconvert/copy/free_map.h"

namespace kvmport {

FreeBlocks read_fat_free(const Image& image, Range range);

} // namespace kvmport
