// SPDX-License-Identifier: Apache-2.0
// DiskPartition tables made by sfdisk, read by us, compared with what sfdisk says of them.
#include "base/process.h"
#include "formats/partitions.h"
#include "tests/support/tempdir.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

class Tables : public testing::TestWithParam<const char*> {
 protected:
  fs::path make(const std::string& script) {
    const fs::path disk = dir_.path() / "disk.img", text = dir_.path() / "script";
    { UniqueFd fd = create_new(disk); }
    fs::resize_file(disk, 200U << 20);
    write_file_durably(text, script);
    must_run({"sh", "-c", "sfdisk -q " + disk.string() + " < " + text.string()});
    return disk;
  }
  static DiskPartitions read(const fs::path& disk) {
    return read_partitions(*open_image(disk, {.format = "raw", .allowed_directories = {}, .window = {}}));
  }
  TempDir dir_;
};

TEST_P(Tables, AreReadAsSfdiskReadsThem) {
  const fs::path disk = make(GetParam());
  const auto expected = nlohmann::json::parse(must_run({"sfdisk", "--json", disk.string()}))["partitiontable"];
  const DiskPartitions table = read(disk);
  EXPECT_EQ(table.kind, expected["label"]);
  std::size_t seen = 0;
  for (const auto& row : expected["partitions"]) {
    const std::string node = row["node"];
    const unsigned number = static_cast<unsigned>(std::stoul(node.substr(disk.string().size())));
    if (row["type"] == "5" || row["type"] == "f")
      continue;
    ASSERT_LT(seen, table.partitions.size());
    const DiskPartition& p = table.partitions[seen++];
    EXPECT_EQ(p.number, number);
    EXPECT_EQ(p.range.offset, row["start"].get<std::uint64_t>() * 512);
    EXPECT_EQ(p.range.length, row["size"].get<std::uint64_t>() * 512);
    if (row.contains("uuid")) {
      std::string uuid = row["uuid"];
      std::ranges::transform(uuid, uuid.begin(), ::tolower);
      EXPECT_EQ(p.uuid, uuid);
    }
    if (row.contains("name")) {
      EXPECT_EQ(p.label, row["name"]);
    }
  }
  EXPECT_EQ(seen, table.partitions.size());
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, Tables,
    testing::Values("label: dos\n,50M,83\n,50M,82\n", "label: dos\n,20M,83\n,,5\n,10M,83\n,20M,82\n,30M,83\n",
                    "label: gpt\nsize=50M,type=U,name=\"EFI system\"\nsize=20M\nstart=150M,size=10M\n"));

using Damage = Tables;

TEST_F(Damage, TheBackupGptIsUsedWhenTheFirstIsDamaged) {
  const fs::path disk = make("label: gpt\nsize=50M\n");
  {
    UniqueFd fd = open_existing(disk);
    write_exact(fd.get(), 512 + 40, Bytes(8, std::byte{0x5a}), "disk");
  }
  const DiskPartitions table = read(disk);
  EXPECT_EQ(table.kind, "gpt");
  EXPECT_EQ(table.partitions.size(), 1U);
  EXPECT_FALSE(table.notes.empty());
}

TEST_F(Damage, ALoopOfLogicalPartitionsEnds) {
  const fs::path disk = make("label: dos\n,20M,83\n,,5\n,10M,83\n,20M,82\n");
  {
    // The second record points to itself.
    const DiskPartitions whole = read(disk);
    ASSERT_EQ(whole.partitions.size(), 3U);
    UniqueFd fd = open_existing(disk);
    Bytes mbr(512);
    read_exact(fd.get(), 0, mbr, "disk");
    const std::uint64_t container = load_le<std::uint32_t>(mbr, 446 + 16 + 8);
    Bytes record(512);
    read_exact(fd.get(), container * 512, record, "disk");
    const std::uint64_t next = load_le<std::uint32_t>(record, 446 + 16 + 8);
    Bytes second(512);
    read_exact(fd.get(), (container + next) * 512, second, "disk");
    std::copy_n(record.begin() + 446 + 16, 16, second.begin() + 446 + 16);
    write_exact(fd.get(), (container + next) * 512, second, "disk");
  }
  const DiskPartitions table = read(disk);
  EXPECT_EQ(table.partitions.size(), 3U);
  EXPECT_FALSE(table.notes.empty());
}

TEST_F(Damage, AFilesystemOnTheWholeDiskIsNoTable) {
  const fs::path disk = dir_.path() / "fat.img";
  must_run({"mkfs.vfat", "-C", disk.string(), "20480"});
  EXPECT_EQ(read(disk).kind, "");
  const auto image = open_image(disk, {.format = "raw", .allowed_directories = {}, .window = {}});
  EXPECT_EQ(probe_content(*image, {0, image->size()}).type, "vfat");
}

TEST(Probe, TellsTypeUuidAndLabelAsBlkid) {
  TempDir dir;
  const fs::path disk = dir.path() / "fs.img";
  must_run({"mke2fs", "-q", "-F", "-t", "ext4", "-L", "top", "-U", "11111111-2222-3333-4444-555555555555",
            disk.string(), "16M"});
  const auto image = open_image(disk, {.format = "raw", .allowed_directories = {}, .window = {}});
  const Content content = probe_content(*image, {0, image->size()});
  EXPECT_EQ(content.type, "ext4");
  EXPECT_EQ(content.uuid, "11111111-2222-3333-4444-555555555555");
  EXPECT_EQ(content.label, "top");
}

TEST(MadeForUefi, ProtectiveMbrWithoutCodeIs) {
  TempDir dir;
  const fs::path disk = dir.path() / "disk.img";
  const auto made = [&](std::string head, std::uint64_t size = 1U << 20) {
    write_file_durably(disk, head);
    fs::resize_file(disk, size);
    return made_for_uefi(*open_image(disk, {.format = "raw", .allowed_directories = {}, .window = {}}));
  };
  std::string mbr(512, '\0');
  mbr[510] = '\x55';
  mbr[511] = '\xaa';
  EXPECT_FALSE(made(mbr)) << "no partition";
  for (const char type : {'\xee', '\xef'}) {
    mbr[446 + 16 + 4] = type;
    EXPECT_TRUE(made(mbr));
  }
  mbr[0] = '\xeb';
  EXPECT_FALSE(made(mbr)) << "boot code: GRUB on GPT";
  EXPECT_FALSE(made("", 100)) << "no room for a sector";
}

} // namespace
} // namespace kvmport::test
