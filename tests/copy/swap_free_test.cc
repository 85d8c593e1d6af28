// SPDX-License-Identifier: Apache-2.0
#include "tests/copy/free_fixtures.h"

namespace kvmport::test {
namespace {

void make_swap(const fs::path& disk) {
  fill_with_junk(disk, 8 * mib);
  run("mkswap -q -f -L swapping " + disk.string());
}

TEST(SwapFree, OnlyTheHeaderPageIsCopied) {
  TempDir dir;
  const fs::path disk = dir.path() / "disk", copy = dir.path() / "copy";
  make_swap(disk);
  const FreeMap map = copy_without_free(disk, copy);
  EXPECT_EQ(map.free, (std::vector<Range>{{4096, 8 * mib - 4096}})) << notes_of(map);
  const std::string before = must_run({"blkid", "-p", "-o", "export", disk.string()});
  const std::string after = must_run({"blkid", "-p", "-o", "export", copy.string()});
  EXPECT_EQ(before.substr(before.find('\n')), after.substr(after.find('\n')));
}

/// A swap area that is smaller than its partition: what lies behind it is not of swap.
TEST(SwapFree, WhatLiesBehindItIsCopied) {
  TempDir dir;
  const fs::path disk = dir.path() / "disk";
  make_swap(disk);
  fs::resize_file(disk, 9 * mib);
  const auto image = open_result(disk, "raw");
  EXPECT_EQ(find_free_blocks(*image).free, (std::vector<Range>{{4096, 8 * mib - 4096}}));
}

constexpr std::uint64_t text(const char* eight) {
  std::uint64_t value = 0;
  for (int i = 7; i >= 0; i--)
    value = value << 8 | static_cast<unsigned char>(eight[i]);
  return value;
}

TEST(SwapFree, DoubtfulAreasAreCopiedWhole) {
  static const Doubtful edits[] = {
      {"hibernated", 4086, text("S1SUSPEN"), 8},
      {"hibernated long ago", 4086, text("S2SUSPEN"), 8},
      {"uswsusp", 4086, text("ULSUSPEN"), 8},
      {"tuxonice", 4086, 0x0ce55698e902c3ed, 8},
      {"old kind", 4086, text("SWAP-SPA"), 8},
      {"version", 1024, 2, 4},
      {"larger than the disk", 1028, 2048, 4},
      {"much larger", 1028, 0xffffffff, 4},
      {"no pages", 1028, 0, 4},
  };
  TempDir dir;
  make_swap(dir.path() / "good");
  // The signatures are of nine or ten bytes, the edits of eight: the rest is as in SWAPSPACE2.
  {
    UniqueFd fd = open_existing(dir.path() / "good");
    for (const char* name : {"S1SUSPEND", "S2SUSPEND", "ULSUSPEND", "LINHIB0001"}) {
      write_exact(fd.get(), 4086, as_bytes(std::string(name) + std::string(10 - std::strlen(name), '\0')), "swap");
      const auto image = open_result(dir.path() / "good", "raw");
      const FreeMap map = find_free_blocks(*image);
      EXPECT_TRUE(map.free.empty());
      EXPECT_NE(notes_of(map).find("hibernated"), std::string::npos) << name << notes_of(map);
    }
    write_exact(fd.get(), 4086, as_bytes("SWAPSPACE2"), "swap");
  }
  const std::span<const Doubtful> all(edits);
  expect_copied_whole(dir.path() / "good", all.subspan(3, 1));
  expect_copied_whole(dir.path() / "good", all.subspan(5));
}

/// What a hibernated system wrote last may be known to its memory alone.
TEST(SwapFree, NothingIsFreeBesideAHibernatedSystem) {
  TempDir dir;
  const fs::path disk = dir.path() / "disk";
  ASSERT_EQ(::ftruncate(create_new(disk).get(), 64 * mib), 0);
  write_file_durably(disk.string() + ".sfdisk", "label: dos\n2048,65536,83\n67584,16384,82\n");
  must_run({"sh", "-c", "sfdisk -q --no-reread --no-tell-kernel \"$0\" < \"$0\".sfdisk", disk.string()});
  run("mke2fs -q -F -t ext4 -E nodiscard,offset=" + std::to_string(mib) + " " + disk.string() + " 32M");
  make_swap(dir.path() / "swap");
  for (const char* signature : {"SWAPSPACE2", "S1SUSPEND\0"}) {
    const UniqueFd swap = open_source(dir.path() / "swap"), fd = open_existing(disk);
    Bytes page(4096);
    read_exact(swap.get(), 0, page, "swap");
    std::memcpy(page.data() + 4086, signature, 10);
    write_exact(fd.get(), 33 * mib, page, "disk");
    const auto image = open_result(disk, "raw");
    const FreeMap map = find_free_blocks(*image);
    EXPECT_EQ(map.free.empty(), signature[1] == '1') << signature << ": " << notes_of(map);
  }
}

TEST(SwapFree, PagesOfAnotherSizeAreCopiedWhole) {
  TempDir dir;
  const fs::path disk = dir.path() / "disk";
  fill_with_junk(disk, 8 * mib);
  run("mkswap -q -f -p 65536 " + disk.string());
  const auto image = open_result(disk, "raw");
  const FreeMap map = find_free_blocks(*image);
  EXPECT_TRUE(map.free.empty());
  EXPECT_NE(notes_of(map).find("4 KiB"), std::string::npos) << notes_of(map);
}

} // namespace
} // namespace kvmport::test
