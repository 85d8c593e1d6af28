// SPDX-License-Identifier: Apache-2.0
#include "base/process.h"
#include "libconvert/copy/copy.h"
#include "tests/copy/fixtures.h"
#include "tests/support/tempdir.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

constexpr std::uint64_t mib = 1U << 20;

struct Form {
  const char* name;
  const char* format;
  Compression compression;
};
const Form forms[] = {{"raw", "raw", Compression::none},
                      {"qcow2", "qcow2", Compression::none},
                      {"qcow2_zlib", "qcow2", Compression::zlib},
                      {"qcow2_zstd", "qcow2", Compression::zstd}};

CreateOptions create_options(const Form& form, std::uint64_t size) {
  CreateOptions create;
  create.format = form.format;
  create.compression = form.compression;
  create.size = size;
  return create;
}

/// Small chunks and a checkpoint at each tick, so that little data shows what much would.
CopyOptions small_steps() {
  CopyOptions options;
  options.workers = 2;
  options.chunk = 64 * 1024;
  options.checkpoint_interval = std::chrono::milliseconds(0);
  return options;
}

std::string code_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.code();
  }
  return "";
}

class PartialDiskTest : public testing::TestWithParam<Form> {
 protected:
  TempDir dir_;
  const fs::path out_ = dir_.path() / "disk";
  const fs::path partial_ = dir_.path() / "disk.partial";
  NullSink sink_;
  StopToken stop_;

