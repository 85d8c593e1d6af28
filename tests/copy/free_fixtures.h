// SPDX-License-Identifier: Apache-2.0
// What the tests of free maps share: disks full of junk, filesystems in them, copies without what is free.
#pragma once

#include "base/process.h"
#include "libconvert/copy/copy.h"
#include "tests/copy/fixtures.h"
#include "tests/support/mounted.h"
#include "tests/support/tempdir.h"

#include <fstream>
#include <functional>
#include <gtest/gtest.h>
#include <map>
#include <random>
#include <sstream>
#include <unistd.h>

namespace kvmport::test {

namespace fs = std::filesystem;

inline constexpr std::uint64_t mib = 1U << 20;

inline std::vector<std::string> words(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> list;
  for (std::string word; in >> word;)
    list.push_back(word);
  return list;
}

inline void run(const std::string& command) {
  must_run(words(command));
}

/// Random bytes, so that free blocks hold what an earlier use left in them. `every`: only one mebibyte in so many.
inline void fill_with_junk(const fs::path& path, std::uint64_t size, unsigned every = 1) {
  UniqueFd fd = create_new(path);
  std::mt19937_64 random(5);
  std::vector<std::uint64_t> words(mib / 8);
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0)
    throw std::runtime_error("ftruncate");
  for (std::uint64_t at = 0; at < size; at += every * mib) {
    for (auto& word : words)
      word = random();
    write_exact(fd.get(), at, std::as_bytes(std::span(words)).first(std::min(mib, size - at)), path.string());
  }
}

inline void make_tree(const fs::path& directory) {
  fs::create_directories(directory / "a" / "b");
  unsigned seed = 0;
  for (const char* name : {"a/one", "a/two", "a/b/three", "four", "deleted", "a/deleted", "last"}) {
    seed++;
    make_pattern_file(directory / name, 1000 + seed * seed * 40000, seed);
  }
}

inline std::map<std::string, std::string> files_below(const fs::path& directory) {
  std::map<std::string, std::string> all;
  for (const auto& entry : fs::recursive_directory_iterator(directory))
    if (entry.is_regular_file())
      all[fs::relative(entry.path(), directory).string()] = sha256_of(entry.path());
  return all;
}

/// Copies without the free blocks and returns what was found.
inline FreeMap copy_without_free(const fs::path& from, const fs::path& to, CopyStats* stats = nullptr) {
  const auto image = open_result(from, "raw");
  const FreeMap map = find_free_blocks(*image);
  CreateOptions create;
  create.format = "raw";
  create.size = image->size();
  CopyOptions options;
  options.skip = map.free;
  NullSink sink;
  fs::remove(to);
  PartialDisk disk(to, create, "id");
  const CopyStats copied = disk.copy(*image, options, sink, StopToken());
  disk.publish(false);
  if (stats != nullptr)
    *stats = copied;
  return map;
}

inline std::string notes_of(const FreeMap& map) {
  std::string text;
  for (const auto& note : map.notes)
    text += note + "\n";
  return text;
}

/// Doubtful filesystems: each one edit away from a good one.
struct Doubtful {
  const char* name;
  std::uint64_t offset; ///< of the disk
  std::uint64_t value;
  unsigned bytes;
};

/// Every edit of the disk `good` must make it one that is copied whole, and (`noted`) that says why. `mend`: puts the
/// checksum of what was edited right again, so that other checks must see it.
inline void expect_copied_whole(
    const fs::path& good, std::span<const Doubtful> edits, const std::string& variant = {}, bool noted = true,
    const std::function<void(int, const Doubtful&)>& mend = [](int, const Doubtful&) {}) {
  const fs::path bad = good.string() + ".bad";
  {
    const auto image = open_result(good, "raw");
    const FreeMap map = find_free_blocks(*image);
    ASSERT_FALSE(map.free.empty()) << variant << ": " << notes_of(map);
  }
  must_run({"cp", "--sparse=always", good.string(), bad.string()});
  for (const Doubtful& edit : edits) {
    UniqueFd fd = open_existing(bad);
    Bytes bytes(8), old(edit.bytes);
    store_le<std::uint64_t>(bytes, 0, edit.value);
    read_exact(fd.get(), edit.offset, old, "bad");
    write_exact(fd.get(), edit.offset, ByteSpan(bytes).first(edit.bytes), "bad");
    mend(fd.get(), edit);
    const auto image = open_result(bad, "raw");
    const FreeMap map = find_free_blocks(*image);
    EXPECT_TRUE(map.free.empty()) << variant << " " << edit.name << ": " << notes_of(map);
    EXPECT_TRUE(!noted || !map.notes.empty()) << variant << " " << edit.name;
    write_exact(fd.get(), edit.offset, old, "bad");
    mend(fd.get(), edit);
  }
  const auto image = open_result(bad, "raw");
  EXPECT_FALSE(find_free_blocks(*image).free.empty()) << variant << ": an edit was not undone";
}

