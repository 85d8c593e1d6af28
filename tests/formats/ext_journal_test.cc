// SPDX-License-Identifier: Apache-2.0
// Journals are made by debugfs(8) and by this machine's kernel, and replayed by ours and by e2fsck(8): both must leave
// the same bytes.
#include "base/process.h"
#include "formats/ext2_io.h"
#include "formats/ext_journal.h"
#include "formats/overlay.h"
#include "formats/readers.h"
#include "tests/formats/fixtures.h"

#include <fstream>
#include <gmock/gmock.h>
#include <sstream>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

using testing::HasSubstr;

constexpr std::uint64_t no_cap = std::uint64_t{1} << 40;
constexpr std::uint64_t in_disk = 1U << 20; ///< where the filesystem begins in our disk

void put_file(const fs::path& path, std::string_view content) {
  std::ofstream(path, std::ios::binary) << content;
}

bool same(ByteSpan a, ByteSpan b, std::size_t from, std::size_t length) {
  return std::memcmp(a.data() + from, b.data() + from, length) == 0;
}

/// A filesystem of 16 MiB in a file, made with mke2fs's `options`, and its journal.
class Filesystem {
 public:
  explicit Filesystem(std::vector<std::string> options) {
    fs::create_directories(dir_.path() / "tree/etc");
    put_file(dir_.path() / "tree/etc/os-release", "ID=test\n");
    std::vector<std::string> argv{"mke2fs", "-q", "-F", "-d", (dir_.path() / "tree").string()};
    argv.insert(argv.end(), options.begin(), options.end());
    argv.insert(argv.end(), {path().string(), "16M"});
    must_run(argv);
  }

  fs::path path() const { return dir_.path() / "fs.img"; }
  const fs::path& dir() const { return dir_.path(); }
  Bytes bytes() const {
    const std::string text = read_file(path(), 32U << 20);
    const ByteSpan all = as_bytes(text);
    return {all.begin(), all.end()};
  }
  void set_bytes(ByteSpan bytes) const { write_exact(open_existing(path()).get(), 0, bytes, path().string()); }

  /// Commands of debugfs, one a line.
  std::string debugfs(const std::string& commands) const {
    put_file(dir() / "commands", commands);
    return must_run({"debugfs", "-w", "-f", (dir() / "commands").string(), path().string()}, dir());
  }
  /// Byte offset of a block of the journal's file.
  std::uint64_t log(std::uint64_t block) const {
    if (log_.empty()) {
      std::string commands;
      for (int i = 0; i < 4096; i++)
        commands += "bmap <8> " + std::to_string(i) + "\n";
      put_file(dir() / "commands", commands);
      std::istringstream said(must_run({"debugfs", "-f", (dir() / "commands").string(), path().string()}));
      const std::size_t size = block_size();
      for (std::string line; std::getline(said, line);)
        if (!line.starts_with("debugfs"))
          log_.push_back(std::stoull(line) * size);
    }
    return log_.at(block);
  }
  std::size_t block_size() const {
    std::array<std::byte, 4> log2{};
    read_exact(open_source(path()).get(), 1024 + 24, log2, "superblock");
    return 1024U << load_le<std::uint32_t>(log2, 0);
  }

  /// Changes the journal's superblock; its checksum is made good.
  void edit_super(const std::function<void(Bytes&)>& edit) const {
    Bytes super = get_log(0);
    edit(super);
    if ((load_be<std::uint32_t>(super, 40) & 24) != 0) {
      store_be<std::uint32_t>(super, 252, 0);
      store_be<std::uint32_t>(super, 252,
                              ::ext2fs_crc32c_le(~0U, reinterpret_cast<unsigned char*>(super.data()), 1024));
    }
    put_log(0, 0, super);
  }
  void put_super(std::size_t offset, std::uint32_t value) const {
    edit_super([&](Bytes& super) { store_be<std::uint32_t>(super, offset, value); });
  }
  Bytes get_log(std::uint64_t block) const {
    Bytes data(block_size());
    read_exact(open_source(path()).get(), log(block), data, "log");
    return data;
  }
  void put_log(std::uint64_t block, std::size_t offset, ByteSpan data) const {
    write_exact(open_existing(path()).get(), log(block) + offset, data, "log");
  }
  void flip_log(std::uint64_t block, std::size_t offset) const {
    Bytes data = get_log(block);
    data.at(offset) ^= std::byte{4};
    put_log(block, 0, data);
  }

