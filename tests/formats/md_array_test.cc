// SPDX-License-Identifier: Apache-2.0
// Superblocks written here by the specification; mdadm must agree with each that is meant to be right.
#include "base/process.h"
#include "formats/md_array.h"
#include "tests/formats/fixtures.h"
#include "tests/support/tempdir.h"

#include <functional>
#include <gtest/gtest.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

constexpr std::uint64_t mib = 1U << 20, sector = 512;

void sum(Bytes& super) {
  std::uint64_t total = 0;
  store_le<std::uint32_t>(super, 216, 0);
  const std::size_t size = 256 + std::size_t{load_le<std::uint32_t>(super, 220)} * 2;
  for (std::size_t at = 0; at + 4 <= size; at += 4)
    total += load_le<std::uint32_t>(super, at);
  store_le<std::uint32_t>(super, 216, static_cast<std::uint32_t>(total) + static_cast<std::uint32_t>(total >> 32));
}

struct Shape {
  std::string version = "1.2";
  int level = 1;
  std::uint32_t disks = 2, role = 0;
};

std::uint64_t place_of(const std::string& version, std::uint64_t size) {
  return version == "1.1" ? 0 : version == "1.2" ? 4096 : (size / sector - 16) / 8 * 8 * sector;
}

/// As mdadm writes it for a member of 64 MiB.
Bytes superblock(const Shape& shape, std::uint64_t at) {
  Bytes super(4096);
  store_le<std::uint32_t>(super, 0, 0xa92b4efc);
  store_le<std::uint32_t>(super, 4, 1);
  for (std::size_t i = 0; i < 16; i++) {
    super[16 + i] = static_cast<std::byte>(i * 17);
    super[168 + i] = static_cast<std::byte>(shape.role * 16 + i);
  }
  std::ranges::copy(as_bytes(std::string_view("host:data")), super.begin() + 32);
  store_le<std::uint64_t>(super, 64, 1700000000);
  store_le<std::uint32_t>(super, 72, static_cast<std::uint32_t>(shape.level));
  store_le<std::uint64_t>(super, 80, shape.level == 1 ? 60 * mib / sector : 0);
  store_le<std::uint32_t>(super, 92, shape.disks);
  store_le<std::uint64_t>(super, 128, shape.version == "1.0" ? 0 : mib / sector);
  store_le<std::uint64_t>(super, 136, 62 * mib / sector);
  store_le<std::uint64_t>(super, 144, at / sector);
  store_le<std::uint32_t>(super, 160, shape.role);
  store_le<std::uint64_t>(super, 192, 1700000100);
  store_le<std::uint64_t>(super, 200, 17);
  store_le<std::uint64_t>(super, 208, UINT64_MAX);
  store_le<std::uint32_t>(super, 220, 128);
  for (std::size_t i = 0; i < 128; i++)
    store_le<std::uint16_t>(super, 256 + i * 2, i < shape.disks ? static_cast<std::uint16_t>(i) : 0xffff);
  sum(super);
  return super;
}

class Md : public testing::Test {
 protected:
  std::unique_ptr<Image> member(const Shape& shape, const std::function<void(Bytes&)>& change = {}) {
    const fs::path path = dir_.path() / std::to_string(count_++);
    const UniqueFd fd = create_new(path);
    fs::resize_file(path, 64 * mib);
    const std::uint64_t at = place_of(shape.version, 64 * mib);
    Bytes super = superblock(shape, at);
    if (change)
      change(super);
    write_exact(fd.get(), at, super, path.string());
    const std::string mark = "data of " + std::to_string(shape.role);
    write_exact(fd.get(), (shape.version == "1.0" ? 0 : mib) + 4 * mib, as_bytes(mark), path.string());
    last_ = path;
    return open_image(path, {.format = "raw", .allowed_directories = {}, .window = {}});
  }
  static std::optional<MdMember> read(const Image& image) { return read_md_member(image, {0, image.size()}); }
  std::string assemble(const std::vector<Shape>& shapes, std::vector<MapPiece>& pieces,
                       const std::function<void(Bytes&)>& change_last = {}) {
    std::vector<PlacedMdMember> members;
    for (std::size_t i = 0; i < shapes.size(); i++) {
      images_.push_back(member(shapes[i], i + 1 == shapes.size() ? change_last : nullptr));
      members.push_back({read(*images_.back()).value(), {images_.back().get(), nullptr, 0}});
    }
    return assemble_md(members, pieces);
  }

