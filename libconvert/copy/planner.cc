// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/planner.h"

#include <algorithm>

namespace kvmport {
namespace {

constexpr std::uint64_t first_window = 64U << 20;
constexpr std::size_t few_extents = 256, many_extents = 16384;

} // namespace

Planner::Planner(const Image& image, std::uint64_t chunk_size, const std::vector<Range>& skip, const ChunkRanges& done)
    : image_(image), chunk_size_(chunk_size), size_(image.size()), skip_(skip), done_(done),
      window_(round_up(first_window, chunk_size)) {}

Range Planner::chunk_range(std::uint64_t chunk) const {
  const std::uint64_t begin = chunk * chunk_size_;
  return {begin, std::min(chunk_size_, size_ - begin)};
}

/// Learns the extents of the next window. The window grows while the disk is simple, and shrinks where it is not.
bool Planner::fetch() {
  if (known_ == size_)
    return false;
  const std::uint64_t length = std::min(window_, size_ - known_);
  const std::vector<Extent> extents = image_.extents({known_, length});
  for (const Extent& extent : extents)
    if (extent.kind == ExtentKind::data && extent.range.length != 0)
      data_.push_back(extent.range);
  known_ += length;
  if (extents.size() <= few_extents && window_ <= size_)
    window_ *= 2;
  else if (extents.size() > many_extents)
    window_ = std::max(chunk_size_, window_ / 2 / chunk_size_ * chunk_size_);
  return true;
}

/// Adds `range` less what is skipped.
void Planner::add_data(CopyTask& task, Range range) {
  while (skip_at_ < skip_.size() && skip_[skip_at_].end() <= range.offset)
    skip_at_++;
  for (std::size_t i = skip_at_; range.length != 0; i++) {
    if (i == skip_.size() || skip_[i].offset >= range.end()) {
      task.data.push_back(range);
      return;
    }
    if (skip_[i].offset > range.offset)
      task.data.push_back({range.offset, skip_[i].offset - range.offset});
    const std::uint64_t from = std::max(range.offset, skip_[i].offset), to = std::min(range.end(), skip_[i].end());
    task.skipped += to - from;
    range = {to, range.end() - to};
  }
}

bool Planner::next(CopyTask& task) {
  task = {};
  while (at_ < size_) {
    const std::uint64_t chunk = at_ / chunk_size_;
    while (done_at_ < done_.size() && done_[done_at_].end() <= chunk)
      done_at_++;
    const bool done = done_at_ < done_.size() && done_[done_at_].offset <= chunk;
    if (done && task.chunks != 0)
      return true;
    if (at_ == known_ && !fetch())
      break;
    while (!data_.empty() && data_.front().end() <= at_)
      data_.pop_front();
    const Range range = chunk_range(chunk);
    const bool empty = data_.empty() || data_.front().offset >= range.end();
    if (done) {
      at_ = range.end();
      continue;
    }
    if (!empty) {
      if (task.chunks != 0)
        return true; // first the run without data
      for (const Range& data : data_) {
        if (data.offset >= range.end())
          break;
        const std::uint64_t from = std::max(data.offset, range.offset);
        add_data(task, {from, std::min(data.end(), range.end()) - from});
      }
    }
    if (task.chunks == 0)
      task.first_chunk = chunk;
    task.chunks++;
    at_ = range.end();
    if (!empty)
      return true;
    // Many chunks of nothing at once.
    const std::uint64_t stop = std::min(data_.empty() ? known_ : data_.front().offset, known_);
    const std::uint64_t limit = done_at_ < done_.size() ? done_[done_at_].offset : UINT64_MAX;
    const std::uint64_t more =
        at_ < stop ? std::min((stop - at_) / chunk_size_, limit - std::min(limit, at_ / chunk_size_)) : 0;
    task.chunks += more;
    at_ += more * chunk_size_;
  }
  return task.chunks != 0;
}

} // namespace kvmport
