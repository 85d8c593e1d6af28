// SPDX-License-Identifier: Apache-2.0
// Cuts a disk into the tasks of a copy, in order: one chunk with data each, or a run of chunks that hold none. Asks the
// image for its extents window by window, so that neither a huge disk nor a fragmented one needs much memory.
#pragma once

#include "formats/image.h"

#include <deque>
#include <vector>

namespace kvmport {

/// Chunks that need not be copied, as ranges of chunk numbers: sorted, not overlapping.
using ChunkRanges = std::vector<Range>;

/// Part of the work; `chunks` is 1 when there is data.
struct CopyTask {
  std::uint64_t first_chunk = 0, chunks = 0;
  std::vector<Range> data;   ///< what must be read, in order; everything else in the chunks is zero
  std::uint64_t skipped = 0; ///< bytes that hold data but stand in the skip list
};

/// Not safe from several threads.
class Planner {
 public:
  /// `skip` and `done` are sorted; both are borrowed.
  Planner(const Image& image, std::uint64_t chunk_size, const std::vector<Range>& skip, const ChunkRanges& done);

  /// False when nothing is left.
  bool next(CopyTask& task);

 private:
  bool fetch();
  void add_data(CopyTask& task, Range range);
  Range chunk_range(std::uint64_t chunk) const;

  const Image& image_;
  const std::uint64_t chunk_size_, size_;
  const std::vector<Range>& skip_;
  const ChunkRanges& done_;
  std::size_t skip_at_ = 0, done_at_ = 0;
  std::uint64_t window_;    ///< bytes to ask for next, a multiple of the chunk size
  std::uint64_t at_ = 0;    ///< next byte to plan, a multiple of the chunk size
  std::uint64_t known_ = 0; ///< extents are known up to here
  std::deque<Range> data_;  ///< data ranges between at_ and known_
};

} // namespace kvmport
