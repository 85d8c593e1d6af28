// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/engine.h"
#include "libconvert/copy/journal.h"
#include "tests/copy/fixtures.h"
#include "tests/support/tempdir.h"

#include <gtest/gtest.h>

namespace kvmport::test {
namespace {

const Digest identity{1, 2}, other_identity{1, 3};

Bytes bytes_of(std::string_view text) {
  const ByteSpan span = as_bytes(text);
  return {span.begin(), span.end()};
}

void make_journal(const std::filesystem::path& path) {
  Journal journal(path);
  journal.begin(identity);
  journal.append(4096, {{0, 1, {5, 6}}, {7, 9, {8, 8}}}, bytes_of("first tables"));
  journal.append(4096, {}, bytes_of("second"));
  journal.append(4096, {{1, 1, {7, 7}}}, {});
}

std::string code_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.code();
  }
  return "";
}

TEST(Journal, KeepsWhatWasAppended) {
  TempDir dir;
  make_journal(dir.path() / "j");
  Journal journal(dir.path() / "j");
  const auto content = journal.load(identity);
  ASSERT_TRUE(content);
  EXPECT_EQ(content->chunk_size, 4096U);
  ASSERT_EQ(content->chunks.size(), 3U);
  EXPECT_EQ(content->chunks[1].first, 7U);
  EXPECT_EQ(content->chunks[1].count, 9U);
  EXPECT_EQ(content->chunks[2].digest, (Digest{7, 7}));
  EXPECT_EQ(content->checkpoints, (std::vector<Bytes>{bytes_of("first tables"), bytes_of("second"), {}}));
}

TEST(Journal, OtherIdentityIsNotUsed) {
  TempDir dir;
  make_journal(dir.path() / "j");
  EXPECT_FALSE(Journal(dir.path() / "j").load(other_identity));
}

TEST(Journal, CutAnywhereGivesWholeRecordsAndGoesOn) {
  TempDir dir;
  make_journal(dir.path() / "whole");
  const std::string whole = read_file(dir.path() / "whole");
  std::size_t most = 0;
  for (std::size_t length = 0; length <= whole.size(); length++) {
    const auto path = dir.path() / "cut";
    write_file_durably(path, whole.substr(0, length));
    Journal journal(path);
    const auto content = journal.load(identity);
    const std::size_t records = content ? content->checkpoints.size() : 0;
    EXPECT_GE(records, most);
    most = std::max(most, records);
    if (!content)
      continue;
    journal.append(4096, {}, bytes_of("later"));
    const auto again = journal.load(identity);
    ASSERT_TRUE(again);
    EXPECT_EQ(again->checkpoints.size(), records + 1);
    EXPECT_EQ(again->checkpoints.back(), bytes_of("later"));
  }
  EXPECT_EQ(most, 3U);
}

TEST(Journal, DamagedRecordEndsIt) {
  TempDir dir;
  make_journal(dir.path() / "whole");
  const std::string whole = read_file(dir.path() / "whole");
  for (std::size_t at = 0; at < whole.size(); at++) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x40);
    write_file_durably(dir.path() / "j", damaged);
    if (at < 8) {
      EXPECT_EQ(code_of([&] { Journal journal(dir.path() / "j"); }), "FILE_EXISTS");
      continue;
    }
    const auto content = Journal(dir.path() / "j").load(identity);
    EXPECT_LT(content ? content->checkpoints.size() : 0, 3U) << "byte " << at;
  }
}

TEST(Journal, IsALock) {
  TempDir dir;
  Journal journal(dir.path() / "j");
  EXPECT_EQ(code_of([&] { Journal second(dir.path() / "j"); }), "OUTPUT_BUSY");
}

TEST(Journal, LockGoesWithTheObjectAndTheFile) {
  TempDir dir;
  { Journal journal(dir.path() / "j"); }
  Journal journal(dir.path() / "j");
  journal.remove();
  Journal next(dir.path() / "j"); // another file of that name
  EXPECT_EQ(code_of([&] { Journal third(dir.path() / "j"); }), "OUTPUT_BUSY");
}

TEST(Journal, ForeignFileIsNotTouched) {
  TempDir dir;
  write_file_durably(dir.path() / "j", "my thesis");
  EXPECT_EQ(code_of([&] { Journal journal(dir.path() / "j"); }), "FILE_EXISTS");
  EXPECT_EQ(read_file(dir.path() / "j"), "my thesis");
}

TEST(SettleRuns, LaterRunsReplaceEarlierOnes) {
  std::mt19937 random(1);
  for (int round = 0; round < 300; round++) {
    std::vector<ChunkRun> runs;
    std::vector<std::uint64_t> wanted(40, 0);
    for (std::uint64_t i = 1; i <= 12; i++) {
      const std::uint64_t first = random() % 45, count = random() % 12;
      runs.push_back({first, count, {i, i}});
      for (std::uint64_t c = first; c < std::min<std::uint64_t>(40, first + count); c++)
        wanted[c] = i;
    }
    std::vector<std::uint64_t> got(40, 0);
    std::uint64_t end = 0;
    for (const ChunkRun& run : settle_runs(runs, 40)) {
      EXPECT_GE(run.first, end);
      end = run.first + run.count;
      for (std::uint64_t c = run.first; c < end; c++)
        got.at(c) = run.digest.low;
    }
    ASSERT_EQ(got, wanted) << "round " << round;
  }
}

TEST(SettleRuns, RunPastTheEndIsCut) {
  const auto runs = settle_runs({{3, UINT64_MAX, {1, 1}}, {9, 1, {1, 1}}}, 5);
  ASSERT_EQ(runs.size(), 1U);
  EXPECT_EQ(runs[0].count, 2U);
}

} // namespace
} // namespace kvmport::test
