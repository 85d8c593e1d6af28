// SPDX-License-Identifier: Apache-2.0
// The free blocks of one XFS filesystem (versions 4 and 5) on one device, if its log ends in an unmount record and both
// free-space trees of each allocation group, the group's headers and the superblock agree. "XFS Algorithms & Data
// Structures", 3rd edition, chapter "Allocation Groups" (superblocks, AG free space management, AG free space B+trees,
// AG free list) and "Self-Describing Metadata"; feature bits and limits: Linux, fs/xfs/libxfs/xfs_format.h.
#pragma once

#include "libconvert/copy/free_map.h"

namespace kvmport {

FreeBlocks read_xfs_free(const Image& image, Range range);
/// While the kernel holds it still (FIFREEZE): it has written back all that is in the log (fs/xfs/xfs_log.c,
/// xfs_log_quiesce), but dirties the log once more, so that a crash leads to a recovery; and its superblock's count
/// lacks what is reserved.
FreeBlocks read_frozen_xfs_free(const Image& image, Range range);

} // namespace kvmport
