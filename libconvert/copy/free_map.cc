// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/free_map.h"

#include <ext2fs/ext2fs.h>
#include <fmt/format.h>

namespace kvmport {

void FreeRanges::end_run() {
  if (run_.length >= shortest_free_range && list_.size() < most_free_ranges)
    list_.push_back(run_);
}

void FreeRanges::add(Range range) {
  require(range.offset >= run_.end(), "its free blocks overlap");
  if (range.length == 0)
    return;
  if (run_.length != 0 && run_.end() == range.offset) {
    run_.length += range.length;
  } else {
    end_run();
    run_ = range;
  }
}

std::vector<Range> FreeRanges::take() {
  end_run();
  run_ = {};
  return std::move(list_);
}

namespace {
std::uint32_t go_on(std::uint32_t state, ByteSpan bytes) {
  return ::ext2fs_crc32c_le(state, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
}
} // namespace

std::uint32_t crc32c(ByteSpan bytes) {
  return ~go_on(~std::uint32_t{0}, bytes);
}

std::uint32_t crc32c_with_hole(ByteSpan bytes, std::size_t hole) {
  detail::check_bounds(bytes.size(), hole, 4);
  constexpr std::byte zeros[4] = {};
  return ~go_on(go_on(go_on(~std::uint32_t{0}, bytes.first(hole)), zeros), bytes.subspan(hole + 4));
}

FreeBlocks judge_free_blocks(const std::string& kind, const std::function<std::vector<Range>()>& read) {
  FreeBlocks result;
  result.recognised = true;
  try {
    result.free = read();
    std::uint64_t bytes = 0;
    for (const Range& free : result.free)
      bytes += free.length;
    result.note = fmt::format("clean {}: {} MiB of free blocks are not copied", kind, bytes >> 20);
  } catch (const Doubt& doubt) {
    result.free.clear();
    result.note = kind + ", copied whole: " + doubt.why;
    result.hibernated = doubt.hibernated;
  }
  return result;
}

void add_remark(FreeBlocks& blocks, const std::string& remark) {
  if (!blocks.free.empty())
    blocks.note += " (" + remark + ")";
}

} // namespace kvmport
