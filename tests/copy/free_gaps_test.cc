// SPDX-License-Identifier: Apache-2.0
#include "tests/copy/free_fixtures.h"

namespace kvmport::test {
namespace {

void make_disk(const fs::path& disk, std::uint64_t size, const std::string& script) {
  fs::remove(disk);
  ASSERT_EQ(::ftruncate(create_new(disk).get(), static_cast<off_t>(size)), 0);
  fs::remove(disk.string() + ".sfdisk");
  write_file_durably(disk.string() + ".sfdisk", script);
  must_run({"sh", "-c", "sfdisk -q --no-reread --no-tell-kernel \"$0\" < \"$0\".sfdisk", disk.string()});
}

FreeMap free_of(const fs::path& disk) {
  const auto image = open_result(disk, "raw");
  return find_free_blocks(*image);
}

/// Partitions of 10 MiB at 1 and at `second` MiB, without filesystems.
std::string two(const char* label, unsigned second, const char* type) {
  return std::string("label: ") + label + "\nstart=2048,size=20480,type=" + type +
         "\nstart=" + std::to_string(second * 2048) + ",size=20480,type=" + type + "\n";
}

struct GapCase {
  const char* name;
  std::string script;
  std::vector<Range> free; ///< MiB of a disk of 200
};

TEST(FreeGaps, OnlyLargeOnesBetweenKnownPartitionsAreFree) {
  const GapCase cases[] = {
      {"gpt", two("gpt", 50, "L"), {{12, 37}, {61, 136}}},
      {"dos", two("dos", 50, "83"), {{12, 37}, {61, 136}}},
      {"dos, Windows", two("dos", 50, "7"), {{12, 37}, {61, 136}}},
      {"small gap", two("dos", 27, "83"), {{38, 159}}},
      {"before the first", "label: dos\nstart=204800,size=20480,type=83\n", {{111, 86}}},
      {"up to the end", "label: gpt\nstart=2048,size=20480,type=L\nstart=370000,size=36000,type=L\n", {{12, 0}}},
      {"dynamic disk", two("dos", 50, "42"), {}},
      {"BSD", two("dos", 50, "a5"), {}},
      {"LDM", two("gpt", 50, "AF9B60A0-1431-4F62-BC68-3311714A69AD"), {}},
      {"unknown", two("gpt", 50, "01234567-89AB-CDEF-0123-456789ABCDEF"), {}},
      {"extended",
       "label: dos\nstart=2048,size=20480,type=83\nstart=102400,size=204800,type=5\n"
       "start=204800,size=20480,type=83\n",
       {{12, 37}, {151, 46}}},
  };
  TempDir dir;
  for (const GapCase& one : cases) {
    make_disk(dir.path() / "disk", 200 * mib, one.script);
    const FreeMap map = free_of(dir.path() / "disk");
    std::vector<Range> wanted;
    for (const Range& range : one.free)
      wanted.push_back({range.offset * mib, range.length * mib});
    if (one.name == std::string("up to the end"))
      wanted = {{12 * mib, 370000 * 512ULL - 13 * mib}};
    EXPECT_EQ(map.free, wanted) << one.name << ": " << notes_of(map);
    EXPECT_FALSE(map.notes.empty()) << one.name;
  }
}

/// What was written somewhere makes all gaps used.
TEST(FreeGaps, SignaturesAreSeen) {
  TempDir dir;
  const fs::path disk = dir.path() / "disk";
  const auto text = [](const char* eight) {
    std::uint64_t value = 0;
    std::memcpy(&value, eight, 8);
    return value;
  };
  make_disk(disk, 200 * mib, two("dos", 50, "83"));
  const Doubtful edits[] = {
      {"a CD", 32768, text("\1CD001\1"), 8},
      {"swap at the beginning", 11 * mib + 4088, text("APSPACE2"), 8},
      {"btrfs in the second", 60 * mib + 65536 + 64, text("_BHRfS_M"), 8},
      {"dynamic disk", 446 + 4, 0x42, 1},
      {"overlap", 446 + 12, 200000, 4},
      {"past the end", 446 + 16 + 12, 0x7fffffff, 4},
  };
  {
    UniqueFd fd = open_existing(disk);
    write_exact(fd.get(), 11 * mib + 4086, as_bytes("SW"), "disk"); // the rest of SWAPSPACE2 is an edit
    Bytes swap(8);
    store_le<std::uint32_t>(swap, 0, 1);
    store_le<std::uint32_t>(swap, 4, 100);
    write_exact(fd.get(), 11 * mib + 1024, swap, "disk");
  }
  expect_copied_whole(disk, edits);
}

/// The backup GPT of a disk that has grown stands where the disk ended before.
TEST(FreeGaps, OldBackupTableIsKept) {
  TempDir dir;
  const fs::path disk = dir.path() / "disk", copy = dir.path() / "copy";
  make_disk(disk, 100 * mib, "label: gpt\nstart=2048,size=20480,type=L\n");
  fs::resize_file(disk, 200 * mib);
  const FreeMap map = copy_without_free(disk, copy);
  EXPECT_FALSE(map.free.empty()) << notes_of(map);
  for (const Range& range : map.free)
    EXPECT_TRUE(range.end() <= 99 * mib || range.offset >= 100 * mib) << range.offset;
  EXPECT_EQ(sha256_of(copy), sha256_of(disk));
}

/// A partition that a disk was cut off before is no gap.
TEST(FreeGaps, PartitionPastTheEndIsKept) {
  TempDir dir;
  const fs::path disk = dir.path() / "disk";
  make_disk(disk, 200 * mib, two("gpt", 50, "L"));
  fs::resize_file(disk, 55 * mib);
  const FreeMap map = free_of(disk);
  EXPECT_TRUE(map.free.empty()) << notes_of(map);
  EXPECT_NE(notes_of(map).find("outside"), std::string::npos) << notes_of(map);
}

} // namespace
} // namespace kvmport::test
