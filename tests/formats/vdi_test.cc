// SPDX-License-Identifier: Apache-2.0
// VDI against qemu-img's writer, and VirtualBox's variants that qemu-img can't write.
#include "tests/formats/editing.h"

#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

class Vdi : public testing::Test {
 protected:
  TempDir dir_;
  fs::path raw_ = dir_.path() / "disk.raw", image_ = dir_.path() / "disk.vdi";
};

struct Variant {
  const char* name;
  std::uint64_t size;
  const char* options;
};

class VdiFromQemu : public Vdi, public testing::WithParamInterface<Variant> {};

TEST_P(VdiFromQemu, ReadsWhatWasWritten) {
  make_pattern_file(raw_, GetParam().size, 21);
  qemu_convert(raw_, image_, "vdi", GetParam().options);
  EXPECT_EQ(probe_format(image_), "vdi");
  const auto disk = open_image(image_);
  expect_same_as_raw(*disk, raw_);
  if (GetParam().size > 512)
    expect_verbatim(*disk);
}

INSTANTIATE_TEST_SUITE_P(Variants, VdiFromQemu,
                         testing::Values(Variant{"dynamic", 20U << 20, "static=off"},
                                         Variant{"odd", (20U << 20) + 3 * 512, "static=off"},
                                         Variant{"tiny", 512, "static=off"}, Variant{"fixed", 9U << 20, "static=on"}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_F(Vdi, HugeDisksReadBack) {
  qemu_create(image_, "vdi", "5T");
  qemu_io(image_, "vdi", {"write -P 17 4500G 65536", "write -P 18 5497558138368 512", "write -P 19 0 1M"});
  const auto disk = open_image(image_);
  ASSERT_EQ(disk->size(), 5U * (std::uint64_t{1} << 40));
  expect_fill(*disk, std::uint64_t{4500} << 30, 65536, 17);
  expect_fill(*disk, 5497558138368, 512, 18);
  expect_fill(*disk, 0, 1U << 20, 19);
  const auto extents = disk->extents({0, disk->size()});
  ASSERT_EQ(extents.size(), 5U);
  EXPECT_EQ(extents[1].kind, ExtentKind::unallocated);
}

TEST_F(Vdi, CutFilesAreRefused) {
  make_pattern_file(raw_, 12U << 20, 22);
  qemu_convert(raw_, image_, "vdi");
  expect_cuts_refused(image_, dir_.path() / "cut.vdi");
}

/// A VDI as VirtualBox may write it: `block` bytes a block, each behind `extra` bytes of the writer's own.
Bytes make_vdi(std::uint32_t block, std::uint32_t extra, std::uint64_t disk_size,
               const std::vector<std::uint32_t>& map) {
  const std::uint32_t data = 4096;
  std::uint32_t stored = 0;
  for (const std::uint32_t entry : map)
    stored += entry < 0xfffffffe ? 1 : 0;
  Bytes file(data + std::uint64_t{stored} * (block + extra), std::byte{0xee});
  std::fill_n(file.begin(), data, std::byte{0});
  store_le<std::uint32_t>(file, 64, 0xbeda107f);
  store_le<std::uint32_t>(file, 68, 0x00010001);
  store_le<std::uint32_t>(file, 72, 400);
  store_le<std::uint32_t>(file, 76, 1);
  store_le<std::uint32_t>(file, 340, 512);
  store_le<std::uint32_t>(file, 344, data);
  store_le<std::uint32_t>(file, 360, 512);
  store_le<std::uint64_t>(file, 368, disk_size);
  store_le<std::uint32_t>(file, 376, block);
  store_le<std::uint32_t>(file, 380, extra);
  store_le<std::uint32_t>(file, 384, static_cast<std::uint32_t>(map.size()));
  store_le<std::uint32_t>(file, 388, stored);
  for (std::size_t i = 0; i < map.size(); i++)
    store_le<std::uint32_t>(file, 512 + i * 4, map[i]);
  for (std::uint32_t i = 0; i < stored; i++)
    std::fill_n(file.begin() + data + std::uint64_t{i} * (block + extra) + extra, block, std::byte(i + 1));
  return file;
}

TEST_F(Vdi, BlocksOfAnySizeWithExtraDataInAnyOrder) {
  for (const std::uint32_t block : {4096U, 65536U, 4U << 20})
    for (const std::uint32_t extra : {0U, 512U}) {
      SCOPED_TRACE(std::to_string(block) + "+" + std::to_string(extra));
      save_file(image_, make_vdi(block, extra, std::uint64_t{block} * 5, {1, 0xffffffff, 0, 0xfffffffe, 2}));
      const auto disk = open_image(image_);
      ASSERT_EQ(disk->size(), std::uint64_t{block} * 5);
      expect_fill(*disk, 0, block, 2);
      expect_fill(*disk, block, block, 0);
      expect_fill(*disk, std::uint64_t{block} * 2, block, 1);
      expect_fill(*disk, std::uint64_t{block} * 3, block, 0);
      expect_fill(*disk, std::uint64_t{block} * 4, block, 3);
      const std::vector<Extent> expected{{{0, block}, ExtentKind::data},
                                         {{block, block}, ExtentKind::unallocated},
                                         {{std::uint64_t{block} * 2, block}, ExtentKind::data},
                                         {{std::uint64_t{block} * 3, block}, ExtentKind::zero},
                                         {{std::uint64_t{block} * 4, block}, ExtentKind::data}};
      EXPECT_EQ(disk->extents({0, disk->size()}), expected);
    }
}

TEST_F(Vdi, ASizeThatIsNoMultipleOfASectorIsRoundedUp) {
  save_file(image_, make_vdi(4096, 0, 4097, {0, 1}));
  const auto disk = open_image(image_);
  EXPECT_EQ(disk->size(), 4608U);
  EXPECT_EQ(disk->info().notes.size(), 1U);
}

TEST_F(Vdi, HeadersThatLieAreRefused) {
  const Bytes good = make_vdi(4096, 0, 4096 * 3, {0, 1, 2});
  struct Lie {
    const char* what;
    std::size_t offset;
    std::uint32_t value;
    const char* code;
  };
  for (const Lie& lie :
       {Lie{"major version", 68, 0x00020001, "FORMAT_UNSUPPORTED"}, Lie{"undo disk", 76, 3, "FORMAT_UNSUPPORTED"},
        Lie{"differencing disk", 76, 4, "FORMAT_UNSUPPORTED"}, Lie{"type", 76, 9, "IMAGE_CORRUPT"},
        Lie{"map inside the header", 340, 64, "IMAGE_CORRUPT"}, Lie{"map over the data", 340, 4092, "IMAGE_CORRUPT"},
        Lie{"data past the end", 344, 0x7fffffff, "DISK_TRUNCATED"},
        Lie{"sector size", 360, 4096, "FORMAT_UNSUPPORTED"}, Lie{"size", 368, 0x7fffffff, "IMAGE_CORRUPT"},
        Lie{"block size 0", 376, 0, "IMAGE_CORRUPT"}, Lie{"block size no power of two", 376, 4095, "IMAGE_CORRUPT"},
        Lie{"extra data", 380, 0xffffffff, "IMAGE_CORRUPT"}, Lie{"blocks", 384, 0xffffffff, "IMAGE_CORRUPT"},
        Lie{"too few blocks", 384, 2, "IMAGE_CORRUPT"}, Lie{"block past the end", 516, 77, "DISK_TRUNCATED"},
        Lie{"block used twice", 516, 0, "IMAGE_CORRUPT"}}) {
    SCOPED_TRACE(lie.what);
    Bytes bad = good;
    store_le<std::uint32_t>(bad, lie.offset, lie.value);
    save_file(image_, bad);
    const std::string text = expect_error(lie.code, [&] { read_everything(image_, "vdi"); });
    EXPECT_NE(text.find("disk.vdi"), std::string::npos) << text;
  }
}

} // namespace
} // namespace kvmport::test