  CreateOptions create(const Image& image) const { return create_options(GetParam(), image.size()); }
  void expect_content(const fs::path& path, ByteSpan wanted) const {
    const auto image = open_result(path, GetParam().format);
    EXPECT_EQ(image->size(), GetParam().format == std::string("raw") ? wanted.size() : round_up(wanted.size(), 512));
    EXPECT_EQ(first_difference(wanted, content_of(*image)), wanted.size());
    if (GetParam().format == std::string("qcow2")) {
      EXPECT_NO_THROW(must_run({"qemu-img", "check", "-f", "qcow2", path.string()}));
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Forms, PartialDiskTest, testing::ValuesIn(forms),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(PartialDiskTest, CopiesEveryByte) {
  unsigned seed = 0;
  for (const std::uint64_t size :
       {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{512}, 3 * mib + 511, 9 * mib + 4096}) {
    const MemoryImage image = MemoryImage::pattern(size, ++seed);
    fs::remove(out_);
    PartialDisk disk(out_, create(image), "id");
    const CopyStats stats = disk.copy(image, {}, sink_, stop_);
    EXPECT_EQ(stats.total, size);
    EXPECT_EQ(stats.reused, 0U);
    EXPECT_EQ(stats.data + stats.zero, size);
    EXPECT_FALSE(fs::exists(out_));
    disk.publish(false);
    expect_content(out_, image.bytes());
    EXPECT_FALSE(fs::exists(partial_));
    EXPECT_FALSE(fs::exists(dir_.path() / "disk.partial.journal"));
  }
}

TEST_P(PartialDiskTest, SkippedRangesAreNotReadAndBecomeZeros) {
  MemoryImage image = MemoryImage::pattern(6 * mib, 11);
  CopyOptions options = small_steps();
  options.skip = {{100 * 1024, 64 * 1024}, {mib, mib}, {5 * mib + 4096, 999 * 1024}};
  image.on_read = [](std::uint64_t offset) {
    if (offset >= mib && offset < 2 * mib)
      throw Error("TEST", "a skipped range was read");
  };
  PartialDisk disk(out_, create(image), "id");
  const CopyStats stats = disk.copy(image, options, sink_, stop_);
  EXPECT_GT(stats.skipped, 0U);
  disk.publish(false);
  Bytes wanted = image.bytes();
  for (const Range& range : options.skip)
    std::fill_n(wanted.begin() + static_cast<std::ptrdiff_t>(range.offset), range.length, std::byte{0});
  expect_content(out_, wanted);
}

TEST_P(PartialDiskTest, StoppedCopyGoesOn) {
  MemoryImage image = MemoryImage::pattern(12 * mib, 21);
  std::atomic<int> reads{0};
  image.on_read = [&](std::uint64_t) {
    if (++reads == 60)
      stop_.request();
  };
  EXPECT_EQ(code_of([&] {
              PartialDisk disk(out_, create(image), "id");
              CopyOptions options = small_steps();
              options.workers = 1;
              image.on_read = [&](std::uint64_t) {
                if (++reads > 20) {
                  stop_.request();
                  std::this_thread::sleep_for(std::chrono::milliseconds(20));
                }
              };
              disk.copy(image, options, sink_, stop_);
            }),
            "INTERRUPTED");
  EXPECT_TRUE(fs::exists(partial_));
  EXPECT_FALSE(fs::exists(out_));
  image.on_read = nullptr;
  image.bytes_read = 0;
  PartialDisk disk(out_, create(image), "id");
  const CopyStats stats = disk.copy(image, small_steps(), sink_, StopToken());
  EXPECT_GT(stats.reused, 0U);
  EXPECT_EQ(stats.reused + stats.data + stats.zero, image.size());
  EXPECT_LT(image.bytes_read, image.size());
  disk.publish(false);
  expect_content(out_, image.bytes());
}

TEST_P(PartialDiskTest, OtherSourceOrSettingsStartNew) {
  const MemoryImage first = MemoryImage::pattern(4 * mib, 31), second = MemoryImage::pattern(4 * mib, 32);
  { PartialDisk(out_, create(first), "first").copy(first, small_steps(), sink_, stop_); }
  {
    PartialDisk disk(out_, create(second), "second");
    EXPECT_EQ(disk.copy(second, small_steps(), sink_, stop_).reused, 0U);
  }
  CreateOptions other = create(second);
  other.cluster_size = 32768;
  {
    PartialDisk disk(out_, other, "second");
    EXPECT_EQ(disk.copy(second, small_steps(), sink_, stop_).reused, 0U);
    disk.publish(false);
  }
  expect_content(out_, second.bytes());
}

TEST_P(PartialDiskTest, WholeCopyIsReused) {
  const MemoryImage image = MemoryImage::pattern(5 * mib + 512, 41);
  { PartialDisk(out_, create(image), "id").copy(image, small_steps(), sink_, stop_); }
  PartialDisk disk(out_, create(image), "id");
  const CopyStats stats = disk.copy(image, small_steps(), sink_, stop_);
  EXPECT_EQ(stats.reused, image.size());
  EXPECT_EQ(image.bytes_read.load() <= image.size(), true);
  disk.publish(false);
  expect_content(out_, image.bytes());
}

TEST_P(PartialDiskTest, OtherChunkSizeIsCopiedAgain) {
  const MemoryImage image = MemoryImage::pattern(4 * mib, 42);
  { PartialDisk(out_, create(image), "id").copy(image, small_steps(), sink_, stop_); }
  PartialDisk disk(out_, create(image), "id");
  CopyOptions options = small_steps();
  options.chunk = 256 * 1024;
  EXPECT_EQ(disk.copy(image, options, sink_, stop_).reused, 0U);
  disk.publish(false);
  expect_content(out_, image.bytes());
}

TEST_P(PartialDiskTest, DamagedPartialIsCopiedAgain) {
  const MemoryImage image = MemoryImage::pattern(8 * mib, 51);
  { PartialDisk(out_, create(image), "id").copy(image, small_steps(), sink_, stop_); }
  {
    UniqueFd fd = open_existing(partial_);
    const std::uint64_t size = file_size(fd.get());
    for (std::uint64_t at = size / 3; at < size / 2; at += 4096)
      write_exact(fd.get(), at, as_bytes("damage"), "partial");
  }
  PartialDisk disk(out_, create(image), "id");
  const CopyStats stats = disk.copy(image, small_steps(), sink_, stop_);
  EXPECT_GT(stats.reused, 0U);
  EXPECT_LT(stats.reused, image.size());
  disk.publish(false);
  expect_content(out_, image.bytes());
}

TEST_P(PartialDiskTest, CutPartialIsCopiedAgain) {
  const MemoryImage image = MemoryImage::pattern(8 * mib, 52);
  { PartialDisk(out_, create(image), "id").copy(image, small_steps(), sink_, stop_); }
  fs::resize_file(partial_, fs::file_size(partial_) / 2);
  PartialDisk disk(out_, create(image), "id");
  disk.copy(image, small_steps(), sink_, stop_);
  disk.publish(false);
  expect_content(out_, image.bytes());
}

/// Changes over a source, and the bytes that must come out.
struct Edited {
  explicit Edited(const MemoryImage& image, const fs::path& directory)
      : overlay(image, directory, 64 * mib), wanted(image.bytes()) {
    std::mt19937_64 random(61);
    for (int i = 0; i < 40; i++) {
      const std::uint64_t at = random() % (image.size() - 20000), length = 1 + random() % 20000;
      if (i % 4 == 0) {
        overlay.zero({at, length});
        std::fill_n(wanted.begin() + static_cast<std::ptrdiff_t>(at), length, std::byte{0});
      } else {
        const Bytes bytes(length, static_cast<std::byte>(i));
        overlay.write(at, bytes);
        std::copy(bytes.begin(), bytes.end(), wanted.begin() + static_cast<std::ptrdiff_t>(at));
      }
    }
  }
  Overlay overlay;
  Bytes wanted;
};

TEST_P(PartialDiskTest, MergePutsTheChangesOverTheCopy) {
  const MemoryImage image = MemoryImage::pattern(9 * mib + 1000, 62);
  const Edited edited(image, dir_.path());
  PartialDisk disk(out_, create(image), "id");
  disk.copy(image, {}, sink_, stop_);
  disk.merge(edited.overlay, sink_, stop_);
  disk.publish(false);
  expect_content(out_, edited.wanted);
}

TEST_P(PartialDiskTest, RunThatEndedInOrAfterTheMergeStartsFromTheSource) {
  const MemoryImage image = MemoryImage::pattern(9 * mib + 1000, 63);
  for (const bool finish : {false, true}) {
    {
      const Edited edited(image, dir_.path());
      PartialDisk disk(out_, create(image), "id");
      disk.copy(image, small_steps(), sink_, stop_);
      disk.merge(edited.overlay, sink_, stop_);
      if (finish)
        disk.finish();
    }
    PartialDisk disk(out_, create(image), "id");
    const CopyStats stats = disk.copy(image, small_steps(), sink_, stop_);
    EXPECT_GT(stats.reused, 0U);
    if (finish)
      disk.publish(false);
  }
  expect_content(out_, image.bytes()); // nothing of the other run's changes
}

TEST_P(PartialDiskTest, ErrorOfTheSourceIsThrownAndNothingIsPublished) {
  MemoryImage image = MemoryImage::pattern(8 * mib, 71);
  image.on_read = [](std::uint64_t offset) {
    if (offset >= 4 * mib)
      throw Error("DISK_TRUNCATED", "the source ends");
  };
  EXPECT_EQ(code_of([&] {
              PartialDisk disk(out_, create(image), "id");
              disk.copy(image, {}, sink_, stop_);
            }),
            "DISK_TRUNCATED");
  EXPECT_FALSE(fs::exists(out_));
}

TEST_P(PartialDiskTest, ExistingOutputIsKeptUnlessReplaced) {
  const MemoryImage image = MemoryImage::pattern(mib, 81);
  write_file_durably(out_, "precious");
  PartialDisk disk(out_, create(image), "id");
  disk.copy(image, {}, sink_, stop_);
  EXPECT_EQ(code_of([&] { disk.publish(false); }), "FILE_EXISTS");
  EXPECT_EQ(read_file(out_), "precious");
  disk.publish(true);
  expect_content(out_, image.bytes());
}

TEST_P(PartialDiskTest, SecondRunIsRefusedWhileTheFirstWorks) {
  const MemoryImage image = MemoryImage::pattern(mib, 82);
  PartialDisk disk(out_, create(image), "id");
  EXPECT_EQ(code_of([&] { PartialDisk second(out_, create(image), "id"); }), "OUTPUT_BUSY");
  disk.copy(image, {}, sink_, stop_);
  disk.publish(false);
  expect_content(out_, image.bytes());
}

TEST_P(PartialDiskTest, DiscardLeavesNothing) {
  const MemoryImage image = MemoryImage::pattern(mib, 83);
  PartialDisk disk(out_, create(image), "id");
  disk.copy(image, {}, sink_, stop_);
  disk.discard();
  EXPECT_TRUE(fs::is_empty(dir_.path()));
}

/// Runs `action` in a child and returns how it ended: its exit code, or 128+signal.
int in_child(const std::function<int()>& action, std::chrono::microseconds kill_after = {}) {
  const pid_t pid = ::fork();
  if (pid == 0)
    ::_exit(action());
  if (kill_after.count() != 0) {
    std::this_thread::sleep_for(kill_after);
    ::kill(pid, SIGKILL);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

TEST_P(PartialDiskTest, KilledAtAnyMomentTheNextRunIsRight) {
  MemoryImage image = MemoryImage::pattern(16 * mib, 91);
  image.on_read = [](std::uint64_t) { std::this_thread::sleep_for(std::chrono::milliseconds(2)); };
  const Edited edited(image, dir_.path());
  std::mt19937 random(92);
  std::uint64_t reused = 0;
  for (int round = 0; round < 8; round++) {
    // Each child does the whole road: copy, merge, finish; the parent kills it somewhere on it.
    in_child(
        [&] {
          PartialDisk disk(out_, create(image), "id");
          disk.copy(image, small_steps(), sink_, stop_);
          disk.merge(edited.overlay, sink_, stop_);
          disk.finish();
          return 0;
        },
        std::chrono::milliseconds(20 + random() % 600));
    EXPECT_FALSE(fs::exists(out_));
    if (round % 2 == 0)
      continue; // two kills in a row
    image.on_read = nullptr;
    PartialDisk disk(out_, create(image), "id");
    reused += disk.copy(image, small_steps(), sink_, stop_).reused;
    disk.merge(edited.overlay, sink_, stop_);
    disk.publish(false);
    expect_content(out_, edited.wanted);
    fs::remove(out_);
    image.on_read = [](std::uint64_t) { std::this_thread::sleep_for(std::chrono::milliseconds(2)); };
  }
  EXPECT_GT(reused, 0U);
}

TEST_P(PartialDiskTest, FullDiskIsAClearErrorAndTheNextRunGoesOn) {
  const MemoryImage image = MemoryImage::pattern(16 * mib, 101);
  const int code = in_child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit small{2 * mib, RLIM_INFINITY};
    ::setrlimit(RLIMIT_FSIZE, &small);
    return code_of([&] {
             PartialDisk disk(out_, create(image), "id");
             disk.copy(image, small_steps(), sink_, stop_);
             disk.publish(false);
           }) == "DISK_FULL"
               ? 42
               : 1;
  });
  EXPECT_EQ(code, 42);
  EXPECT_FALSE(fs::exists(out_));
  PartialDisk disk(out_, create(image), "id");
  disk.copy(image, small_steps(), sink_, stop_);
  disk.publish(false);
  expect_content(out_, image.bytes());
}

TEST(PartialDisk, ForeignPartialFileNamesAreNotFollowed) {
  TempDir dir;
  write_file_durably(dir.path() / "victim", "precious");
  fs::create_symlink(dir.path() / "victim", dir.path() / "disk.partial");
  fs::create_symlink(dir.path() / "victim", dir.path() / "other.partial.journal");
  const MemoryImage image = MemoryImage::pattern(mib, 1);
  NullSink sink;
  PartialDisk disk(dir.path() / "disk", create_options(forms[0], image.size()), "id");
  disk.copy(image, {}, sink, StopToken());
  EXPECT_NE(code_of([&] { PartialDisk(dir.path() / "other", create_options(forms[0], image.size()), "id"); }), "");
  EXPECT_EQ(read_file(dir.path() / "victim"), "precious");
}

TEST(PartialDisk, MissingDirectoryIsNamed) {
  EXPECT_EQ(code_of([] { PartialDisk("/nonexistent/dir/disk", create_options(forms[0], 512), "id"); }), "NOT_FOUND");
}

/// Remembers what was told.
struct RecordingSink final : EventSink {
  void stage(std::string_view, std::string_view) override {}
  void progress(std::string_view name, std::uint64_t done, std::uint64_t total) override {
    EXPECT_EQ(name, "copy");
    EXPECT_LE(done, total);
    EXPECT_GE(done, last);
    last = done;
    calls++;
  }
  void message(Level, std::string_view, std::string_view) override {}
  std::uint64_t last = 0;
  int calls = 0;
};

TEST(PartialDisk, ProgressGrowsToTheTotal) {
  TempDir dir;
  MemoryImage image = MemoryImage::pattern(8 * mib, 5);
  image.on_read = [](std::uint64_t) { std::this_thread::sleep_for(std::chrono::milliseconds(5)); };
  RecordingSink sink;
  PartialDisk disk(dir.path() / "disk", create_options(forms[1], image.size()), "id");
  disk.copy(image, small_steps(), sink, StopToken());
  EXPECT_EQ(sink.last, image.size());
  EXPECT_GT(sink.calls, 1);
}

TEST(Space, TooLittleIsRefused) {
  TempDir dir;
  EXPECT_NO_THROW(check_space(dir.path(), 4096));
  EXPECT_NO_THROW(check_space(dir.path() / "not" / "made" / "yet", 4096));
  EXPECT_EQ(code_of([&] { check_space(dir.path(), std::uint64_t{1} << 60); }), "DISK_FULL");
}

TEST(Space, EstimateIsEnoughAndClose) {
  for (unsigned seed = 1; seed < 6; seed++) {
    TempDir dir;
    const MemoryImage image = MemoryImage::pattern(20 * mib + seed * 512, seed);
    const std::vector<Range> skip{{mib, 3 * mib}, {9 * mib + 4096, mib}};
    for (const Form& form : forms) {
      const CreateOptions create = create_options(form, image.size());
      NullSink sink;
      PartialDisk disk(dir.path() / form.name, create, "id");
      CopyOptions options;
      options.skip = skip;
      disk.copy(image, options, sink, StopToken());
      disk.publish(false);
      struct stat st {};
      ASSERT_EQ(::stat((dir.path() / form.name).c_str(), &st), 0);
      const std::uint64_t used = static_cast<std::uint64_t>(st.st_blocks) * 512;
      const std::uint64_t estimate = estimate_size(image, skip, create);
      EXPECT_GE(estimate, used) << form.name;
      EXPECT_LE(estimate, image.size() + 2 * mib) << form.name;
    }
  }
}

} // namespace
} // namespace kvmport::test