  /// The same filesystem after e2fsck has replayed the journal.
  Bytes replayed_by_e2fsck() const {
    const fs::path copy = dir() / "copy.img";
    fs::copy_file(path(), copy, fs::copy_options::overwrite_existing);
    const auto run = run_process({"e2fsck", "-y", "-E", "journal_only", copy.string()}, std::chrono::minutes(1));
    EXPECT_LE(run.exit_code, 1) << run.out;
    const std::string text = read_file(copy, 32U << 20);
    const ByteSpan all = as_bytes(text);
    return {all.begin(), all.end()};
  }

  /// A disk with the filesystem in the middle of it, replayed.
  struct Ours {
    Bytes bytes;
    JournalReplay replay;
  };
  Ours replayed_by_us() const {
    Bytes disk(in_disk);
    const Bytes all = bytes();
    disk.insert(disk.end(), all.begin(), all.end());
    disk.resize(disk.size() + 4096);
    const auto image = open_raw(SourceFile::from_memory(disk, "memory"), OpenContext{});
    Overlay overlay(*image, dir(), no_cap);
    Ours ours;
    try {
      ours.replay = replay_ext_journal(overlay, {in_disk, all.size()});
    } catch (const Error&) {
      EXPECT_TRUE(overlay.dirty().empty()) << "an error must leave the overlay as it was";
      throw;
    }
    EXPECT_EQ(read_all(*image, 0, disk.size()), disk) << "the disk itself was written";
    ours.bytes = read_all(overlay, in_disk, all.size());
    return ours;
  }

  /// Both replays, which may differ in the superblocks alone: e2fsck notes the time.
  JournalReplay compare() const {
    const Ours ours = replayed_by_us();
    const Bytes theirs = replayed_by_e2fsck();
    const std::uint64_t journal = log(0);
    for (std::size_t at = 0; at < theirs.size(); at += 1024)
      if (at != 1024 && at != journal) {
        EXPECT_TRUE(same(ours.bytes, theirs, at, 1024)) << "in the KiB at " << at;
      }
    EXPECT_EQ(load_be<std::uint32_t>(ours.bytes, journal + 24), load_be<std::uint32_t>(theirs, journal + 24));
    EXPECT_EQ(load_be<std::uint32_t>(ours.bytes, journal + 28), 0U);
    set_bytes(ours.bytes);
    EXPECT_THAT(must_run({"dumpe2fs", "-h", path().string()}), testing::Not(HasSubstr("needs_recovery")));
    const auto check = run_process({"e2fsck", "-fn", path().string()}, std::chrono::minutes(1));
    EXPECT_EQ(check.exit_code, 0) << check.out;
    EXPECT_FALSE(replayed_by_us().replay.needed) << "it was replayed already";
    return ours.replay;
  }

 private:
  TempDir dir_;
  mutable std::vector<std::uint64_t> log_; ///< where each block of the journal lies; 0: nowhere
};

struct Shape {
  const char* name;
  std::vector<std::string> options;
  const char* open; ///< how debugfs opens the journal
  bool every_copy_is_checked = false;
};

const std::vector<Shape> shapes{
    {"ext3", {"-t", "ext3", "-b", "1024"}, "jo"},
    {"wide_without_checksums", {"-t", "ext4", "-O", "^metadata_csum,64bit", "-b", "2048"}, "jo"},
    {"v2", {"-t", "ext4", "-O", "metadata_csum,^64bit", "-b", "1024"}, "jo -c -v 2", true},
    {"v2_wide", {"-t", "ext4", "-O", "metadata_csum,64bit", "-b", "1024"}, "jo -c -v 2", true},
    {"v3", {"-t", "ext4", "-O", "metadata_csum,^64bit", "-b", "1024"}, "jo -c -v 3", true},
    {"v3_wide", {"-t", "ext4", "-O", "metadata_csum,64bit", "-b", "4096"}, "jo -c -v 3", true},
};

