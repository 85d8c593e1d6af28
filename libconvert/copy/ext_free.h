// SPDX-License-Identifier: Apache-2.0
// The free blocks of one ext2, ext3 or ext4 filesystem, if its map can be trusted: unmounted cleanly, journal empty, no
// unknown feature, all checksums and counts right. Layout: Linux, Documentation/filesystems/ext4.
#pragma once

#include "libconvert/copy/free_map.h"

namespace kvmport {

FreeBlocks read_ext_free(const Image& image, Range range);
/// While the kernel holds it still (FIFREEZE): files that are deleted but still open are no doubt then, their blocks
/// are in use in the map until they are closed.
FreeBlocks read_frozen_ext_free(const Image& image, Range range);

} // namespace kvmport
