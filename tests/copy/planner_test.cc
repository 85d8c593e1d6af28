// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/planner.h"
#include "tests/copy/fixtures.h"

#include <gtest/gtest.h>

namespace kvmport::test {
namespace {

std::vector<Range> random_ranges(std::mt19937& random, std::uint64_t size, std::uint64_t most) {
  std::vector<Range> ranges;
  for (std::uint64_t at = random() % most; at < size;) {
    const std::uint64_t length = std::min<std::uint64_t>(1 + random() % most, size - at);
    ranges.push_back({at, length});
    at += length + 1 + random() % most;
  }
  return ranges;
}

TEST(Planner, EveryByteOnceInOrder) {
  std::mt19937 random(7);
  for (unsigned round = 0; round < 60; round++) {
    const std::uint64_t size = 1 + random() % 300000, chunk = 4096U << (random() % 4);
    const MemoryImage image = MemoryImage::pattern(size, round);
    const std::vector<Range> skip = random_ranges(random, size, 20000);
    const ChunkRanges done = round % 3 == 0 ? ChunkRanges{} : random_ranges(random, div_round_up(size, chunk), 6);

    std::vector<char> wanted(size, 'z'), got(size, '-');
    for (const Extent& extent : image.extents({0, size}))
      if (extent.kind == ExtentKind::data)
        std::fill_n(wanted.begin() + static_cast<std::ptrdiff_t>(extent.range.offset), extent.range.length, 'd');
    for (const Range& range : skip)
      std::fill_n(wanted.begin() + static_cast<std::ptrdiff_t>(range.offset), range.length, 'z');
    for (const Range& range : done)
      for (std::uint64_t i = range.offset * chunk; i < std::min(size, range.end() * chunk); i++)
        wanted[i] = '-';

    Planner planner(image, chunk, skip, done);
    std::uint64_t next = 0;
    for (CopyTask task; planner.next(task);) {
      ASSERT_GE(task.first_chunk, next);
      next = task.first_chunk + task.chunks;
      if (!task.data.empty()) {
        ASSERT_EQ(task.chunks, 1U);
      }
      for (std::uint64_t i = task.first_chunk * chunk; i < std::min(size, next * chunk); i++)
        got.at(i) = 'z';
      for (const Range& range : task.data) {
        ASSERT_GE(range.offset, task.first_chunk * chunk);
        ASSERT_LE(range.end(), std::min(size, next * chunk));
        std::fill_n(got.begin() + static_cast<std::ptrdiff_t>(range.offset), range.length, 'd');
      }
    }
    ASSERT_EQ(got, wanted) << "round " << round;
  }
}

/// A disk of exabytes that holds nothing but its first and its last sector.
class HugeImage final : public Image {
 public:
  std::uint64_t size() const override { return std::uint64_t{1} << 62; }
  ImageInfo info() const override { return {}; }
  std::vector<Extent> extents(Range range) const override {
    std::vector<Extent> list;
    for (std::uint64_t at = range.offset; at < range.end();) {
      const bool data = at < 512 || at >= size() - 512;
      const std::uint64_t end = std::min(range.end(), at < 512 ? 512 : at < size() - 512 ? size() - 512 : size());
      append_extent(list, {{at, end - at}, data ? ExtentKind::data : ExtentKind::unallocated});
      at = end;
    }
    return list;
  }
  void read(std::uint64_t, std::span<std::byte>) const override {}
};

TEST(Planner, HugeEmptyDiskIsFewTasks) {
  const HugeImage image;
  const std::vector<Range> none;
  Planner planner(image, 2U << 20, none, none);
  std::uint64_t tasks = 0, chunks = 0, data = 0;
  for (CopyTask task; planner.next(task); tasks++) {
    chunks += task.chunks;
    for (const Range& range : task.data)
      data += range.length;
  }
  EXPECT_EQ(chunks, image.size() >> 21);
  EXPECT_EQ(data, 1024U);
  EXPECT_LT(tasks, 100U);
}

} // namespace
} // namespace kvmport::test
