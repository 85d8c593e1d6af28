// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/capture_plan.h"

#include "libconvert/copy/copy.h"
#include "libconvert/copy/planner.h"

#include <algorithm>
#include <fmt/format.h>
#include <iterator>

namespace kvmport {
namespace {

/// What a copy of `image` without `skip` has to read.
std::vector<Range> used_ranges(const Image& image, const std::vector<Range>& skip) {
  std::vector<Range> used;
  const ChunkRanges none;
  Planner planner(image, p2v_chunk_size, skip, none);
  for (CopyTask task; planner.next(task);)
    for (const Range& range : task.data) {
      if (!used.empty() && used.back().end() == range.offset)
        used.back().length += range.length;
      else
        used.push_back(range);
    }
  return used;
}

std::uint64_t overlap(const Range& a, const Range& b) {
  const std::uint64_t from = std::max(a.offset, b.offset), to = std::min(a.end(), b.end());
  return to > from ? to - from : 0;
}

} // namespace

CapturePlan::CapturePlan(const Image& image) : image_(image), size_(image.size()) {
  if (size_ < 512 || size_ % 512 != 0 || size_ > largest_p2v_disk)
    throw Error("SIZE_MISMATCH", fmt::format("a disk of {} bytes can't be captured", size_),
                "it is no whole number of sectors");
  manifest_.size = size_;
  const std::uint64_t count = div_round_up(size_, p2v_chunk_size);
  zero_ = zero_digest(std::min(size_, p2v_chunk_size));
  last_zero_ = zero_digest(size_ - (count - 1) * p2v_chunk_size);
  ours_.resize(count);
  have_.resize(count);
  receiver_has_nothing();
}

CapturePlan::CapturePlan(const Image& image, bool everything) : CapturePlan(image) {
  FreeMap map;
  if (!everything)
    map = find_free_blocks(image);
  manifest_.notes = std::move(map.notes);
  use(used_ranges(image, map.free));
}

std::uint64_t CapturePlan::length_of(std::uint64_t chunk) const {
  return std::min(p2v_chunk_size, size_ - chunk * p2v_chunk_size);
}

std::uint64_t CapturePlan::used_in(std::uint64_t chunk) const {
  const Range place{chunk * p2v_chunk_size, length_of(chunk)};
  std::uint64_t bytes = 0;
  auto at = std::partition_point(used_.begin(), used_.end(), [&](const Range& r) { return r.end() <= place.offset; });
  for (; at != used_.end() && at->offset < place.end(); ++at)
    bytes += overlap(*at, place);
  return bytes;
}

void CapturePlan::receiver_has_nothing() {
  std::fill(have_.begin(), have_.end(), zero_);
  have_.back() = last_zero_;
}

void CapturePlan::receiver_has(const std::vector<ChunkRun>& runs) {
  for (const ChunkRun& run : runs) {
    if (run.first >= have_.size() || run.count > have_.size() - run.first)
      throw Error("PROTOCOL_ERROR", "the receiver has chunks that the disk does not have");
    std::fill_n(have_.begin() + static_cast<std::ptrdiff_t>(run.first), run.count, run.digest);
  }
}

std::optional<Digest> CapturePlan::read_if_needed(std::uint64_t chunk, Bytes& buffer) {
  if (agreed(chunk))
    return std::nullopt;
  const Range place{chunk * p2v_chunk_size, length_of(chunk)};
  auto at = std::partition_point(used_.begin(), used_.end(), [&](const Range& r) { return r.end() <= place.offset; });
  if (at == used_.end() || at->offset >= place.end()) { // nothing of it is used
    ours_[chunk] = chunk + 1 == have_.size() ? last_zero_ : zero_;
    if (*ours_[chunk] == have_[chunk])
      return std::nullopt;
    buffer.assign(place.length, std::byte{0});
    return ours_[chunk];
  }
  buffer.assign(place.length, std::byte{0});
  for (; at != used_.end() && at->offset < place.end(); ++at) {
    const std::uint64_t from = std::max(at->offset, place.offset), to = std::min(at->end(), place.end());
    image_.read(from, std::span(buffer).subspan(from - place.offset, to - from));
  }
  ours_[chunk] = digest_of(buffer);
  return *ours_[chunk] == have_[chunk] ? std::nullopt : ours_[chunk];
}

void CapturePlan::use(const std::vector<Range>& ranges) {
  std::vector<Range> all;
  std::merge(used_.begin(), used_.end(), ranges.begin(), ranges.end(), std::back_inserter(all),
             [](const Range& a, const Range& b) { return a.offset < b.offset; });
  used_.clear();
  for (const Range& range : all)
    if (!used_.empty() && used_.back().end() >= range.offset)
      used_.back().length = std::max(used_.back().end(), range.end()) - used_.back().offset;
    else
      used_.push_back(range);
  manifest_.used = 0;
  for (const Range& range : used_)
    manifest_.used += range.length;
  for (const Range& range : ranges)
    for (std::uint64_t chunk = range.offset / p2v_chunk_size;
         chunk < ours_.size() && chunk * p2v_chunk_size < range.end(); chunk++) {
      note_change(chunk, range);
      ours_[chunk].reset();
    }
}

void CapturePlan::note_change(std::uint64_t chunk, const Range& range) {
  if (agreed(chunk))
    changes_[chunk] = {have_[chunk], {}, 0};
  const auto found = changes_.find(chunk);
  if (found == changes_.end())
    return;
  const Range place{chunk * p2v_chunk_size, length_of(chunk)};
  const std::uint64_t from = std::max(range.offset, place.offset), to = std::min(range.end(), place.end());
  Change& change = found->second;
  change.bytes += to - from;
  if (change.bytes > p2v_chunk_size / 2)
    changes_.erase(found);
  else
    change.ranges.push_back({from, to - from});
}

std::vector<ChunkExtent> CapturePlan::changed(std::uint64_t chunk) const {
  const auto found = changes_.find(chunk);
  if (found == changes_.end() || found->second.from != have_[chunk])
    return {};
  std::vector<Range> ranges = found->second.ranges;
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.offset < b.offset; });
  std::vector<ChunkExtent> extents;
  for (const Range& range : ranges) {
    const auto from = static_cast<std::uint32_t>(range.offset - chunk * p2v_chunk_size);
    const auto to = from + static_cast<std::uint32_t>(range.length);
    if (!extents.empty() && extents.back().offset + extents.back().length >= from)
      extents.back().length = std::max(extents.back().offset + extents.back().length, to) - extents.back().offset;
    else
      extents.push_back({from, to - from});
  }
  return extents;
}

Digest CapturePlan::digest() const {
  std::vector<Digest> digests;
  for (const auto& digest : ours_)
    digests.push_back(digest.value());
  return disk_digest(digests);
}

} // namespace kvmport
