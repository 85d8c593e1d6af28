// SPDX-License-Identifier: Apache-2.0
// What the tests of free maps share: disks full of junk, filesystems in them, copies without what is free.
#pragma once

#include "base/process.h"
#include "libconvert/copy/copy.h"
#include "tests/copy/fixtures.h"
#include "tests/support/tempdir.h"

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

/// A filesystem mounted by the kernel over a loop device.
class Mounted {
 public:
  Mounted(const fs::path& disk, fs::path where, const std::string& options = "loop") : where_(std::move(where)) {
    fs::create_directories(where_);
    const ProcessResult result =
        run_process({"mount", "-o", options, disk.string(), where_.string()}, std::chrono::seconds(60));
    mounted_ = result.exit_code == 0;
    why_ = result.err;
  }
  Mounted(const Mounted&) = delete;
  Mounted& operator=(const Mounted&) = delete;
  ~Mounted() { unmount(); }
  void unmount() {
    if (mounted_)
      run_process({"umount", where_.string()}, std::chrono::seconds(60));
    mounted_ = false;
  }
  explicit operator bool() const { return mounted_; }
  const fs::path& path() const { return where_; }
  const std::string& why() const { return why_; }

 private:
  fs::path where_;
  bool mounted_ = false;
  std::string why_;
};

/// Doubtful filesystems: each one edit away from a good one.
struct Doubtful {
  const char* name;
  std::uint64_t offset; ///< of the disk
  std::uint64_t value;
  unsigned bytes;
};

/// Every edit of the disk `good` must make it one that is copied whole, and (`noted`) that says why.
inline void expect_copied_whole(const fs::path& good, std::span<const Doubtful> edits, const std::string& variant = {},
                                bool noted = true) {
  const fs::path bad = good.string() + ".bad";
  {
    const auto image = open_result(good, "raw");
    const FreeMap map = find_free_blocks(*image);
    ASSERT_FALSE(map.free.empty()) << variant << ": " << notes_of(map);
  }
  fs::copy_file(good, bad, fs::copy_options::overwrite_existing);
  for (const Doubtful& edit : edits) {
    UniqueFd fd = open_existing(bad);
    Bytes bytes(8), old(edit.bytes);
    store_le<std::uint64_t>(bytes, 0, edit.value);
    read_exact(fd.get(), edit.offset, old, "bad");
    write_exact(fd.get(), edit.offset, ByteSpan(bytes).first(edit.bytes), "bad");
    const auto image = open_result(bad, "raw");
    const FreeMap map = find_free_blocks(*image);
    EXPECT_TRUE(map.free.empty()) << variant << " " << edit.name << ": " << notes_of(map);
    EXPECT_TRUE(!noted || !map.notes.empty()) << variant << " " << edit.name;
    write_exact(fd.get(), edit.offset, old, "bad");
  }
}

} // namespace kvmport::test
