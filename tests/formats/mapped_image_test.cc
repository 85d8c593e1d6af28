// SPDX-License-Identifier: Apache-2.0
#include "formats/mapped_image.h"
#include "formats/overlay.h"
#include "formats/readers.h"
#include "tests/formats/fixtures.h"
#include "tests/support/tempdir.h"

#include <gtest/gtest.h>

namespace kvmport::test {
namespace {

constexpr std::uint64_t kib = 1024;

/// Three disks of 64 KiB below overlays; byte i of disk d is told by place().
class Mapped : public testing::Test {
 protected:
  Mapped() {
    for (unsigned d = 0; d < 3; d++) {
      Bytes bytes(64 * kib);
      for (std::size_t i = 0; i < bytes.size(); i++)
        bytes[i] = at(d, i);
      const auto path = dir_.path() / std::to_string(d);
      write_file_durably(path, as_text(bytes));
      images_.push_back(open_image(path, {.format = "raw", .allowed_directories = {}, .window = {}}));
      disks_.push_back(std::make_unique<Overlay>(*images_.back(), dir_.path(), 1U << 20));
    }
  }
  static std::byte at(unsigned disk, std::uint64_t offset) {
    return static_cast<std::byte>(disk * 83 + offset / 512 * 7 + offset % 251);
  }
  static std::string as_text(const Bytes& bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }
  MapTarget target(unsigned disk, std::uint64_t offset) { return {disks_[disk].get(), disks_[disk].get(), offset}; }
  Bytes all(const Image& image) {
    Bytes bytes(image.size());
    image.read(0, bytes);
    return bytes;
  }
  MappedImage mixed() {
    return MappedImage(
        {{MapPiece::Kind::striped, 10 * kib, 0, {target(0, 3 * kib)}},
         {MapPiece::Kind::striped, 24 * kib, 4 * kib, {target(1, kib), target(2, 0), target(0, 32 * kib)}},
         {MapPiece::Kind::mirrored, 8 * kib, 0, {target(1, 40 * kib), target(2, 48 * kib)}}});
  }

  TempDir dir_;
  std::vector<std::unique_ptr<Image>> images_;
  std::vector<std::unique_ptr<Overlay>> disks_;
};

TEST_F(Mapped, ReadsEveryByteFromWhereItLies) {
  const MappedImage image = mixed();
  ASSERT_EQ(image.size(), 42 * kib);
  const Bytes bytes = all(image);
  const std::uint64_t starts[] = {kib, 0, 32 * kib};
  const unsigned disks[] = {1, 2, 0};
  for (std::uint64_t i = 0; i < bytes.size(); i++) {
    std::byte expected;
    if (i < 10 * kib) {
      expected = at(0, 3 * kib + i);
    } else if (i < 34 * kib) {
      const std::uint64_t in = i - 10 * kib, chunk = in / (4 * kib);
      expected = at(disks[chunk % 3], starts[chunk % 3] + chunk / 3 * 4 * kib + in % (4 * kib));
    } else {
      expected = at(1, 40 * kib + i - 34 * kib);
    }
    ASSERT_EQ(bytes[i], expected) << i;
  }
  for (const Range part : {Range{9 * kib + 5, 700}, Range{13 * kib, 9 * kib + 1}, Range{33 * kib + 1, 2 * kib}}) {
    Bytes some(part.length);
    image.read(part.offset, some);
    EXPECT_TRUE(std::equal(some.begin(), some.end(), bytes.begin() + static_cast<std::ptrdiff_t>(part.offset)));
  }
}

TEST_F(Mapped, WritesToEveryMirrorAndNowhereElse) {
  MappedImage image = mixed();
  std::vector<Bytes> before;
  for (const auto& disk : disks_)
    before.push_back(all(*disk));
  const Bytes data(3 * kib, std::byte{0xee});
  image.write(33 * kib, data); // the last stripe's end and the mirrors
  Bytes expected = all(image);
  EXPECT_TRUE(std::all_of(expected.begin() + 33 * kib, expected.begin() + 36 * kib,
                          [](std::byte b) { return b == std::byte{0xee}; }));
  const auto put = [&](unsigned disk, std::uint64_t offset, std::uint64_t length) {
    std::fill_n(before[disk].begin() + static_cast<std::ptrdiff_t>(offset), length, std::byte{0xee});
  };
  put(0, 32 * kib + 7 * kib, kib);
  put(1, 40 * kib, 2 * kib);
  put(2, 48 * kib, 2 * kib);
  for (unsigned d = 0; d < 3; d++)
    EXPECT_EQ(all(*disks_[d]), before[d]) << d;
}

TEST_F(Mapped, CoversItselfWithExtents) {
  const MappedImage image = mixed();
  disks_[2]->zero({0, 4 * kib});
  std::uint64_t at = 0;
  bool zero = false;
  for (const Extent& extent : image.extents({0, image.size()})) {
    EXPECT_EQ(extent.range.offset, at);
    at = extent.range.end();
    zero = zero || extent.kind != ExtentKind::data;
  }
  EXPECT_EQ(at, image.size());
  EXPECT_TRUE(zero);
}

TEST_F(Mapped, RefusesWhatCantBe) {
  using Pieces = std::vector<MapPiece>;
  for (const Pieces& pieces :
       {Pieces{{MapPiece::Kind::striped, 65 * kib, 0, {target(0, 0)}}},
        Pieces{{MapPiece::Kind::striped, kib, 0, {target(0, UINT64_MAX)}}},
        Pieces{{MapPiece::Kind::striped, 0, 0, {target(0, 0)}}}, Pieces{{MapPiece::Kind::striped, kib, 0, {}}},
        Pieces{{MapPiece::Kind::striped, 12 * kib, 5 * kib, {target(0, 0), target(1, 0)}}},
        Pieces{{MapPiece::Kind::striped, 12 * kib, 0, {target(0, 0), target(1, 0)}}}})
    EXPECT_THROW(MappedImage{pieces}, Error);
  MappedImage image = mixed();
  Bytes bytes(2);
  EXPECT_THROW(image.read(42 * kib - 1, bytes), Error);
  EXPECT_THROW(image.write(42 * kib - 1, bytes), Error);
  MappedImage read_only({{MapPiece::Kind::striped, kib, 0, {{disks_[0].get(), nullptr, 0}}}});
  EXPECT_THROW(read_only.write(0, bytes), Error);
}

} // namespace
} // namespace kvmport::test