  TempDir dir_;
  int count_ = 0;
  fs::path last_;
  std::vector<std::unique_ptr<Image>> images_;
};

TEST_F(Md, ReadsWhatMdadmReads) {
  for (const std::string version : {"1.0", "1.1", "1.2"}) {
    const auto image = member({version, 1, 2, 1});
    const std::string says = must_run({"mdadm", "--examine", last_.string()});
    EXPECT_NE(says.find("Version : " + version), std::string::npos) << says;
    EXPECT_NE(says.find("- correct"), std::string::npos) << says;
    EXPECT_NE(says.find("State : clean"), std::string::npos) << says;
    EXPECT_NE(says.find("Active device 1"), std::string::npos) << says;
    const auto found = read(*image);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->array_uuid, "00112233-4455-6677-8899-aabbccddeeff");
    EXPECT_EQ(found->name, "host:data");
    EXPECT_EQ(found->level, 1);
    EXPECT_EQ(found->role, 1U);
    EXPECT_EQ(found->array_size, 60 * mib);
    EXPECT_EQ(found->data, (Range{version == "1.0" ? 0 : mib, 62 * mib}));
    EXPECT_EQ(found->unsupported, "");
  }
}

TEST_F(Md, PutsMirrorsAndConcatenationsTogether) {
  std::vector<MapPiece> pieces;
  ASSERT_EQ(assemble({{"1.2", 1, 2, 1}, {"1.2", 1, 2, 0}}, pieces), "");
  const MappedImage mirror(pieces);
  EXPECT_EQ(mirror.size(), 60 * mib);
  Bytes text(9);
  mirror.read(4 * mib, text);
  EXPECT_EQ(std::memcmp(text.data(), "data of 0", 9), 0);
  ASSERT_EQ(assemble({{"1.0", -1, 2, 0}, {"1.0", -1, 2, 1}}, pieces), "");
  const MappedImage whole(pieces);
  EXPECT_EQ(whole.size(), 124 * mib);
  whole.read(66 * mib, text);
  EXPECT_EQ(std::memcmp(text.data(), "data of 1", 9), 0);
}

TEST_F(Md, LeavesToMdWhatIsNotWhole) {
  std::vector<MapPiece> pieces;
  EXPECT_EQ(assemble({{"1.2", 1, 2, 0}}, pieces), "1 of 2 members are there");
  EXPECT_EQ(assemble({{"1.2", 5, 2, 0}, {"1.2", 5, 2, 1}}, pieces), "it is of level 5");
  const auto changed = [&](std::size_t field, std::uint64_t value) {
    return assemble({{}, {"1.2", 1, 2, 1}}, pieces, [&](Bytes& super) {
      store_le<std::uint64_t>(super, field, value);
      sum(super);
    });
  };
  EXPECT_EQ(changed(200, 16), "its members are of different times");
  EXPECT_EQ(changed(208, 4096), "it was not shut down cleanly: its members may differ");
  for (const std::uint64_t feature : {2U, 4U, 8U, 16U, 512U, 1U << 20})
    EXPECT_NE(changed(8, feature), "") << feature;
  EXPECT_EQ(changed(160, 5), "a member is a spare or has failed");
  EXPECT_EQ(assemble({{}, {"1.2", 1, 2, 0}}, pieces), "its members are of different times"); // twice the same
}

TEST_F(Md, RefusesDamage) {
  const std::vector<std::function<void(Bytes&)>> damages{
      [](Bytes& s) { s[300] ^= std::byte{1}; }, [](Bytes& s) { store_le<std::uint32_t>(s, 220, 100000); },
      [](Bytes& s) { store_le<std::uint64_t>(s, 144, 7), sum(s); },
      [](Bytes& s) { store_le<std::uint64_t>(s, 128, UINT64_MAX), sum(s); },
      [](Bytes& s) { store_le<std::uint64_t>(s, 136, 64 * mib / sector), sum(s); }};
  for (const auto& damage : damages)
    EXPECT_THROW((void)read(*member({}, damage)), Error);
  const auto other = member({}, [](Bytes& s) { s[0] = std::byte{0}; });
  EXPECT_FALSE(read(*other));
}

} // namespace
} // namespace kvmport::test
