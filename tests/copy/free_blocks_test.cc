// SPDX-License-Identifier: Apache-2.0
// A copy without free blocks must keep every file: contents are compared, because a filesystem check proves nothing
// when blocks of zeros took the place of a file's.
#include "tests/copy/free_fixtures.h"

namespace kvmport::test {
namespace {

/// The files of the filesystem at `offset` of `disk`, read by debugfs.
std::map<std::string, std::string> files_of(const fs::path& disk, const fs::path& scratch, std::uint64_t offset = 0) {
  fs::remove_all(scratch);
  fs::create_directories(scratch);
  must_run({"debugfs", "-R", "rdump / " + scratch.string(), disk.string() + "?offset=" + std::to_string(offset)});
  return files_below(scratch);
}

class Variant : public testing::TestWithParam<const char*> {};

const char* const variants[] = {"-t ext2",
                                "-t ext2 -b 1024",
                                "-t ext3",
                                "-t ext4",
                                "-t ext4 -b 1024",
                                "-t ext4 -b 2048",
                                "-t ext4 -O ^has_journal",
                                "-t ext4 -O ^64bit",
                                "-t ext4 -O meta_bg,^resize_inode",
                                "-t ext4 -O ^flex_bg",
                                "-t ext4 -O ^metadata_csum",
                                "-t ext4 -O ^metadata_csum,uninit_bg",
                                "-t ext4 -O sparse_super2 -b 1024",
                                "-t ext4 -b 1024 -G 64",
                                "-t ext4 -O inline_data -I 256",
                                "-t ext4 -g 1024",
                                "-t ext2 -r 0 -O none -b 1024"};
INSTANTIATE_TEST_SUITE_P(Mke2fs, Variant, testing::ValuesIn(variants), [](const auto& info) {
  std::string name = info.param;
  for (char& c : name)
    if (std::isalnum(static_cast<unsigned char>(c)) == 0)
      c = '_';
  return name;
});

TEST_P(Variant, FilesSurviveACopyWithoutFreeBlocks) {
  TempDir dir;
  const fs::path disk = dir.path() / "disk", copy = dir.path() / "copy";
  make_tree(dir.path() / "tree");
  fill_with_junk(disk, 96 * mib);
  run("mke2fs -q -F -E nodiscard " + std::string(GetParam()) + " -d " + (dir.path() / "tree").string() + " " +
      disk.string());
  for (const char* name : {"deleted", "a/deleted"}) {
    must_run({"debugfs", "-w", "-R", std::string("rm /") + name, disk.string()});
    fs::remove(dir.path() / "tree" / name);
  }
  CopyStats stats;
  const FreeMap map = copy_without_free(disk, copy, &stats);
  EXPECT_GT(stats.skipped, 50 * mib) << notes_of(map);
  run("e2fsck -f -n " + copy.string());
  // mke2fs -d itself stores some files wrong with inline_data, so what it stored is what counts.
  const auto wanted = files_of(disk, dir.path() / "in");
  EXPECT_EQ(wanted.size(), files_below(dir.path() / "tree").size());
  EXPECT_EQ(files_of(copy, dir.path() / "out"), wanted);
}

TEST(FreeBlocks, FilesSurviveAfterTheKernelUsedTheFilesystem) {
  TempDir dir;
  const fs::path disk = dir.path() / "disk", copy = dir.path() / "copy";
  fill_with_junk(disk, 192 * mib);
  run("mke2fs -q -F -t ext4 -E nodiscard " + disk.string());
  std::map<std::string, std::string> wanted;
  {
    Mounted mounted(disk, dir.path() / "mnt");
    if (!mounted)
      GTEST_SKIP() << "no loop mount here, so the kernel's own ext4 is not tested: " << mounted.why();
    for (unsigned i = 0; i < 60; i++)
      make_pattern_file(mounted.path() / ("file" + std::to_string(i)), 2000 + i * 31000, i);
    for (unsigned i = 0; i < 60; i += 3)
      fs::remove(mounted.path() / ("file" + std::to_string(i)));
    for (unsigned i = 100; i < 120; i++)
      make_pattern_file(mounted.path() / ("file" + std::to_string(i)), 500 + i * 1900, i);
    wanted = files_below(mounted.path());
  }
  CopyStats stats;
  const FreeMap map = copy_without_free(disk, copy, &stats);
  EXPECT_GT(stats.skipped, 64 * mib) << notes_of(map);
  run("e2fsck -f -n " + copy.string());
  EXPECT_EQ(files_of(copy, dir.path() / "out"), wanted);
}

/// What a pulled plug leaves: the file was synced, but the map on disk still calls its blocks free.
TEST(FreeBlocks, FilesystemThatWasNotUnmountedIsCopiedWhole) {
  for (const char* options : {"-t ext4", "-t ext3", "-t ext4 -O ^has_journal", "-t ext2"}) {
    TempDir dir;
    const fs::path disk = dir.path() / "disk", snapshot = dir.path() / "snapshot", copy = dir.path() / "copy";
    fill_with_junk(disk, 96 * mib);
    run("mke2fs -q -F -E nodiscard " + std::string(options) + " " + disk.string());
    std::map<std::string, std::string> wanted;
    {
      Mounted mounted(disk, dir.path() / "mnt");
      if (!mounted)
        GTEST_SKIP() << "no loop mount here, so crash snapshots are not tested: " << mounted.why();
      make_pattern_file(mounted.path() / "new", 20 * mib, 3);
      UniqueFd fd = open_source(mounted.path() / "new");
      ASSERT_EQ(::fsync(fd.get()), 0);
      run("sync " + (mounted.path() / "new").string());
      run("cp --sparse=never " + disk.string() + " " + snapshot.string());
      wanted = files_below(mounted.path());
    }
    const FreeMap map = copy_without_free(snapshot, copy);
    EXPECT_TRUE(map.free.empty()) << options << ": " << notes_of(map);
    EXPECT_NE(notes_of(map).find("copied whole"), std::string::npos) << notes_of(map);
    EXPECT_EQ(sha256_of(copy), sha256_of(snapshot));
    Mounted again(copy, dir.path() / "mnt2");
    ASSERT_TRUE(again) << again.why();
    if (std::string(options).find("journal") == std::string::npos && std::string(options) != "-t ext2") {
      EXPECT_EQ(files_below(again.path()), wanted) << options;
    }
  }
}

const Doubtful doubtful[] = {
    {"needs recovery", 1024 + 96, 0x2c6, 4}, // 64bit, flex_bg, extents, filetype, RECOVER
    {"not clean", 1024 + 58, 0, 2},
    {"marked damaged", 1024 + 58, 3, 2},
    {"unknown incompat", 1024 + 96, 0x802002c2, 4},
    {"unknown ro_compat", 1024 + 100, 0x80000000, 4},
    {"more blocks than the partition", 1024 + 4, 0x7fffffff, 4},
    {"blocks high", 1024 + 336, 0x7fffffff, 4},
    {"no blocks", 1024 + 4, 0, 4},
    {"blocks per group 0", 1024 + 32, 0, 4},
    {"blocks per group 8", 1024 + 32, 8, 4},
    {"blocks per group huge", 1024 + 32, 0xffffffff, 4},
    {"inodes per group 0", 1024 + 40, 0, 4},
    {"inodes per group huge", 1024 + 40, 0xffffffff, 4},
    {"inodes wrong", 1024 + 0, 77, 4},
    {"first block 7", 1024 + 20, 7, 4},
    {"block size 2^41", 1024 + 24, 31, 4},
    {"cluster size differs", 1024 + 28, 6, 4},
    {"inode size 0", 1024 + 88, 0, 2},
    {"inode size odd", 1024 + 88, 129, 2},
    {"descriptor size 0", 1024 + 254, 0, 2},
    {"descriptor size huge", 1024 + 254, 0x8000, 2},
    {"backup superblock", 1024 + 90, 3, 2},
    {"orphans", 1024 + 232, 12, 4},
    {"recorded errors", 1024 + 404, 1, 4},
    {"journal elsewhere", 1024 + 224, 0, 4},
    {"free count", 1024 + 12, 1, 4},
    {"free count of a group", 4096 + 12, 1, 2},
    {"block bitmap elsewhere", 4096 + 0, 0x10, 4},
    {"block bitmap outside", 4096 + 0, 0xfffffff0, 4},
    {"inode table outside", 4096 + 8, 0xfffffff0, 4},
    {"md superblock", 4096, 0xa92b4efc, 4},
};

class DoubtfulTest : public testing::Test {
 protected:
  static void make(const fs::path& disk, const std::string& options) {
    UniqueFd fd = create_new(disk);
    ASSERT_EQ(::ftruncate(fd.get(), 64 * mib), 0);
    run("mke2fs -q -F -t ext4 -b 4096 " + options + " " + disk.string());
  }
};

/// With and without checksums: where there are none, the other checks must do.
TEST_F(DoubtfulTest, ContributesNothing) {
  for (const char* options : {"", "-O ^metadata_csum"}) {
    TempDir dir;
    make(dir.path() / "good", options);
    expect_copied_whole(dir.path() / "good", doubtful, options);
  }
}

/// A bit of a block map that is wrong changes a count or a checksum.
TEST_F(DoubtfulTest, WrongBlockMapIsSeen) {
  for (const char* options : {"", "-O ^metadata_csum,^uninit_bg"}) {
    TempDir dir;
    make(dir.path() / "disk", options);
    const std::string text = must_run({"dumpe2fs", (dir.path() / "disk").string()});
    const std::size_t at = text.find("Block bitmap at ");
    ASSERT_NE(at, std::string::npos);
    const std::uint64_t bitmap = std::stoull(text.substr(at + 16)) * 4096;
    {
      UniqueFd fd = open_existing(dir.path() / "disk");
      Bytes byte(1);
      read_exact(fd.get(), bitmap + 2000, byte, "disk");
      byte[0] ^= std::byte{8};
      write_exact(fd.get(), bitmap + 2000, byte, "disk");
    }
    const auto image = open_result(dir.path() / "disk", "raw");
    EXPECT_TRUE(find_free_blocks(*image).free.empty()) << options;
  }
}

TEST_F(DoubtfulTest, RandomDamageIsHarmless) {
  TempDir dir;
  make(dir.path() / "disk", "-O ^metadata_csum");
  const std::string whole = read_file(dir.path() / "disk", 128 * mib);
  Bytes bytes(as_bytes(whole).begin(), as_bytes(whole).end());
  std::mt19937 random(77);
  for (int round = 0; round < 300; round++) {
    Bytes head(bytes.begin(), bytes.begin() + 12288);
    const unsigned edits = 1 + random() % 3;
    for (unsigned i = 0; i < edits; i++) {
      const std::size_t at = random() % 2 == 0 ? 1024 + random() % 1024 : 4096 + random() % 256;
      bytes[at] = static_cast<std::byte>(random() % 3 == 0 ? 0xff : random());
    }
    const auto image = open_raw(SourceFile::from_memory(bytes, "damaged"), OpenContext{});
    std::uint64_t end = 0;
    for (const Range& range : find_free_blocks(*image).free) {
      ASSERT_GE(range.offset, end);
      ASSERT_LE(range.end(), image->size());
      end = range.end();
    }
    std::copy(head.begin(), head.end(), bytes.begin());
  }
}

/// An old superblock stays where something that does not clear its place was made later.
TEST_F(DoubtfulTest, LeftOverSuperblockIsNotUsed) {
  TempDir dir;
  make(dir.path() / "disk", "-O ^metadata_csum");
  const Bytes old = [&] {
    UniqueFd fd = open_source(dir.path() / "disk");
    Bytes bytes(1024);
    read_exact(fd.get(), 1024, bytes, "disk");
    return bytes;
  }();
  for (const char* program : {"mkfs.btrfs -q -f"}) {
    fs::copy_file(dir.path() / "disk", dir.path() / "other", fs::copy_options::overwrite_existing);
    fs::resize_file(dir.path() / "other", 160 * mib);
    run(std::string(program) + " " + (dir.path() / "other").string());
    {
      UniqueFd fd = open_existing(dir.path() / "other");
      write_exact(fd.get(), 1024, old, "other");
    }
    const auto image = open_result(dir.path() / "other", "raw");
    const FreeMap map = find_free_blocks(*image);
    EXPECT_TRUE(map.free.empty()) << program << ": " << notes_of(map);
  }
}

/// A disk of `size` bytes with a table by sfdisk and ext4 in the parts at `offsets` (MiB) of 32 MiB each.
void make_partitioned(const fs::path& disk, const std::string& script, const std::vector<std::uint64_t>& offsets,
                      const fs::path& tree, std::uint64_t size = 200 * mib) {
  fill_with_junk(disk, size);
  write_file_durably(disk.string() + ".sfdisk", script);
  {
    UniqueFd fd = open_existing(disk);
    write_exact(fd.get(), 0, Bytes(mib), "disk");
  }
  must_run({"sh", "-c", "sfdisk -q --no-reread --no-tell-kernel \"$0\" < \"$0\".sfdisk", disk.string()});
  for (const std::uint64_t offset : offsets)
    run("mke2fs -q -F -t ext4 -d " + tree.string() + " -E nodiscard,offset=" + std::to_string(offset * mib) + " " +
        disk.string() + " 32M");
}

struct TableCase {
  const char* name;
  const char* script;
  std::vector<std::uint64_t> offsets; ///< MiB of the filesystems
  std::size_t used;                   ///< how many of them give free blocks
};
const TableCase tables[] = {
    {"mbr", "label: dos\n2048,65536,83\n67584,65536,83,*\n", {1, 33}, 2},
    {"mbr_other_types", "label: dos\n2048,65536,8e\n67584,65536,fd\n", {1, 33}, 0},
    {"mbr_logical",
     "label: dos\n2048,65536,83\n67584,300000,5\nstart=69632,size=65536,type=83\nstart=139264,size=65536,type=83\n",
     {1, 34, 68},
     3},
    {"gpt", "label: gpt\nstart=2048,size=65536,type=L\nstart=67584,size=65536,type=L\n", {1, 33}, 2},
    {"gpt_lvm", "label: gpt\nstart=2048,size=65536,type=V\nstart=67584,size=65536,type=L\n", {1, 33}, 1},
};

TEST(FreeBlocks, PartitionTables) {
  for (const TableCase& table : tables) {
    TempDir dir;
    make_tree(dir.path() / "tree");
    const fs::path disk = dir.path() / "disk", copy = dir.path() / "copy";
    make_partitioned(disk, table.script, table.offsets, dir.path() / "tree");
    const FreeMap map = copy_without_free(disk, copy);
    std::size_t used = 0;
    for (const std::uint64_t offset : table.offsets) {
      used += std::any_of(map.free.begin(), map.free.end(), [&](const Range& range) {
        return range.offset >= offset * mib && range.end() <= (offset + 32) * mib;
      });
      EXPECT_EQ(files_of(copy, dir.path() / "out", offset * mib), files_below(dir.path() / "tree")) << table.name;
    }
    EXPECT_EQ(used, table.used) << table.name << ": " << notes_of(map);
    const std::uint64_t last = (table.offsets.back() + 32) * mib;
    for (const Range& range : map.free) // nothing outside of the filesystems but the gap behind them
      EXPECT_TRUE(range.offset > last || std::any_of(table.offsets.begin(), table.offsets.end(),
                                                     [&](std::uint64_t offset) {
                                                       return range.offset >= offset * mib &&
                                                              range.end() <= (offset + 32) * mib;
                                                     }))
          << table.name;
  }
}

TEST(FreeBlocks, DoubtfulTablesAreNotUsed) {
  struct Edit {
    const char* name;
    std::uint64_t offset;
    std::uint32_t value;
  };
  const Edit mbr_edits[] = {{"overlap", 446 + 16 + 8, 40000}, {"past the end", 446 + 16 + 12, 0x7fffffff}};
  const Edit gpt_edits[] = {{"header", 512 + 40, 99}, {"entry", 1024 + 32, 4096}};
  TempDir dir;
  make_tree(dir.path() / "tree");
  const auto check = [&](const TableCase& table, std::span<const Edit> edits) {
    const fs::path disk = dir.path() / table.name;
    make_partitioned(disk, table.script, table.offsets, dir.path() / "tree");
    for (const Edit& edit : edits) {
      fs::copy_file(disk, dir.path() / "bad", fs::copy_options::overwrite_existing);
      {
        UniqueFd fd = open_existing(dir.path() / "bad");
        Bytes bytes(4);
        store_le<std::uint32_t>(bytes, 0, edit.value);
        write_exact(fd.get(), edit.offset, bytes, "bad");
      }
      const auto image = open_result(dir.path() / "bad", "raw");
      const FreeMap map = find_free_blocks(*image);
      EXPECT_TRUE(map.free.empty()) << table.name << " " << edit.name << ": " << notes_of(map);
    }
  };
  check(tables[0], mbr_edits);
  check(tables[3], gpt_edits);
}

/// A logical partition whose chain leads back to itself.
TEST(FreeBlocks, LogicalPartitionLoopEnds) {
  Bytes disk(8 * mib);
  const auto record = [&](std::uint64_t at, std::size_t slot, std::uint8_t type, std::uint32_t start,
                          std::uint32_t count) {
    store_le<std::uint8_t>(disk, at + 446 + slot * 16 + 4, type);
    store_le<std::uint32_t>(disk, at + 446 + slot * 16 + 8, start);
    store_le<std::uint32_t>(disk, at + 446 + slot * 16 + 12, count);
    store_le<std::uint16_t>(disk, at + 510, 0xaa55);
  };
  record(0, 0, 5, 2048, 8192);
  record(2048 * 512, 0, 0x83, 63, 100);
  record(2048 * 512, 1, 5, 1000, 2000);
  record(3048 * 512, 0, 0x83, 63, 100);
  record(3048 * 512, 1, 5, 1000, 2000);
  const auto image = open_raw(SourceFile::from_memory(disk, "loop"), OpenContext{});
  const FreeMap map = find_free_blocks(*image);
  EXPECT_TRUE(map.free.empty());
  EXPECT_EQ(map.notes.size(), 1U);
}

TEST(FreeBlocks, EmptyAndTinyDisks) {
  for (const std::uint64_t size : {0, 1, 511, 512, 1500, 2048, 4096}) {
    const Bytes disk(size);
    const auto image = open_raw(SourceFile::from_memory(disk, "tiny"), OpenContext{});
    EXPECT_TRUE(find_free_blocks(*image).free.empty());
  }
}

} // namespace
} // namespace kvmport::test
