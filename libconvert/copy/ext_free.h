// SPDX-License-Identifier: Apache-2.0
// The free blocks of one ext2, ext3 or ext4 filesystem, if its map can be trusted: unmounted cleanly, journal empty, no
// unknown feature, all checksums and counts right. Layout: Linux, Documentation/filesystems/ext4.
#pragma once

#include "formats/image.h"

#include <string>
#include <vector>

namespace kvmport {

struct ExtFree {
  bool recognised = false;
  std::vector<Range> free; ///< bytes of the disk, sorted, merged; empty when the map can't be trusted
  std::string note;        ///< what it is, and why its map is or isn't used
};

/// Ranges shorter than this are not worth skipping.
inline constexpr std::uint64_t shortest_free_range = 64U << 10;

/// Looks at the part `range` of the disk.
ExtFree read_ext_free(const Image& image, Range range);

} // namespace kvmport