/// Four transactions: 5 blocks, the last of which begins like a journal block; one of them again and one new; two
/// revoked; one of those again. They lie in the log's blocks 1-7, 8-11, 12-13 and 14-16.
void write_journal(const Filesystem& one, const char* open) {
  const std::size_t block = one.block_size();
  Bytes data = random_bytes(5 * block, 1);
  store_be<std::uint32_t>(data, 4 * block, 0xc03b3998);
  put_file(one.dir() / "data", as_text(data));
  put_file(one.dir() / "again", as_text(random_bytes(2 * block, 2)));
  put_file(one.dir() / "late", as_text(random_bytes(block, 3)));
  one.debugfs(std::string(open) + "\njw -b 4000,4001,4002,4003,4004 data\njw -b 4001,4050 again\n" +
              "jw -r 4002,4003\njw -b 4003 late\njc\n");
}

class JournalShapes : public testing::TestWithParam<Shape> {};

TEST_P(JournalShapes, AreReplayedAsE2fsckDoes) {
  const Filesystem one(GetParam().options);
  const std::size_t block = one.block_size();
  const Bytes before = one.bytes();
  write_journal(one, GetParam().open);
  const JournalReplay replay = one.compare();
  EXPECT_TRUE(replay.needed);
  EXPECT_EQ(replay.transactions, 4U);
  EXPECT_EQ(replay.blocks, 5U); // 4000, 4001, 4003, 4004 and 4050
  EXPECT_EQ(replay.revoked, 2U);
  EXPECT_FALSE(replay.fast_commits);
  const Bytes after = one.bytes();
  EXPECT_TRUE(same(before, after, 4002 * block, block)) << "it was revoked";
  EXPECT_EQ(load_be<std::uint32_t>(after, 4004 * block), 0xc03b3998U) << "it was escaped";
  EXPECT_TRUE(as_text(ByteSpan(after).subspan(4003 * block, block)) == read_file(one.dir() / "late"));
}

TEST_P(JournalShapes, SequenceNumbersAndTheLogMayWrapAround) {
  const Filesystem one(GetParam().options);
  one.put_super(24, 0xfffffffe);
  write_journal(one, GetParam().open);
  // The log is moved on, so that it runs over its end: block 1 becomes block 1 + shift.
  const std::size_t count = load_be<std::uint32_t>(one.get_log(0), 16) - 1, shift = count - 6;
  std::vector<Bytes> log;
  for (std::size_t i = 0; i < 20; i++)
    log.push_back(one.get_log(1 + i));
  for (std::size_t i = 0; i < 20; i++)
    one.put_log(1 + (i + shift) % count, 0, log[i]);
  one.put_super(28, static_cast<std::uint32_t>(1 + shift));
  EXPECT_EQ(one.compare().transactions, 4U);
}

TEST_P(JournalShapes, WhatWasNotCommittedIsDropped) {
  const Filesystem one(GetParam().options);
  write_journal(one, GetParam().open);
  one.put_log(16, 0, Bytes(one.block_size()));
  const JournalReplay replay = one.compare();
  EXPECT_EQ(replay.transactions, 3U);
  EXPECT_EQ(replay.blocks, 4U);
}

TEST_P(JournalShapes, AnEmptyLogOnlyLosesTheFlag) {
  const Filesystem one(GetParam().options);
  one.debugfs("feature needs_recovery\n");
  EXPECT_EQ(one.compare().blocks, 0U);
}

