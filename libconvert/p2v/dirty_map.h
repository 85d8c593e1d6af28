// SPDX-License-Identifier: Apache-2.0
// One bit for each piece of a disk: was it written? Not safe from several threads.
#pragma once

#include "formats/image.h"

#include <cstdint>
#include <vector>

namespace kvmport {

class DirtyMap {
 public:
  /// `granularity`: bytes, a power of two.
  DirtyMap(std::uint64_t size, std::uint64_t granularity);
  /// What lies past the end of the disk is left out.
  void mark(Range range);
  /// The marked pieces, merged, and the map is clean.
  std::vector<Range> take();
  std::uint64_t marked_bytes() const { return marked_ * granularity_; }

 private:
  const std::uint64_t size_, granularity_;
  std::vector<std::uint64_t> bits_;
  std::uint64_t marked_ = 0; ///< pieces
};

/// Lists of ranges are sorted and don't overlap. All of `from` that isn't in `minus`:
std::vector<Range> subtracted(const std::vector<Range>& from, const std::vector<Range>& minus);
/// Each range widened to whole pieces, at most to `size`; merged.
std::vector<Range> widened(const std::vector<Range>& list, std::uint64_t granularity, std::uint64_t size);
/// Both, merged.
std::vector<Range> united(std::vector<Range> a, const std::vector<Range>& b);
std::uint64_t bytes_of(const std::vector<Range>& list);

} // namespace kvmport
