// SPDX-License-Identifier: Apache-2.0
// The free space of one btrfs filesystem on one device, if nothing waits in its log tree. What its extent tree records
// is used, wherever chunks put it; the rest of each block group and what no chunk covers is free, but for the first
// mebibyte and the superblocks. btrfs writes nothing over what its last commit holds, so that commit is on disk whole;
// older commits (backup roots) may lose blocks that the last one no longer uses, as on any btrfs that is in use.
// Layout: btrfs documentation, "On-disk Format" (Superblock, Node header, Chunk, Extent, Block group); feature bits and
// limits: Linux, include/uapi/linux/btrfs_tree.h and btrfs.h.
#pragma once

#include "libconvert/copy/free_map.h"

namespace kvmport {

FreeBlocks read_btrfs_free(const Image& image, Range range);

} // namespace kvmport
