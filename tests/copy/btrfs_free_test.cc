// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/btrfs_tree.h"
#include "tests/copy/free_fixtures.h"

namespace kvmport::test {
namespace {

constexpr std::uint64_t disk_size = 320 * mib;

void make_btrfs(const fs::path& disk, const std::string& options) {
  fill_with_junk(disk, disk_size, 4);
  run("mkfs.btrfs -q -K -f " + options + " " + disk.string());
}

TEST(BtrfsFree, FilesSurviveACopyWithoutFreeSpace) {
  for (const char* options : {"", "-m dup -d dup -n 4096", "-m single -d single -O ^no-holes,^skinny-metadata",
                              "--mixed", "-R free-space-tree -O block-group-tree"}) {
    TempDir dir;
    const fs::path disk = dir.path() / "disk";
    if (std::string(options).find("block-group-tree") != std::string::npos) {
      UniqueFd fd = create_new(dir.path() / "try");
      ASSERT_EQ(::ftruncate(fd.get(), disk_size), 0);
      auto argv = words("mkfs.btrfs -q -K -f " + std::string(options));
      argv.push_back((dir.path() / "try").string());
      if (run_process(argv, std::chrono::seconds(60)).exit_code != 0)
        continue; // this mkfs.btrfs doesn't know it
    }
    make_btrfs(disk, options);
    std::map<std::string, std::string> wanted;
    {
      Mounted mounted(disk, dir.path() / "mnt", "loop,compress=zstd");
      if (!mounted)
        GTEST_SKIP() << "no loop mount here, so btrfs is not tested: " << mounted.why();
      use_filesystem(mounted.path());
      run("btrfs -q subvolume snapshot " + mounted.path().string() + " " + (mounted.path() / "snapshot").string());
      for (unsigned i = 1; i < 50; i += 7)
        fs::remove(mounted.path() / ("file" + std::to_string(i)));
      wanted = files_below(mounted.path());
    }
    expect_files_survive(disk, wanted, 10 * mib, options);
    run("btrfs check -q " + disk.string() + ".copy");
  }
}

TEST(BtrfsFree, FilesystemWithALogIsCopiedWhole) {
  TempDir dir;
  const fs::path disk = dir.path() / "disk";
  make_btrfs(disk, "");
  Mounted mounted(disk, dir.path() / "mnt");
  if (!mounted)
    GTEST_SKIP() << "no loop mount here, so crash snapshots are not tested: " << mounted.why();
  expect_crash_keeps_files(disk, mounted, false);
}

/// Freezing commits: nothing is left in the log, and the last commit is whole.
TEST(BtrfsFree, FrozenFilesystemKeepsItsFiles) {
  TempDir dir;
  const fs::path disk = dir.path() / "disk";
  make_btrfs(disk, "");
  Mounted mounted(disk, dir.path() / "mnt");
  if (!mounted)
    GTEST_SKIP() << "no loop mount here, so frozen filesystems are not tested: " << mounted.why();
  expect_crash_keeps_files(disk, mounted, true, false);
}

TEST(BtrfsFree, OtherKindsAreCopiedWhole) {
  TempDir dir;
  for (const char* options : {"--csum xxhash", "--csum sha256", "-m raid1 -d raid0"}) {
    std::string disks = (dir.path() / "disk").string();
    fs::remove(dir.path() / "disk");
    fs::remove(dir.path() / "second");
    for (const char* name : {"disk", "second"})
      ASSERT_EQ(::ftruncate(create_new(dir.path() / name).get(), disk_size), 0);
    if (std::string(options).find("raid") != std::string::npos)
      disks += " " + (dir.path() / "second").string();
    run("mkfs.btrfs -q -f " + std::string(options) + " " + disks);
    const auto image = open_result(dir.path() / "disk", "raw");
    const FreeMap map = find_free_blocks(*image);
    EXPECT_TRUE(map.free.empty()) << options << ": " << notes_of(map);
    EXPECT_NE(notes_of(map).find("copied whole"), std::string::npos) << options;
  }
}

constexpr std::uint64_t super = 64U << 10, node_size = 16384;

/// All but the checksum counts in it.
void mend(int fd, const Doubtful& edit) {
  const bool is_super = edit.offset >= super && edit.offset < super + 4096;
  Bytes bytes(is_super ? 4096 : node_size);
  const std::uint64_t from = edit.offset / bytes.size() * bytes.size();
  read_exact(fd, from, bytes, "bad");
  store_le<std::uint32_t>(bytes, 0, crc32c(ByteSpan(bytes).subspan(32)));
  write_exact(fd, from, bytes, "bad");
}

/// Where the tree roots lie on the device.
struct Roots {
  std::uint64_t root = 0, chunk = 0, extent = 0;
};
Roots find_roots(const fs::path& disk) {
  const auto image = open_result(disk, "raw");
  const Part part(*image, {0, image->size()});
  const btrfs::Superblock block = btrfs::check_superblock(part.read(super, 4096), part);
  btrfs::Trees trees(part, block);
  const auto place = [&](std::uint64_t logical) {
    const auto chunk = std::prev(trees.chunks().upper_bound(logical));
    return chunk->second.places[0] + (logical - chunk->first);
  };
  return {place(block.root.bytenr), place(block.chunk_root.bytenr), place(trees.find_root(btrfs::extent_tree).bytenr)};
}

TEST(BtrfsFree, DamagedFilesystemsAreCopiedWhole) {
  TempDir dir;
  const fs::path disk = dir.path() / "disk";
  ASSERT_EQ(::ftruncate(create_new(disk).get(), disk_size), 0);
  run("mkfs.btrfs -q -f -m single -d single " + disk.string());
  const Roots at = find_roots(disk);
  const Doubtful edits[] = {
      {"fsid", super + 32, 77, 8},
      {"place", super + 48, 64 << 20, 8},
      {"seeding", super + 56, (1ULL << 32) + 1, 8},
      {"errors", super + 56, 5, 8},
      {"generation", super + 72, 99, 8},
      {"root elsewhere", super + 80, 1 << 20, 8},
      {"root unaligned", super + 80, 12345, 8},
      {"root outside", super + 80, ~0ULL, 8},
      {"chunk root outside", super + 88, ~0ULL, 8},
      {"log", super + 96, 30 << 20, 8},
      {"total", super + 112, disk_size - 4096, 8},
      {"used", super + 120, 4096, 8},
      {"devices", super + 136, 2, 8},
      {"sector size", super + 144, 512, 4},
      {"sector size 0", super + 144, 0, 4},
      {"node size", super + 148, 8192, 4},
      {"node size huge", super + 148, 1 << 30, 4},
      {"system chunks", super + 160, 50, 4},
      {"no system chunks", super + 160, 0, 4},
      {"system chunks huge", super + 160, 4096, 4},
      {"chunk root generation", super + 164, 99, 8},
      {"compat", super + 172, 1, 8},
      {"compat_ro", super + 180, 0x103, 8},
      {"incompat", super + 188, 0x80000341, 8},
      {"extent tree v2", super + 188, 0x2341, 8},
      {"zoned", super + 188, 0x1341, 8},
      {"checksum kind", super + 196, 1, 2},
      {"root level", super + 198, 1, 1},
      {"root level huge", super + 198, 200, 1},
      {"device id", super + 201, 2, 8},
      {"device size", super + 209, disk_size * 2, 8},
      {"system chunk's key", super + 811 + 8, 1, 1},
      {"system chunk's length", super + 811 + 17, ~0ULL, 8},
      {"system chunk's profile", super + 811 + 17 + 24, 2 | 8, 8},
      {"system chunk's stripes", super + 811 + 17 + 44, 2, 2},
      {"system chunk's place", super + 811 + 17 + 48 + 8, disk_size, 8},
      {"chunk tree's fsid", at.chunk + 32, 77, 8},
      {"chunk tree's place", at.chunk + 48, 0, 8},
      {"chunk tree's owner", at.chunk + 88, 1, 8},
      {"chunk tree's items", at.chunk + 96, 99999, 4},
      {"chunk tree's level", at.chunk + 100, 1, 1},
      {"chunk tree empty", at.chunk + 96, 0, 4},
      {"root tree's generation", at.root + 80, 1, 8},
      {"root tree's item", at.root + 101 + 17, ~0ULL, 4},
      {"root tree without extent tree", at.root + 101 + 8, 1, 1},
      {"extent tree's owner", at.extent + 88, 5, 8},
      {"extent tree not written", at.extent + 56, 0, 8},
      {"extent tree's chunk tree", at.extent + 64, 77, 8},
      {"extent tree has fewer items", at.extent + 96, 3, 4},
      {"extent tree has no items", at.extent + 96, 0, 4},
      {"extent elsewhere", at.extent + 101, 4096, 8},
      {"extent of another type", at.extent + 101 + 8, 1, 1},
      {"extent's length", at.extent + 101 + 9, ~0ULL, 8},
      {"extent's data", at.extent + 101 + 17, ~0ULL, 4},
      {"keys descend", at.extent + 101 + 25, 0, 8},
  };
  expect_copied_whole(disk, edits, "checksum mended", true, mend);
  const Doubtful unmended[] = {{"superblock", super + 3000, 77, 1},
                               {"chunk tree", at.chunk + 10000, 77, 1},
                               {"root tree", at.root + 10000, 77, 1},
                               {"extent tree", at.extent + 10000, 77, 1}};
  expect_copied_whole(disk, unmended, "checksum wrong");
}

} // namespace
} // namespace kvmport::test