/// Whatever bit is wrong: an error that changes nothing, or blocks as they should be.
TEST_P(JournalShapes, FlippedBitsAreFoundOrHarmless) {
  const Filesystem one(GetParam().options);
  write_journal(one, GetParam().open);
  const Bytes good = one.bytes();
  const std::size_t block = one.block_size();
  const Range written{4000 * block, 51 * block};
  const auto image = open_raw(SourceFile::from_memory(good, "memory"), OpenContext{});
  const Bytes right = one.replayed_by_us().bytes;
  std::mt19937 random(7);
  unsigned errors = 0;
  for (int i = 0; i < 300; i++) {
    Overlay damaged(*image, one.dir(), no_cap);
    const std::size_t at = one.log(i % 2 == 0 ? random() % 17 : 0) + random() % (i % 2 == 0 ? block : 128);
    const std::byte flipped = good[at] ^ static_cast<std::byte>(1U << random() % 8);
    damaged.write(at, {&flipped, 1});
    Overlay overlay(damaged, one.dir(), no_cap);
    try {
      const JournalReplay replay = replay_ext_journal(overlay, {0, good.size()});
      // With checksums a transaction is replayed right or not at all: a wrong magic or number ends the log.
      if (GetParam().every_copy_is_checked && replay.transactions == 4) {
        EXPECT_TRUE(std::equal(right.begin() + static_cast<std::ptrdiff_t>(written.offset),
                               right.begin() + static_cast<std::ptrdiff_t>(written.end()),
                               read_all(overlay, written.offset, written.length).begin()))
            << "flipped at " << at;
      }
    } catch (const Error& error) {
      EXPECT_THAT(error.code(), testing::StartsWith("FILESYSTEM_JOURNAL_")) << error.what();
      EXPECT_TRUE(overlay.dirty().empty()) << "an error must leave the overlay as it was";
      errors++;
    }
  }
  EXPECT_GE(errors, GetParam().every_copy_is_checked ? 150U : 10U);
}

INSTANTIATE_TEST_SUITE_P(All, JournalShapes, testing::ValuesIn(shapes),
                         [](const auto& param_info) { return param_info.param.name; });

struct Damage {
  const char* name;
  unsigned shape; ///< in `shapes`
  std::function<void(const Filesystem&)> edit;
  const char *code, *text;
};

class DamagedJournals : public testing::TestWithParam<Damage> {};

TEST_P(DamagedJournals, AreRefusedByName) {
  const Filesystem one(shapes[GetParam().shape].options);
  write_journal(one, shapes[GetParam().shape].open);
  GetParam().edit(one);
  EXPECT_THAT(expect_error(GetParam().code, [&] { one.replayed_by_us(); }), HasSubstr(GetParam().text));
}

constexpr const char* corrupt = "FILESYSTEM_JOURNAL_CORRUPT";
constexpr const char* unsupported = "FILESYSTEM_JOURNAL_UNSUPPORTED";

/// Descriptor blocks of one transaction all the way round, never a commit.
void endless(const Filesystem& one) {
  const Bytes descriptor = one.get_log(1);
  const std::uint32_t count = load_be<std::uint32_t>(one.get_log(0), 16);
  for (std::uint32_t i = 1; i < count; i++)
    one.put_log(i, 0, descriptor);
}

void name_block(const Filesystem& one, std::uint32_t number) {
  Bytes raw(4);
  store_be<std::uint32_t>(raw, 0, number);
  one.put_log(1, 12, raw);
}

