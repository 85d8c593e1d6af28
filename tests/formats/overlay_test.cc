// SPDX-License-Identifier: Apache-2.0
#include "formats/overlay.h"
#include "formats/readers.h"
#include "tests/formats/fixtures.h"

#include <sys/stat.h>
#include <thread>

namespace kvmport::test {
namespace {

constexpr std::uint64_t no_cap = std::uint64_t{1} << 40;

/// A raw image in memory.
struct MemoryDisk {
  explicit MemoryDisk(Bytes content)
      : bytes(std::move(content)), image(open_raw(SourceFile::from_memory(bytes, "memory"), OpenContext{})) {}
  Bytes bytes;
  std::unique_ptr<Image> image;
};

TEST(Overlay, ReadsThroughUntilWritten) {
  const TempDir dir;
  MemoryDisk disk(random_bytes(100000, 1));
  Overlay overlay(*disk.image, dir.path(), no_cap);
  EXPECT_EQ(overlay.size(), 100000U);
  EXPECT_EQ(read_all(overlay, 0, 100000), disk.bytes);
  EXPECT_TRUE(overlay.dirty().empty());
  EXPECT_EQ(overlay.used(), 0U);

  overlay.write(5000, as_bytes("hello"));
  Bytes expected = disk.bytes;
  std::memcpy(expected.data() + 5000, "hello", 5);
  EXPECT_EQ(read_all(overlay, 0, 100000), expected);
  EXPECT_EQ(overlay.dirty(), (std::vector<Extent>{{{4096, 4096}, ExtentKind::data}}));
  EXPECT_EQ(overlay.used(), 4096U);
}

TEST(Overlay, ClearForgetsEveryWrite) {
  const TempDir dir;
  MemoryDisk disk(random_bytes(100000, 1));
  Overlay overlay(*disk.image, dir.path(), 8192);
  for (int i = 0; i < 3; i++) {
    overlay.write(5000, as_bytes("hello"));
    overlay.zero({40960, 4096});
    overlay.clear();
    EXPECT_EQ(read_all(overlay, 0, 100000), disk.bytes);
    EXPECT_TRUE(overlay.dirty().empty());
    EXPECT_EQ(overlay.used(), 0U);
  }
  overlay.write(0, Bytes(8192, std::byte{1})); // all of the room is there again
  EXPECT_EQ(read_all(overlay, 8192, 4096), Bytes(disk.bytes.begin() + 8192, disk.bytes.begin() + 12288));
}

TEST(Overlay, EveryMixOfWritesAndZerosMatchesAModel) {
  const TempDir dir;
  for (const std::size_t size : {std::size_t{4096}, std::size_t{5000}, std::size_t{300001}, std::size_t{262144}}) {
    MemoryDisk disk(random_bytes(size, 2));
    Overlay overlay(*disk.image, dir.path(), no_cap);
    Bytes model = disk.bytes;
    std::mt19937_64 random(size);
    for (int i = 0; i < 300; i++) {
      const std::size_t offset = random() % size;
      const std::size_t length = std::min<std::size_t>(size - offset, random() % (i % 3 == 0 ? 20000 : 700));
      if (random() % 3 != 0) {
        const Bytes data = random_bytes(length, static_cast<unsigned>(i));
        overlay.write(offset, data);
        std::copy(data.begin(), data.end(), model.begin() + static_cast<std::ptrdiff_t>(offset));
      } else {
        overlay.zero({offset, length});
        std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(offset), length, std::byte{0});
      }
      const std::size_t at = random() % size, n = random() % (size - at + 1);
      ASSERT_EQ(read_all(overlay, at, n), Bytes(model.begin() + static_cast<std::ptrdiff_t>(at),
                                                model.begin() + static_cast<std::ptrdiff_t>(at + n)))
          << "step " << i;
    }
    ASSERT_EQ(read_all(overlay, 0, size), model);
    // Outside of dirty() nothing differs from the base; zero extents are zero.
    std::uint64_t at = 0, data_bytes = 0;
    for (const Extent& extent : overlay.dirty()) {
      ASSERT_EQ(std::memcmp(model.data() + at, disk.bytes.data() + at, extent.range.offset - at), 0);
      at = extent.range.end();
      if (extent.kind == ExtentKind::zero)
        ASSERT_TRUE(is_zero(ByteSpan(model).subspan(extent.range.offset, extent.range.length)));
      else
        data_bytes += round_up(extent.range.length, Overlay::granule);
    }
    ASSERT_EQ(std::memcmp(model.data() + at, disk.bytes.data() + at, size - at), 0);
    ASSERT_EQ(overlay.used(), data_bytes);
  }
}

TEST(Overlay, ZeroGivesItsSpaceBack) {
  const TempDir dir;
  MemoryDisk disk(random_bytes(1 << 20, 3));
  Overlay overlay(*disk.image, dir.path(), no_cap);
  overlay.write(0, random_bytes(1 << 20, 4));
  EXPECT_EQ(overlay.used(), 1U << 20);
  overlay.zero({0, 1 << 20});
  EXPECT_EQ(overlay.used(), 0U);
  EXPECT_TRUE(is_zero(read_all(overlay, 0, 1 << 20)));
  EXPECT_EQ(overlay.dirty(), (std::vector<Extent>{{{0, 1 << 20}, ExtentKind::zero}}));
}

TEST(Overlay, RefusesMoreThanItsCapAndKeepsWhatItHas) {
  const TempDir dir;
  MemoryDisk disk(Bytes(1 << 20));
  Overlay overlay(*disk.image, dir.path(), 8192);
  overlay.write(0, Bytes(8192, std::byte{1}));
  expect_error("OVERLAY_FULL", [&] { overlay.write(100000, as_bytes("x")); });
  EXPECT_EQ(overlay.used(), 8192U);
  overlay.write(10, as_bytes("again in the same place"));
  overlay.zero({0, 4096});
  overlay.write(100000, as_bytes("x"));
  EXPECT_EQ(overlay.used(), 8192U);
}

TEST(Overlay, RefusesAccessPastTheEnd) {
  const TempDir dir;
  MemoryDisk disk(Bytes(5000));
  Overlay overlay(*disk.image, dir.path(), no_cap);
  Bytes buffer(10);
  expect_error("OUT_OF_RANGE", [&] { overlay.read(4995, buffer); });
  expect_error("OUT_OF_RANGE", [&] { overlay.write(5000, as_bytes("x")); });
  expect_error("OUT_OF_RANGE", [&] { overlay.zero({1, ~std::uint64_t{0}}); });
}

TEST(Overlay, LiesOverAnotherOverlay) {
  const TempDir dir;
  MemoryDisk disk(random_bytes(64 << 10, 5));
  Overlay below(*disk.image, dir.path(), no_cap);
  below.write(4096, Bytes(4096, std::byte{7}));
  Overlay above(below, dir.path(), no_cap);
  above.write(4100, as_bytes("top"));
  EXPECT_EQ(read_all(above, 4096, 8), (Bytes{std::byte{7}, std::byte{7}, std::byte{7}, std::byte{7}, std::byte{'t'},
                                             std::byte{'o'}, std::byte{'p'}, std::byte{7}}));
  EXPECT_EQ(read_all(below, 4096, 4096), Bytes(4096, std::byte{7}));
}

TEST(Overlay, ImportsTheChangesOfAnother) {
  const TempDir dir;
  MemoryDisk disk(random_bytes(3000000, 6));
  Overlay from(*disk.image, dir.path(), no_cap), to(*disk.image, dir.path(), no_cap);
  from.write(2999990, as_bytes("0123456789"));
  from.write(1000, random_bytes(2000000, 7));
  from.zero({500000, 300000});
  import_changes(from, to);
  EXPECT_EQ(read_all(to, 0, 3000000), read_all(from, 0, 3000000));
  EXPECT_EQ(to.dirty(), from.dirty());
  MemoryDisk other(Bytes(100));
  Overlay small(*other.image, dir.path(), no_cap);
  expect_error("SIZE_MISMATCH", [&] { import_changes(from, small); });
}

TEST(Overlay, ExtentsMergeBothLayers) {
  const TempDir dir;
  const auto path = dir.path() / "sparse";
  const UniqueFd fd = create_new(path);
  ASSERT_EQ(::ftruncate(fd.get(), 8 << 20), 0);
  const auto image = open_raw(SourceFile::open(path), OpenContext{});
  Overlay overlay(*image, dir.path(), no_cap);
  overlay.write(1 << 20, Bytes(8192, std::byte{1}));
  overlay.zero({4 << 20, 4096});
  EXPECT_EQ(overlay.extents({0, 8 << 20}),
            (std::vector<Extent>{{{0, 1 << 20}, ExtentKind::unallocated},
                                 {{1 << 20, 8192}, ExtentKind::data},
                                 {{(1 << 20) + 8192, (3 << 20) - 8192}, ExtentKind::unallocated},
                                 {{4 << 20, 4096}, ExtentKind::zero},
                                 {{(4 << 20) + 4096, (4 << 20) - 4096}, ExtentKind::unallocated}}));
}

TEST(Overlay, HugeDisksCostLittle) {
  const TempDir dir;
  const auto path = dir.path() / "huge";
  const UniqueFd fd = create_new(path);
  if (::ftruncate(fd.get(), off_t{8} << 40) != 0)
    GTEST_SKIP() << "this file system can't hold a sparse file of 8 TiB";
  const auto image = open_raw(SourceFile::open(path), OpenContext{});
  Overlay overlay(*image, dir.path(), no_cap);
  overlay.write((std::uint64_t{8} << 40) - 5, as_bytes("tail!"));
  overlay.zero({std::uint64_t{3} << 40, std::uint64_t{1} << 30});
  EXPECT_EQ(overlay.dirty(), (std::vector<Extent>{{{std::uint64_t{3} << 40, std::uint64_t{1} << 30}, ExtentKind::zero},
                                                  {{(std::uint64_t{8} << 40) - 4096, 4096}, ExtentKind::data}}));
  EXPECT_EQ(as_text(read_all(overlay, (std::uint64_t{8} << 40) - 5, 5)), "tail!");
}

TEST(Overlay, ThreadsThatShareGranulesDoNotLoseWrites) {
  const TempDir dir;
  MemoryDisk disk(random_bytes(1 << 20, 8));
  Overlay overlay(*disk.image, dir.path(), no_cap);
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; t++)
    threads.emplace_back([&overlay, t] {
      for (std::size_t at = t * 100; at + 100 <= (1 << 20); at += 400) // 400 does not divide a granule
        overlay.write(at, Bytes(100, static_cast<std::byte>('a' + t)));
    });
  for (auto& thread : threads)
    thread.join();
  Bytes all = read_all(overlay, 0, 1 << 20);
  for (std::size_t at = 0; at + 400 <= all.size(); at++)
    ASSERT_EQ(all[at], static_cast<std::byte>('a' + at / 100 % 4)) << at;
}

} // namespace
} // namespace kvmport::test
