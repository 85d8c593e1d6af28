// SPDX-License-Identifier: Apache-2.0
#include "tests/copy/free_fixtures.h"

namespace kvmport::test {
namespace {

struct FatCase {
  const char* name;
  const char* options; ///< of mkfs.vfat
  std::uint64_t size;
};
const FatCase cases[] = {
    {"fat12", "-F 12 -s 16", 16 * mib},
    {"fat16", "-F 16", 64 * mib},
    {"fat32", "-F 32 -s 1", 64 * mib},
    {"fat16_one_table", "-F 16 -f 1", 64 * mib},
    {"fat32_large_sectors", "-F 32 -S 1024", 128 * mib},
};

std::map<std::string, std::string> files_of(const fs::path& disk, const fs::path& scratch) {
  fs::remove_all(scratch);
  fs::create_directories(scratch);
  must_run({"mcopy", "-s", "-n", "-i", disk.string(), "::/", scratch.string()});
  return files_below(scratch);
}

void make_fat(const fs::path& disk, const FatCase& fat, const fs::path& tree) {
  fill_with_junk(disk, fat.size);
  run("mkfs.vfat " + std::string(fat.options) + " -n KVMPORT " + disk.string());
  for (const char* name : {"a", "four", "deleted", "last"})
    must_run({"mcopy", "-s", "-i", disk.string(), (tree / name).string(), "::/"});
  for (const char* name : {"deleted", "a/deleted"})
    must_run({"mdel", "-i", disk.string(), std::string("::/") + name});
  make_pattern_file(tree / "after", 300000, 42); // takes what was freed
  must_run({"mcopy", "-i", disk.string(), (tree / "after").string(), "::/"});
  for (const char* name : {"deleted", "a/deleted"})
    fs::remove(tree / name);
}

TEST(FatFree, FilesSurviveACopyWithoutFreeClusters) {
  for (const FatCase& fat : cases) {
    TempDir dir;
    const fs::path disk = dir.path() / "disk", copy = dir.path() / "copy", tree = dir.path() / "tree";
    make_tree(tree);
    make_fat(disk, fat, tree);
    CopyStats stats;
    const FreeMap map = copy_without_free(disk, copy, &stats);
    EXPECT_GT(stats.skipped, fat.size / 2) << fat.name << ": " << notes_of(map);
    EXPECT_EQ(files_of(copy, dir.path() / "out"), files_below(tree)) << fat.name;
    run("fsck.vfat -n " + copy.string());
  }
}

// Offsets for 64 MiB of FAT16 with clusters of 2 KiB, four reserved sectors and tables of 128 sectors.
const Doubtful doubtful16[] = {
    {"dirty", 0x25, 1, 1},
    {"surface test wanted", 0x25, 2, 1},
    {"dirty in the table", 2048 + 2, 0x7fff, 2},
    {"errors in the table", 2048 + 2, 0xbfff, 2},
    {"media of the table", 2048, 0xfff0, 2},
    {"tables differ", 2048 + 5000, 0xffff, 2},
    {"clusters of 3 sectors", 13, 3, 1},
    {"larger clusters make it FAT12", 13, 128, 1},
    {"reserved sectors differ", 14, 9, 2},
    {"all reserved", 14, 0xffff, 2},
    {"many tables", 16, 5, 1},
    {"no root", 17, 0, 2},
    {"huge root", 17, 0xffff, 2},
    {"sectors past the end", 32, 0x7fffffff, 4},
    {"sectors past the end by one", 32, (64 << 11) + 1, 4},
    {"media", 21, 0x11, 1},
    {"short table", 22, 3, 2},
    {"huge table", 22, 0xffff, 2},
};
const Doubtful no_fat[] = {
    {"no clusters", 13, 0, 1},
    {"no reserved sectors", 14, 0, 2},
    {"no tables", 16, 0, 1},
    {"no signature", 510, 0, 2},
    {"NTFS", 3, 0x202020205346544e, 8},
    {"sectors of 1 byte", 11, 1, 2},
    {"sectors of 64 KiB", 11, 0x8000, 2},
};
const Doubtful doubtful32[] = {
    {"dirty", 0x41, 1, 1},
    {"dirty in the table", 32 * 512 + 4, 0x07ffffff, 4},
    {"errors in the table", 32 * 512 + 4, 0x0bffffff, 4},
    {"one table in use", 40, 0x81, 2},
    {"version", 42, 1, 2},
    {"root outside", 44, 0x7fffffff, 4},
    {"root free", 44, 120000, 4},
    {"root 0", 44, 0, 4},
    {"huge table", 36, 0xffffffff, 4},
    {"short table", 36, 3, 4},
    {"other boot sector in the backup", 6 * 512 + 13, 2, 1},
    {"btrfs", 65536 + 64, 0x4d5f53665248425f, 8},
};

TEST(FatFree, DoubtfulFilesystemsAreCopiedWhole) {
  TempDir dir;
  make_tree(dir.path() / "tree");
  make_fat(dir.path() / "fat16", cases[1], dir.path() / "tree");
  expect_copied_whole(dir.path() / "fat16", doubtful16, "fat16");
  expect_copied_whole(dir.path() / "fat16", no_fat, "fat16", false);
  make_tree(dir.path() / "tree2");
  make_fat(dir.path() / "fat32", cases[2], dir.path() / "tree2");
  expect_copied_whole(dir.path() / "fat32", doubtful32, "fat32");
}

TEST(FatFree, OldCountInFSInfoIsANote) {
  TempDir dir;
  make_tree(dir.path() / "tree");
  make_fat(dir.path() / "disk", cases[2], dir.path() / "tree");
  {
    UniqueFd fd = open_existing(dir.path() / "disk");
    Bytes count(4);
    store_le<std::uint32_t>(count, 0, 77);
    write_exact(fd.get(), 512 + 488, count, "disk");
  }
  const FreeMap map = copy_without_free(dir.path() / "disk", dir.path() / "copy");
  EXPECT_FALSE(map.free.empty());
  EXPECT_NE(notes_of(map).find("count"), std::string::npos) << notes_of(map);
  EXPECT_EQ(files_of(dir.path() / "copy", dir.path() / "out"), files_below(dir.path() / "tree"));
}

} // namespace
} // namespace kvmport::test