INSTANTIATE_TEST_SUITE_P(
    All, DamagedJournals,
    testing::Values(
        Damage{"copy", 4, [](auto& f) { f.flip_log(2, 100); }, corrupt, "copy of block 4000"},
        Damage{"copy_v2", 2, [](auto& f) { f.flip_log(2, 100); }, corrupt, "copy of block 4000"},
        Damage{"superseded_copy", 4, [](auto& f) { f.flip_log(3, 100); }, corrupt, "copy of block 4001"},
        Damage{"descriptor", 5, [](auto& f) { f.flip_log(1, 200); }, corrupt, "transaction 1"},
        Damage{"revoke_block", 5, [](auto& f) { f.flip_log(12, 200); }, corrupt, "transaction 3"},
        Damage{"commit_block", 5, [](auto& f) { f.flip_log(7, 200); }, corrupt, "transaction 1"},
        Damage{"revoke_count", 0, [](auto& f) { f.flip_log(12, 13); }, corrupt, "revoke block"},
        Damage{"endless", 0, endless, corrupt, "own beginning"},
        Damage{"foreign_block", 0, [](auto& f) { name_block(f, 0x7fffffff); }, corrupt, "2147483647"},
        Damage{"boot_sector", 0, [](auto& f) { name_block(f, 0); }, corrupt, "block 0"},
        Damage{"own_block", 0, [](auto& f) { name_block(f, static_cast<std::uint32_t>(f.log(9) / f.block_size())); },
               corrupt, "can't be"},
        Damage{"superblock", 5, [](auto& f) { f.flip_log(0, 60); }, corrupt, "superblock"},
        Damage{"no_superblock", 0, [](auto& f) { f.put_super(0, 0); }, corrupt, "superblock is none"},
        Damage{"block_size", 0, [](auto& f) { f.put_super(12, 4096); }, corrupt, "superblock is none"},
        Damage{"too_short", 0, [](auto& f) { f.put_super(16, 100); }, corrupt, "100 blocks"},
        Damage{"truncated", 0, [](auto& f) { f.put_super(16, 5000); }, corrupt, "5000 blocks of 1024"},
        Damage{"too_long", 0, [](auto& f) { f.put_super(16, 0xffffffff); }, unsupported, "4294967295 blocks"},
        Damage{"first_block", 0, [](auto& f) { f.put_super(20, 0); }, corrupt, "outside"},
        Damage{"start_outside", 0, [](auto& f) { f.put_super(28, 4096); }, corrupt, "outside"},
        Damage{"both_checksums", 4, [](auto& f) { f.put_super(40, 1 | 8 | 16); }, corrupt, "exclude"},
        Damage{"unknown_feature", 4, [](auto& f) { f.put_super(40, 1 | 16 | 64); }, unsupported, "64"},
        Damage{"external", 0, [](auto& f) { f.debugfs("ssv journal_inum 0\n"); }, unsupported, "another device"},
        Damage{"no_inode", 0, [](auto& f) { f.debugfs("clri <8>\n"); }, corrupt, "inode"},
        Damage{"sparse_inode", 0, [](auto& f) { f.debugfs("punch <8> 2 2\n"); }, corrupt, "hole at block 2"}),
    [](const auto& param_info) { return param_info.param.name; });

TEST(ExtJournal, FastCommitsAreToldNotReplayed) {
  const Filesystem one({"-t", "ext4", "-O", "metadata_csum,fast_commit", "-b", "1024"});
  write_journal(one, "jo -c -v 3");
  EXPECT_FALSE(one.replayed_by_us().replay.fast_commits) << "the area is empty";
  one.edit_super([](Bytes& super) { store_be<std::uint32_t>(super, 40, load_be<std::uint32_t>(super, 40) | 32); });
  const Bytes super = one.get_log(0);
  const auto blocks = load_be<std::uint32_t>(super, 16), fast = load_be<std::uint32_t>(super, 84);
  Bytes head(12);
  store_le<std::uint16_t>(head, 0, 9);
  store_le<std::uint16_t>(head, 2, 8);
  store_le<std::uint32_t>(head, 8, 5); // four transactions were there
  one.put_log(blocks - fast + 1, 0, head);
  EXPECT_TRUE(one.replayed_by_us().replay.fast_commits);
  EXPECT_EQ(one.replayed_by_us().replay.blocks, 5U);
}

TEST(ExtJournal, WithoutAJournalNothingIsDone) {
  const Filesystem one({"-t", "ext2"});
  const auto ours = one.replayed_by_us();
  EXPECT_FALSE(ours.replay.needed);
  EXPECT_EQ(ours.bytes, one.bytes());
}

