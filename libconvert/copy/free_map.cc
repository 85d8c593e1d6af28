// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/free_map.h"

#include "formats/partitions.h"

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

Part::Part(const Image& image, Range range) : image_(image), range_(range) {
  if (range.offset > image.size() || range.length > image.size() - range.offset)
    throw Error("IMAGE_CORRUPT", "a filesystem lies outside of its disk");
}

void Part::read(std::uint64_t offset, std::span<std::byte> out) const {
  require(holds(offset, out.size()), "its tables lie outside of it");
  image_.read(range_.offset + offset, out);
}

Bytes Part::read(std::uint64_t offset, std::size_t length) const {
  require(holds(offset, length), "its tables lie outside of it");
  Bytes bytes(length);
  image_.read(range_.offset + offset, bytes);
  return bytes;
}

void Part::require_content([[maybe_unused]] std::string_view type) const {
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION // it is slow, and checks checksums
  const std::string found = probe_content(image_, range_).type;
  require(type.empty() ? found.empty() : found.starts_with(type), "there are signatures of something else as well");
#endif
}

std::uint64_t find_bit(ByteSpan bits, std::uint64_t i, std::uint64_t limit, bool value) {
  const std::byte other = value ? std::byte{0} : std::byte{0xff};
  while (i < limit) {
    const std::byte eight = bits[i / 8];
    if (i % 8 == 0 && eight == other)
      i += 8;
    else if (((std::to_integer<unsigned>(eight) >> (i % 8) & 1) != 0) == value)
      return i;
    else
      i++;
  }
  return limit;
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
