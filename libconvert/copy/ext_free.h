// SPDX-License-Identifier: Apache-2.0
// The free blocks of one ext2, ext3 or ext4 filesystem, if its map can be trusted: unmounted cleanly, journal empty, no
// unknown feature, all checksums and counts right. Layout: Linux, Documentation/filesystems/ext4.
#pragma once

#include "libconvert/copy/free_map.h"

namespace kvmport {

FreeBlocks read_ext_free(const Image& image, Range range);

} // namespace kvmport