TEST(Ext2Handle, FindsAndReadsFilesUntilItsLimit) {
  const Filesystem one({"-t", "ext4"});
  one.debugfs("symlink /os etc/os-release\nsymlink /loop loop\n");
  const Bytes all = one.bytes();
  const auto image = open_raw(SourceFile::from_memory(all, "memory"), OpenContext{});
  Ext2Handle handle = Ext2Handle::open(*image, {0, all.size()});
  const ext2_ino_t file = handle.find("/os");
  EXPECT_NE(file, 0U);
  EXPECT_EQ(file, handle.find("/etc/os-release"));
  EXPECT_EQ(handle.inode(file).i_size, 8U);
  EXPECT_EQ(handle.content(file, 3, 100), "test\n");
  EXPECT_EQ(handle.content(file, 0, 2), "ID");
  EXPECT_EQ(handle.find("/loop"), 0U);
  EXPECT_EQ(handle.find("/etc/none"), 0U);
  EXPECT_EQ(handle.inode(0).i_size, 0U);
  EXPECT_EQ(handle.content(0, 0, 10), "");
  handle.limit_reads(100);
  EXPECT_EQ(handle.content(file, 0, 100), "");
}

/// Journals that this machine's kernel wrote: files of every size made, changed and removed, and the filesystem copied
/// while it is mounted.
class JournalsOf : public testing::TestWithParam<Shape> {};

TEST_P(JournalsOf, TheKernelIsReplayedAsE2fsckDoes) {
  const Filesystem one(GetParam().options);
  // A log that begins just before its sequence number wraps.
  one.put_super(24, 0xffffffe0);
  const fs::path mounted = one.dir() / "mounted", copy = one.dir() / "torn.img";
  fs::create_directory(mounted);
  const auto mount = run_process({"mount", "-o", "loop," + std::string(GetParam().open), one.path(), mounted.string()},
                                 std::chrono::minutes(1));
  if (mount.exit_code != 0)
    GTEST_SKIP() << "this machine mounts no loop devices: " << mount.err;
  const std::string work =
      "set -e; cd \"$0\"\n"
      "for i in $(seq 60); do mkdir -p d$i; seq $i $((i * 60)) >d$i/f; printf '\\300\\073\\071\\230 %s' $i "
      ">d$i/magic;\n"
      "  sync -f .; [ $i -lt 9 ] || { rm -r d$((i - 8)); echo again >>d$((i - 4))/f; }; done; sync -f .\n"
      "cp --sparse=always \"$1\" \"$2\"";
  const auto worked =
      run_process({"sh", "-c", work, mounted.string(), one.path(), copy.string()}, std::chrono::minutes(2));
  must_run({"umount", mounted.string()});
  ASSERT_EQ(worked.exit_code, 0) << worked.err;
  fs::rename(copy, one.path());
  ASSERT_THAT(must_run({"dumpe2fs", "-h", one.path().string()}), HasSubstr("needs_recovery"));
  const JournalReplay replay = one.compare();
  EXPECT_GT(replay.transactions, 5U);
  EXPECT_GT(replay.blocks, 20U);
  EXPECT_THAT(must_run({"debugfs", "-R", "cat /d60/magic", one.path().string()}),
              testing::StartsWith("\xc0\x3b\x39\x98"));
}

INSTANTIATE_TEST_SUITE_P(
    All, JournalsOf,
    testing::Values(Shape{"ordered", {"-t", "ext4", "-J", "size=4"}, "data=ordered"},
                    Shape{"small_blocks_all_data", {"-t", "ext4", "-b", "1024", "-J", "size=1"}, "data=journal"},
                    Shape{
                        "v1", {"-t", "ext4", "-O", "^metadata_csum", "-b", "1024", "-J", "size=1"}, "journal_checksum"},
                    Shape{"async", {"-t", "ext4", "-J", "size=4"}, "journal_async_commit,data=writeback"},
                    Shape{"ext3", {"-t", "ext3", "-J", "size=4"}, "data=ordered"}),
    [](const auto& param_info) { return param_info.param.name; });

} // namespace
} // namespace kvmport::test