/// Files come and go, so that free space lies in many pieces.
inline void use_filesystem(const fs::path& root) {
  for (unsigned i = 0; i < 60; i++)
    make_pattern_file(root / ("file" + std::to_string(i)), 2000 + i * 31000, i);
  fs::create_directories(root / "small");
  for (unsigned i = 0; i < 1200; i++)
    std::ofstream(root / "small" / std::to_string(i)) << std::string(3000 + i, static_cast<char>('a' + i % 26));
  for (unsigned i = 0; i < 60; i += 3)
    fs::remove(root / ("file" + std::to_string(i)));
  ::sync();
  for (unsigned i = 0; i < 1200; i += 2)
    fs::remove(root / "small" / std::to_string(i));
  for (unsigned i = 100; i < 120; i++)
    make_pattern_file(root / ("file" + std::to_string(i)), 500 + i * 1900, i);
}

/// A copy without its free blocks of the filesystem on `disk`, as the kernel mounts it, has the files `wanted`.
inline void expect_files_survive(const fs::path& disk, const std::map<std::string, std::string>& wanted,
                                 std::uint64_t skipped_at_least, const std::string& variant) {
  const fs::path copy = disk.string() + ".copy";
  CopyStats stats;
  const FreeMap map = copy_without_free(disk, copy, &stats);
  EXPECT_GE(stats.skipped, skipped_at_least) << variant << ": " << notes_of(map);
  Mounted mounted(copy, disk.string() + ".mnt", "loop");
  ASSERT_TRUE(mounted) << variant << ": " << mounted.why();
  EXPECT_EQ(files_below(mounted.path()), wanted) << variant;
}

/// What a pulled plug leaves while `mounted` is in use, and what a snapshot of the frozen filesystem shows.
/// `whole`: its map must not be used.
inline void expect_crash_keeps_files(const fs::path& disk, Mounted& mounted, bool freeze, bool whole = true) {
  const fs::path snapshot = disk.string() + ".snapshot", copy = disk.string() + ".copied";
  // btrfs commits wholly when a file needs a new block group, and uses its log for the small one after it.
  for (const std::uint64_t size : {20 * mib, mib / 4}) {
    const fs::path file = mounted.path() / ("new" + std::to_string(size));
    make_pattern_file(file, size, 3);
    must_run({"sync", file.string()});
  }
  if (freeze)
    must_run({"fsfreeze", "-f", mounted.path().string()});
  const ProcessResult taken =
      run_process({"cp", "--sparse=always", disk.string(), snapshot.string()}, std::chrono::seconds(60));
  if (freeze)
    must_run({"fsfreeze", "-u", mounted.path().string()});
  ASSERT_EQ(taken.exit_code, 0) << taken.err;
  const auto wanted = files_below(mounted.path());
  mounted.unmount();
  const FreeMap map = copy_without_free(snapshot, copy);
  EXPECT_EQ(map.free.empty(), whole) << notes_of(map);
  EXPECT_EQ(notes_of(map).find("copied whole") != std::string::npos, whole) << notes_of(map);
  Mounted again(copy, disk.string() + ".mnt2");
  ASSERT_TRUE(again) << again.why();
  EXPECT_EQ(files_below(again.path()), wanted);
}

} // namespace kvmport::test
