// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/free_map.h"
#include "tests/copy/free_fixtures.h"

namespace kvmport::test {
namespace {

constexpr std::uint64_t disk_size = 320 * mib;

void make_xfs(const fs::path& disk, const std::string& options) {
  fill_with_junk(disk, disk_size, 4);
  run("mkfs.xfs -q -K -f " + options + " " + disk.string());
}

TEST(XfsFree, FilesSurviveACopyWithoutFreeBlocks) {
  for (const char* options : {"", "-b size=1024 -m rmapbt=1",
                              "--unsupported -m finobt=0,reflink=0,bigtime=0,inobtcount=0 -d agcount=7 -i sparse=0",
                              "-s size=4096 -l su=64k", "--unsupported -l size=20m -b size=2048"}) {
    TempDir dir;
    const fs::path disk = dir.path() / "disk";
    make_xfs(disk, options);
    std::map<std::string, std::string> wanted;
    {
      Mounted mounted(disk, dir.path() / "mnt");
      if (!mounted)
        GTEST_SKIP() << "no loop mount here, so XFS is not tested: " << mounted.why();
      use_filesystem(mounted.path());
      wanted = files_below(mounted.path());
    }
    expect_files_survive(disk, wanted, 40 * mib, options);
  }
}

/// The log has gone round several times.
TEST(XfsFree, LogThatWrappedIsRead) {
  TempDir dir;
  const fs::path disk = dir.path() / "disk";
  make_xfs(disk, "--unsupported -l size=10m");
  std::map<std::string, std::string> wanted;
  {
    Mounted mounted(disk, dir.path() / "mnt");
    if (!mounted)
      GTEST_SKIP() << "no loop mount here, so XFS is not tested: " << mounted.why();
    for (unsigned round = 0; round < 6; round++) {
      for (unsigned i = 0; i < 4000; i++)
        std::ofstream(mounted.path() / std::to_string(i)) << round << " " << i;
      must_run({"sync", "-f", mounted.path().string()});
      for (unsigned i = round % 2; i < 4000; i += 2)
        fs::remove(mounted.path() / std::to_string(i));
    }
    wanted = files_below(mounted.path());
  }
  Bytes cycle(8);
  UniqueFd fd = open_source(disk);
  Bytes super(512);
  read_exact(fd.get(), 0, super, "disk");
  const auto start = load_be<std::uint64_t>(super, 48);
  const unsigned shift = std::to_integer<unsigned>(super[124]);
  const std::uint64_t log =
      ((start >> shift) * load_be<std::uint32_t>(super, 84) + (start & ((1ULL << shift) - 1))) * 4096;
  read_exact(fd.get(), log, cycle, "disk");
  const auto first = load_be<std::uint32_t>(cycle, 0);
  EXPECT_GT(first == 0xfeedbabe ? load_be<std::uint32_t>(cycle, 4) : first, 1U) << "the log did not wrap";
  expect_files_survive(disk, wanted, 40 * mib, "wrapped");
}

/// Kernels without XFS version 4 can't mount it: mkfs puts each file into one piece, which must be in the copy.
TEST(XfsFree, FilesOfVersion4Survive) {
  for (const char* options : {"-m crc=0", "-m crc=0 -l lazy-count=0"}) {
    TempDir dir;
    const fs::path disk = dir.path() / "disk", copy = dir.path() / "copy", tree = dir.path() / "tree";
    make_tree(tree);
    std::string proto = "/dev/null\n0 0\nd--755 0 0\n";
    for (const char* name : {"a/one", "a/two", "a/b/three", "four", "last"})
      proto += fs::path(name).filename().string() + " ---644 0 0 " + (tree / name).string() + "\n";
    write_file_durably(dir.path() / "proto", proto + "$\n");
    make_xfs(disk, std::string(options) + " -p " + (dir.path() / "proto").string());
    CopyStats stats;
    const FreeMap map = copy_without_free(disk, copy, &stats);
    EXPECT_GT(stats.skipped, 40 * mib) << options << ": " << notes_of(map);
    const Bytes all = content_of(*open_result(copy, "raw"));
    for (const auto& [name, digest] : files_below(tree)) {
      if (name.find("deleted") != std::string::npos)
        continue;
      const std::string content = read_file(tree / name);
      bool found = false;
      for (std::uint64_t at = 0; at + content.size() <= all.size() && !found; at += 1024)
        found = std::memcmp(all.data() + at, content.data(), content.size()) == 0;
      EXPECT_TRUE(found) << options << " " << name;
    }
  }
}

TEST(XfsFree, FilesystemThatWasNotUnmountedIsCopiedWhole) {
  for (const bool freeze : {false, true}) {
    TempDir dir;
    const fs::path disk = dir.path() / "disk";
    make_xfs(disk, "");
    Mounted mounted(disk, dir.path() / "mnt");
    if (!mounted)
      GTEST_SKIP() << "no loop mount here, so crash snapshots are not tested: " << mounted.why();
    expect_crash_keeps_files(disk, mounted, freeze);
  }
}

/// A new UUID leaves the old one in all metadata.
TEST(XfsFree, ChangedUuidIsUnderstood) {
  TempDir dir;
  const fs::path disk = dir.path() / "disk";
  ASSERT_EQ(::ftruncate(create_new(disk).get(), disk_size), 0);
  run("mkfs.xfs -q -f " + disk.string());
  run("xfs_admin -U generate " + disk.string());
  const auto image = open_result(disk, "raw");
  const FreeMap map = find_free_blocks(*image);
  EXPECT_FALSE(map.free.empty()) << notes_of(map);
}

constexpr std::uint64_t be16(std::uint16_t value) {
  return __builtin_bswap16(value);
}
constexpr std::uint64_t be32(std::uint32_t value) {
  return __builtin_bswap32(value);
}
constexpr std::uint64_t be64(std::uint64_t value) {
  return __builtin_bswap64(value);
}

// mkfs.xfs of xfsprogs: the group's header in sector 1, its free list in 3, the trees' roots in blocks 1 and 2.
constexpr std::uint64_t agf = 512, agfl = 3 * 512, bno = 4096, cnt = 8192;

const Doubtful either_version[] = {
    {"block size", 4, be32(8192), 4},
    {"block size 0", 4, 0, 4},
    {"block log", 120, 13, 1},
    {"more blocks than the partition", 8, be64(disk_size / 4096 + 1), 8},
    {"huge number of blocks", 8, ~0ULL, 8},
    {"realtime blocks", 16, be64(1), 8},
    {"log elsewhere", 48, 0, 8},
    {"log outside", 48, ~0ULL, 8},
    {"log in another place", 48, be64(16), 8},
    {"blocks of a group", 84, be32(20479), 4},
    {"no blocks of a group", 84, 0, 4},
    {"many groups", 88, be32(5), 4},
    {"no groups", 88, 0, 4},
    {"log length", 96, be32(20480), 4},
    {"no log", 96, 0, 4},
    {"version", 100, be16(0xb4a6), 2},
    {"shared version", 100, be16(0xb6a5), 2},
    {"sector size", 102, be16(1024), 2},
    {"sector size 0", 102, 0, 2},
    {"group log", 124, 16, 1},
    {"group log huge", 124, 77, 1},
    {"not finished", 126, 1, 1},
    {"free count", 144, be64(1000), 8},
    {"more features", 200, be32(0x80000000), 4},
    {"group's magic", agf, 0, 4},
    {"group's number", agf + 8, be32(1), 4},
    {"group's length", agf + 12, be32(20000), 4},
    {"root in the header", agf + 16, 0, 4},
    {"root outside", agf + 16, ~0ULL, 4},
    {"root of the other tree", agf + 16, be32(2), 4},
    {"level 0", agf + 28, 0, 4},
    {"level 2", agf + 28, be32(2), 4},
    {"level huge", agf + 28, ~0ULL, 4},
    {"free list's begin", agf + 40, be32(2), 4},
    {"free list's end outside", agf + 44, ~0ULL, 4},
    {"free list's count", agf + 48, be32(2), 4},
    {"group's free count", agf + 52, be32(10000), 4},
    {"group's longest", agf + 56, be32(100), 4},
    {"group's tree blocks", agf + 60, be32(3), 4},
    {"tree's magic", bno, 0, 4},
    {"tree's level", bno + 4, be16(1), 2},
    {"tree without records", bno + 6, 0, 2},
    {"tree with many records", bno + 6, be16(0xffff), 2},
    {"other tree's magic", cnt, 0, 4},
};
const Doubtful version5[] = {
    {"unknown compat", 208, be32(1), 4},
    {"unknown ro_compat", 212, be32(0x1000000f), 4},
    {"unknown incompat", 216, be32(0x1000000b), 4},
    {"metadata directory", 216, be32(0x100 | 0xb), 4},
    {"needs repair", 216, be32(0x1b), 4},
    {"log incompat", 220, be32(1), 4},
    {"other UUID", 32, 77, 8},
    {"group's UUID", agf + 64, 77, 8},
    {"free list's magic", agfl, 0, 4},
    {"free list's block outside", agfl + 40, ~0ULL, 4},
    {"free list's block twice", agfl + 40, be32(7), 4},
    {"tree's place", bno + 16, be64(9), 8},
    {"tree's UUID", bno + 32, 77, 8},
    {"tree's owner", bno + 48, be32(1), 4},
    {"record in the header", bno + 56, 0, 4},
    {"record outside", bno + 56, ~0ULL, 4},
    {"record too long", bno + 60, be32(20480), 4},
    {"record empty", bno + 60, 0, 4},
};

/// Superblock and group headers have a checksum over their sector, trees over their block.
void mend(int fd, const Doubtful& edit) {
  const std::uint64_t from = edit.offset < 4096 ? edit.offset / 512 * 512 : edit.offset / 4096 * 4096;
  const std::size_t at = from == 0 ? 224 : from == agf ? 216 : from == agfl ? 32 : 52;
  Bytes bytes(from < 4096 ? 512 : 4096);
  read_exact(fd, from, bytes, "bad");
  store_le<std::uint32_t>(bytes, at, crc32c_with_hole(bytes, at));
  write_exact(fd, from, bytes, "bad");
}

TEST(XfsFree, DamagedFilesystemsAreCopiedWhole) {
  TempDir dir;
  for (const auto* file : {"v4", "v5"}) {
    UniqueFd fd = create_new(dir.path() / file);
    ASSERT_EQ(::ftruncate(fd.get(), disk_size), 0);
  }
  run("mkfs.xfs -q -f -m crc=0 " + (dir.path() / "v4").string());
  run("mkfs.xfs -q -f " + (dir.path() / "v5").string());
  expect_copied_whole(dir.path() / "v4", std::span(either_version).subspan(1), "v4", false);
  expect_copied_whole(dir.path() / "v5", either_version, "v5", true, mend);
  expect_copied_whole(dir.path() / "v5", version5, "v5", true, mend);
  const Doubtful unmended[] = {{"superblock", 108, 77, 1},
                               {"header", agf + 30, 77, 1},
                               {"free list", agfl + 100, 77, 1},
                               {"tree", bno + 1000, 77, 1},
                               {"other tree", cnt + 1000, 77, 1}};
  expect_copied_whole(dir.path() / "v5", unmended, "v5 without checksums");
}

/// Of a log that mkfs made: one unmount record at its beginning, and zeros.
TEST(XfsFree, DoubtfulLogsAreCopiedWhole) {
  TempDir dir;
  const fs::path disk = dir.path() / "disk";
  {
    UniqueFd fd = create_new(disk);
    ASSERT_EQ(::ftruncate(fd.get(), disk_size), 0);
  }
  run("mkfs.xfs -q -f -d agcount=2 -l agnum=1 " + disk.string());
  Bytes super(512);
  {
    UniqueFd fd = open_source(disk);
    read_exact(fd.get(), 0, super, "disk");
  }
  const auto start = load_be<std::uint64_t>(super, 48);
  const unsigned shift = std::to_integer<unsigned>(super[124]);
  const std::uint64_t log =
      ((start >> shift) * load_be<std::uint32_t>(super, 84) + (start & ((1ULL << shift) - 1))) * 4096;
  const Doubtful edits[] = {
      {"wiped", log, 0, 4},
      {"cycle of the record", log + 4, be32(7), 4},
      {"version", log + 8, be32(9), 4},
      {"length", log + 12, be32(1024), 4},
      {"length huge", log + 12, ~0ULL, 4},
      {"place", log + 16, be64(1ULL << 32 | 5), 8},
      {"operations", log + 40, be32(2), 4},
      {"format", log + 300, 0, 4},
      {"UUID", log + 304, 77, 4},
      {"size", log + 320, ~0ULL, 4},
      {"not XFS", log + 512 + 8, 0x69, 1},
      {"a start record", log + 512 + 9, 1, 1},
      {"a block after it", log + 1024, be32(1), 4},
      {"a block in the middle", log + (1 << 20), be32(1), 4},
      {"a newer block", log + (1 << 20) + 512, be32(2), 4},
      {"the last block", log + load_be<std::uint32_t>(super, 96) * 4096ULL - 512, be32(1), 4},
  };
  expect_copied_whole(disk, edits);
}

} // namespace
} // namespace kvmport::test
