// SPDX-License-Identifier: Apache-2.0
// VHD against qemu-img's writer; differencing disks and damaged footers made by hand.
#include "tests/formats/editing.h"

#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

class Vhd : public testing::Test {
 protected:
  TempDir dir_;
  fs::path raw_ = dir_.path() / "disk.raw", image_ = dir_.path() / "disk.vhd", scratch_ = dir_.path() / "scratch";
};

struct Variant {
  const char* name;
  std::uint64_t size;
  const char* options;
};

class VhdFromQemu : public Vhd, public testing::WithParamInterface<Variant> {};

TEST_P(VhdFromQemu, ReadsAsQemuReads) {
  make_pattern_file(raw_, GetParam().size, 31);
  qemu_convert(raw_, image_, "vpc", GetParam().options);
  EXPECT_EQ(probe_format(image_), "vhd");
  const auto disk = open_image(image_);
  expect_same_as_qemu(*disk, image_, "vpc", scratch_);
  expect_verbatim(*disk);
}

INSTANTIATE_TEST_SUITE_P(Variants, VhdFromQemu,
                         testing::Values(Variant{"dynamic", 20U << 20, "subformat=dynamic"},
                                         Variant{"dynamic_exact", 20U << 20, "subformat=dynamic,force_size=on"},
                                         Variant{"dynamic_odd", (20U << 20) + 7 * 512,
                                                 "subformat=dynamic,force_size=on"},
                                         Variant{"fixed", 9U << 20, "subformat=fixed"},
                                         Variant{"fixed_odd", (9U << 20) + 512, "subformat=fixed,force_size=on"}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_F(Vhd, LargeDisksReadBack) {
  qemu_create(image_, "vpc", "2040G", "subformat=dynamic,force_size=on");
  qemu_io(image_, "vpc", {"write -P 17 2000G 65536", "write -P 18 2190433319936 512"});
  const auto disk = open_image(image_);
  ASSERT_EQ(disk->size(), std::uint64_t{2040} << 30);
  expect_fill(*disk, std::uint64_t{2000} << 30, 65536, 17);
  expect_fill(*disk, 2190433319936, 512, 18);
  expect_fill(*disk, 2190433319936 + 512, 512, 0);
}

TEST_F(Vhd, CutFilesAreRefused) {
  make_pattern_file(raw_, 12U << 20, 32);
  for (const char* options : {"subformat=dynamic", "subformat=fixed"}) {
    qemu_convert(raw_, image_, "vpc", options);
    expect_cuts_refused(image_, dir_.path() / "cut.vhd");
    fs::remove(image_);
  }
}

// --- made by hand ------------------------------------------------------------------------------------------------

constexpr std::uint32_t block_size = 65536;
constexpr std::size_t bitmap_bytes = 512; // 128 sectors need 16 bytes, padded to a sector

void fix_checksum(Bytes& file, std::size_t offset, std::size_t length, std::size_t field) {
  store_be<std::uint32_t>(file, offset + field, 0);
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i < length; i++)
    sum += std::to_integer<std::uint32_t>(file[offset + i]);
  store_be<std::uint32_t>(file, offset + field, ~sum);
}

struct Block {
  std::uint32_t number;      ///< in the disk
  std::vector<bool> sectors; ///< which are held
  std::byte fill;
};

struct VhdParts {
  std::uint32_t type = 3;
  std::uint64_t size = std::uint64_t{block_size} * 4;
  unsigned id = 1, parent_id = 0;
  std::vector<Block> blocks;
  std::string parent_name;                                 ///< of the header
  std::vector<std::pair<std::string, std::string>> places; ///< locators: code and name
};

Bytes make_vhd(const VhdParts& parts) {
  Bytes file(512 + 1024 + 512);
  const auto put = [&](std::size_t at, std::string_view text) {
    std::copy_n(as_bytes(text).begin(), text.size(), file.begin() + static_cast<std::ptrdiff_t>(at));
  };
  put(0, "conectix");
  store_be<std::uint32_t>(file, 8, 2);
  store_be<std::uint32_t>(file, 12, 0x00010000);
  store_be<std::uint64_t>(file, 16, 512);
  put(28, "win ");
  store_be<std::uint64_t>(file, 40, parts.size);
  store_be<std::uint64_t>(file, 48, parts.size);
  store_be<std::uint32_t>(file, 60, parts.type);
  file[68] = std::byte(parts.id);
  put(512, "cxsparse");
  store_be<std::uint64_t>(file, 512 + 8, ~std::uint64_t{0});
  store_be<std::uint64_t>(file, 512 + 16, 1536);
  store_be<std::uint32_t>(file, 512 + 24, 0x00010000);
  const auto count = static_cast<std::uint32_t>(div_round_up(parts.size, block_size));
  store_be<std::uint32_t>(file, 512 + 28, count);
  store_be<std::uint32_t>(file, 512 + 32, block_size);
  file[512 + 40] = std::byte(parts.parent_id);
  for (std::size_t i = 0; i < parts.parent_name.size(); i++)
    file[512 + 64 + i * 2 + 1] = std::byte(parts.parent_name[i]);
  for (std::uint32_t i = 0; i < 128; i++)
    store_be<std::uint32_t>(file, 1536 + i * 4, 0xffffffff);
  for (std::size_t i = 0; i < parts.places.size(); i++) {
    const auto& [code, name] = parts.places[i];
    const std::size_t entry = 512 + 576 + i * 24, at = file.size();
    put(entry, code);
    store_be<std::uint32_t>(file, entry + 4, 512);
    store_be<std::uint32_t>(file, entry + 8, static_cast<std::uint32_t>(name.size() * 2));
    store_be<std::uint64_t>(file, entry + 16, at);
    file.resize(at + 512);
    for (std::size_t k = 0; k < name.size(); k++)
      file[at + k * 2] = std::byte(name[k]);
  }
  fix_checksum(file, 0, 512, 64);
  fix_checksum(file, 512, 1024, 36);
  for (const Block& block : parts.blocks) {
    const std::size_t at = file.size();
    store_be<std::uint32_t>(file, 1536 + block.number * 4, static_cast<std::uint32_t>(at / 512));
    file.resize(at + bitmap_bytes + block_size, std::byte{0xee}); // what no bit covers must not be seen
    std::fill_n(file.begin() + static_cast<std::ptrdiff_t>(at), bitmap_bytes, std::byte{0});
    for (std::size_t s = 0; s < block.sectors.size(); s++)
      if (block.sectors[s]) {
        file[at + s / 8] |= std::byte(0x80U >> s % 8);
        std::fill_n(file.begin() + static_cast<std::ptrdiff_t>(at + bitmap_bytes + s * 512), 512, block.fill);
      }
  }
  const Bytes footer(file.begin(), file.begin() + 512);
  file.insert(file.end(), footer.begin(), footer.end());
  return file;
}

std::vector<bool> sectors(std::initializer_list<std::pair<unsigned, unsigned>> ranges) {
  std::vector<bool> bits(128);
  for (const auto& [from, to] : ranges)
    std::fill(bits.begin() + from, bits.begin() + to, true);
  return bits;
}

class VhdChain : public Vhd {
 protected:
  void SetUp() override {
    VhdParts base;
    base.blocks = {{0, sectors({{0, 128}}), std::byte{1}}, {2, sectors({{0, 64}}), std::byte{2}}};
    save_file(dir_.path() / "base.vhd", make_vhd(base));
    child_.type = 4;
    child_.id = 2;
    child_.parent_id = 1;
    child_.places = {{"W2ru", ".\\base.vhd"}, {"W2ku", "C:\\VMs\\base.vhd"}};
    // Odd sectors, both ends of a byte of the bitmap, and the block's last sector.
    child_.blocks = {{0, sectors({{3, 9}, {127, 128}}), std::byte{3}}, {3, sectors({{1, 2}}), std::byte{4}}};
  }
  void expect_chain(const Image& disk) {
    expect_fill(disk, 0, 3 * 512, 1);
    expect_fill(disk, 3 * 512, 6 * 512, 3);
    expect_fill(disk, 9 * 512, 118 * 512, 1);
    expect_fill(disk, 127 * 512, 512, 3);
    expect_fill(disk, block_size, block_size, 0);
    expect_fill(disk, 2 * block_size, 64 * 512, 2);
    expect_fill(disk, 2 * block_size + 64 * 512, 64 * 512 + 512, 0);
    expect_fill(disk, 3 * block_size + 512, 512, 4);
    expect_fill(disk, 3 * block_size + 1024, block_size - 1024, 0);
  }
  VhdParts child_;
};

TEST_F(VhdChain, SectorsComeFromTheChildOrItsParent) {
  save_file(image_, make_vhd(child_));
  const auto disk = open_image(image_);
  EXPECT_EQ(disk->info().variant, "differencing");
  EXPECT_EQ(disk->info().files.size(), 2U);
  expect_chain(*disk);
  const std::vector<Extent> expected{{{0, block_size}, ExtentKind::data},
                                     {{block_size, block_size}, ExtentKind::unallocated},
                                     {{2 * block_size, 64 * 512}, ExtentKind::data},
                                     {{2 * block_size + 64 * 512, 64 * 512 + 512}, ExtentKind::unallocated},
                                     {{3 * block_size + 512, 512}, ExtentKind::data},
                                     {{3 * block_size + 1024, block_size - 1024}, ExtentKind::unallocated}};
  EXPECT_EQ(disk->extents({0, disk->size()}), expected);
  expect_verbatim(*disk);
  // The chain goes on: a grandchild that holds one sector.
  VhdParts grandchild = child_;
  grandchild.id = 3;
  grandchild.parent_id = 2;
  grandchild.places = {{"W2ku", "\\\\server\\share\\disk.vhd"}};
  grandchild.blocks = {{1, sectors({{5, 6}}), std::byte{9}}};
  save_file(dir_.path() / "top.vhd", make_vhd(grandchild));
  const auto top = open_image(dir_.path() / "top.vhd");
  expect_fill(*top, block_size + 5 * 512, 512, 9);
  expect_fill(*top, 3 * 512, 6 * 512, 3);
  EXPECT_EQ(top->info().files.size(), 3U);
}

TEST_F(VhdChain, TheParentIsFoundByAnyOfItsNames) {
  using Places = std::vector<std::pair<std::string, std::string>>;
  for (const auto& [places, name] :
       std::vector<std::pair<Places, std::string>>{{{{"W2ru", "base.vhd"}}, ""},
                                                   {{{"W2ku", "D:\\elsewhere\\base.vhd"}}, ""},
                                                   {{{"W2ru", "..\\gone\\base.vhd"}}, ""},
                                                   {{}, "base.vhd"},
                                                   {{{"W2ru", "missing.vhd"}}, "base.vhd"}}) {
    child_.places = places;
    child_.parent_name = name;
    save_file(image_, make_vhd(child_));
    expect_chain(*open_image(image_));
  }
}

TEST_F(VhdChain, WrongAndMissingParentsAreRefused) {
  child_.parent_id = 7;
  save_file(image_, make_vhd(child_));
  expect_error("PARENT_MISMATCH", [&] { open_image(image_); });
  child_.places = {{"W2ru", ".\\gone.vhd"}};
  save_file(image_, make_vhd(child_));
  expect_error("PARENT_MISSING", [&] { open_image(image_); });
  child_.places = {};
  save_file(image_, make_vhd(child_));
  expect_error("PARENT_MISSING", [&] { open_image(image_); });
  child_.places = {{"W2ku", "/etc/passwd"}};
  save_file(image_, make_vhd(child_));
  expect_error("PATH_NOT_ALLOWED", [&] { open_image(image_); });
  child_.places = {{"W2ru", ".\\disk.vhd"}};
  save_file(image_, make_vhd(child_));
  expect_error("CHAIN_LOOP", [&] { open_image(image_); });
}

TEST_F(Vhd, ADynamicDisksClearBitsAreZeros) {
  VhdParts parts;
  parts.blocks = {{1, sectors({{0, 1}, {126, 127}}), std::byte{5}}};
  save_file(image_, make_vhd(parts));
  const auto disk = open_image(image_);
  expect_fill(*disk, block_size, 512, 5);
  expect_fill(*disk, block_size + 512, 125 * 512, 0);
  expect_fill(*disk, block_size + 126 * 512, 512, 5);
  expect_fill(*disk, block_size + 127 * 512, 512, 0);
}

TEST_F(Vhd, FootersAtTheEndInTheOldLengthAndAtTheFront) {
  VhdParts parts;
  parts.blocks = {{0, sectors({{0, 128}}), std::byte{6}}};
  const Bytes good = make_vhd(parts);
  // 511 bytes, as Virtual PC before 2004 wrote.
  save_file(image_, ByteSpan(good).first(good.size() - 1));
  EXPECT_EQ(probe_format(image_), "vhd");
  EXPECT_TRUE(open_image(image_)->info().notes.empty());
  expect_fill(*open_image(image_), 0, block_size, 6);
  Bytes bad = good;
  bad[good.size() - 100] = std::byte{1};
  save_file(image_, bad);
  EXPECT_EQ(open_image(image_)->info().notes.size(), 1U);
  expect_fill(*open_image(image_), 0, block_size, 6);
  bad[100] = std::byte{1};
  save_file(image_, bad);
  expect_error("IMAGE_CORRUPT", [&] { open_image(image_); });
}

TEST_F(Vhd, LiesAreRefused) {
  VhdParts parts;
  parts.blocks = {{0, sectors({{0, 128}}), std::byte{6}}, {1, sectors({{0, 128}}), std::byte{7}}};
  const Bytes good = make_vhd(parts);
  struct Lie {
    const char* what;
    std::size_t offset; ///< below 512: of both footers
    std::uint32_t value;
    const char* code;
  };
  for (const Lie& lie :
       {Lie{"version", 12, 0x00020000, "FORMAT_UNSUPPORTED"}, Lie{"type", 60, 5, "IMAGE_CORRUPT"},
        Lie{"header offset", 20, 0, "IMAGE_CORRUPT"}, Lie{"header past the end", 16, 1, "DISK_TRUNCATED"},
        Lie{"size for the table", 48, 1, "IMAGE_CORRUPT"}, Lie{"size", 48, 0x7fffffff, "IMAGE_CORRUPT"},
        Lie{"table offset", 512 + 16, 1, "DISK_TRUNCATED"}, Lie{"entries", 512 + 28, 0xffffffff, "DISK_TRUNCATED"},
        Lie{"block size 0", 512 + 32, 0, "IMAGE_CORRUPT"}, Lie{"block size 3", 512 + 32, 65537, "IMAGE_CORRUPT"},
        Lie{"block past the end", 1536, 0x00ffffff, "DISK_TRUNCATED"},
        Lie{"block used twice", 1536, load_be<std::uint32_t>(good, 1540), "IMAGE_CORRUPT"},
        Lie{"blocks overlap", 1536, load_be<std::uint32_t>(good, 1540) - 1, "IMAGE_CORRUPT"}}) {
    SCOPED_TRACE(lie.what);
    Bytes bad = good;
    store_be<std::uint32_t>(bad, lie.offset, lie.value);
    fix_checksum(bad, 0, 512, 64);
    fix_checksum(bad, 512, 1024, 36);
    std::copy_n(bad.begin(), 512, bad.end() - 512);
    save_file(image_, bad);
    const std::string text = expect_error(lie.code, [&] { read_everything(image_); });
    EXPECT_NE(text.find("disk.vhd"), std::string::npos) << text;
  }
  Bytes bad = good;
  bad[700] = std::byte{1}; // without a new checksum
  save_file(image_, bad);
  expect_error("IMAGE_CORRUPT", [&] { read_everything(image_); });
}

} // namespace
} // namespace kvmport::test
