// SPDX-License-Identifier: Apache-2.0
// Captures a mounted filesystem on a loop device of this host while a process writes to it, into a file, and compares
// what was synced before the freeze, file by file.
#include "libconvert/p2v/direct_disk.h"
#include "libconvert/p2v/dirty_map.h"
#include "libconvert/p2v/live_passes.h"
#include "libconvert/p2v/tracefs.h"
#include "tests/p2v/live_writer.h"
#include "tests/p2v/loop_disk.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <optional>
#include <thread>

namespace kvmport::test {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t mib = 1U << 20, size = 320 * mib;

/// Random bytes here and there, as an old disk has them.
void fill_with_junk(const fs::path& file) {
  UniqueFd fd = create_new(file);
  Bytes junk(mib);
  std::mt19937_64 random(7);
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0)
    throw std::runtime_error("ftruncate");
  for (std::uint64_t at = 0; at < size; at += 4 * mib) {
    for (std::size_t i = 0; i < junk.size(); i += 8)
      store_le<std::uint64_t>(junk, i, random());
    write_exact(fd.get(), at, junk, "junk");
  }
}

/// Receives passes into a file.
class Copy {
 public:
  explicit Copy(const fs::path& path) : fd_(create_new(path)) {
    if (::ftruncate(fd_.get(), static_cast<off_t>(size)) != 0)
      throw std::runtime_error("ftruncate");
  }
  void take(const Image& image, const std::vector<Range>& ranges) {
    Bytes buffer(mib);
    for (const Range& range : ranges)
      for (std::uint64_t at = range.offset; at < range.end(); at += mib) {
        const auto part = std::span(buffer).first(std::min(mib, range.end() - at));
        image.read(at, part);
        write_exact(fd_.get(), at, part, "copy");
      }
  }

 private:
  UniqueFd fd_;
};

class LivePassesBase : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    try {
      const TraceDirectory directory{{}};
    } catch (const Error& error) {
      GTEST_SKIP() << error.why();
    }
    fill_with_junk(disk());
    make_filesystem();
    loop_.emplace(disk());
    if (!*loop_)
      GTEST_SKIP() << "no loop devices here: " << loop_->why();
    mounted_.emplace(loop_->path(), dir_.path() / "mnt", "rw");
    ASSERT_TRUE(*mounted_) << mounted_->why();
  }
  void TearDown() override {
    mounted_.reset();
    loop_.reset();
  }

  /// What lay there before stays in what is free.
  void make_filesystem() const {
    const std::string kind = GetParam(), file = disk().string();
    if (kind == "ext4")
      must_run({"mkfs.ext4", "-q", "-F", "-E", "nodiscard", file});
    else
      must_run({"mkfs." + kind, "-q", "-f", "-K", file});
  }
  fs::path disk() const { return dir_.path() / "disk"; }
  fs::path copy() const { return dir_.path() / "copy"; }
  LiveOptions options() const {
    LiveOptions options;
    options.last_pass = 1000ms;
    return options;
  }
  void expect_captured(const LiveResult& result, const LiveWriter& writer) {
    std::string passes;
    for (const LivePassStats& pass : result.passes)
      passes += " " + std::to_string(pass.bytes >> 10) + " KiB";
    std::string notes;
    for (const std::string& note : result.notes)
      notes += note + "\n";
    std::cout << GetParam() << ": passes" << passes << "; frozen " << result.map_freeze.count() << " ms for the map, "
              << result.last_freeze.count() << " ms for the last pass\n"
              << notes;
    mounted_.reset(); // two of one UUID can't be mounted
    loop_.reset();
    const Mounted there(copy(), dir_.path() / "result", "loop");
    ASSERT_TRUE(there) << there.why();
    const LiveLog::Verdict verdict = writer.log().compare(there.path(), result.frozen_at);
    EXPECT_EQ(verdict.wrong, std::vector<std::string>());
    EXPECT_GT(verdict.compared, 20U);
    std::cout << verdict.compared << " files and blocks were synced before and are the same\n";
  }

  /// Without the later passes something is missing: else nothing was tested.
  void expect_incomplete(const LiveResult& result, const LiveWriter& writer) const {
    const Mounted there(dir_.path() / "incomplete", dir_.path() / "result2", "loop");
    EXPECT_TRUE(!there || !writer.log().compare(there.path(), result.frozen_at).wrong.empty());
  }

  const TempDir dir_;
  std::optional<LoopDisk> loop_;
  std::optional<Mounted> mounted_;
};

class LivePassesTest : public LivePassesBase {};

TEST_P(LivePassesTest, WhatWasSyncedIsCaptured) {
  LiveWriter writer(mounted_->path());
  writer.run_until(30); // files
  const DirectDisk image(loop_->path());
  EXPECT_TRUE(image.direct());
  const LiveDisk disk{loop_->device(), &image, "loop"};
  Copy copied(copy()), incomplete(dir_.path() / "incomplete");
  NullSink sink;
  std::vector<LivePass::Kind> kinds;
  const LiveResult result = capture_live(
      options(), std::span(&disk, 1),
      [&](const LivePass& pass) {
        kinds.push_back(pass.kind);
        if (pass.kind != LivePass::Kind::last)
          std::this_thread::sleep_for(300ms); // the writer goes on
        copied.take(image, pass.disks.at(0));
        if (pass.kind == LivePass::Kind::first)
          incomplete.take(image, pass.disks.at(0));
      },
      sink, StopToken());
  writer.run_until(writer.written() + 5); // after the thaw it goes on
  writer.stop();
  expect_captured(result, writer);
  expect_incomplete(result, writer);
  ASSERT_GE(kinds.size(), 2U);
  EXPECT_EQ(kinds.front(), LivePass::Kind::first);
  EXPECT_EQ(kinds.back(), LivePass::Kind::last);
  EXPECT_LT(result.passes.front().bytes, size / 2) << "free blocks were copied";
  EXPECT_GT(bytes_of(result.free.at(0)), size / 2);
  EXPECT_EQ(result.unsettled, 0U);
}

/// The kernel loses events all the time in the beginning: all is compared again, with new maps.
TEST_P(LivePassesTest, AnOverrunIsMadeGood) {
  LiveWriter writer(mounted_->path());
  writer.run_until(10);
  const DirectDisk image(loop_->path());
  const LiveDisk disk{loop_->device(), &image, "loop"};
  Copy copied(copy());
  NullSink sink;
  unsigned again = 0;
  LiveOptions how = options();
  how.tracker.buffer = 8192;
  how.tracker.all_buffers = 1;
  how.tracker.drain_interval = 1h;
  const LiveResult result = capture_live(
      how, std::span(&disk, 1),
      [&](const LivePass& pass) {
        again += pass.kind == LivePass::Kind::again ? 1 : 0;
        if (pass.number <= 2) {
          const unsigned before = writer.written();
          writer.run_until(before + 60);
        } else {
          writer.pause(pass.number < 8);
        }
        copied.take(image, pass.disks.at(0));
      },
      sink, StopToken());
  writer.pause(false);
  writer.stop();
  EXPECT_GE(again, 1U);
  expect_captured(result, writer);
}

class LivePassesOnce : public LivePassesBase {};

TEST_P(LivePassesOnce, WhoWritesTooMuchIsRefused) {
  LiveWriter writer(mounted_->path());
  writer.run_until(5);
  const DirectDisk image(loop_->path());
  const LiveDisk disk{loop_->device(), &image, "loop"};
  NullSink sink;
  LiveOptions how = options();
  how.most_passes = 3;
  how.last_pass = 1ms;
  const auto slow = [&](const LivePass& pass) {
    EXPECT_NE(pass.kind, LivePass::Kind::last);
    writer.run_until(writer.written() + 10);
  };
  try {
    capture_live(how, std::span(&disk, 1), slow, sink, StopToken());
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "LIVE_NOT_CONVERGING");
  }
  writer.run_until(writer.written() + 2); // nothing stays frozen
  writer.stop();
}

/// A last pass that takes too long: the watchdog thaws, the capture goes on, and gives up in the end.
TEST_P(LivePassesOnce, TheFreezeHasALimit) {
  LiveWriter writer(mounted_->path());
  writer.run_until(5);
  const DirectDisk image(loop_->path());
  const LiveDisk disk{loop_->device(), &image, "loop"};
  NullSink sink;
  LiveOptions how = options();
  how.freeze_limit = 700ms;
  how.most_freezes = 2;
  unsigned last = 0;
  const auto slow = [&](const LivePass& pass) {
    if (pass.kind != LivePass::Kind::last)
      return;
    last++;
    std::this_thread::sleep_for(1500ms);
  };
  try {
    capture_live(how, std::span(&disk, 1), slow, sink, StopToken());
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "FREEZE_EXPIRED");
  }
  EXPECT_GE(last, 2U);
  writer.run_until(writer.written() + 2);
  writer.stop();
}

INSTANTIATE_TEST_SUITE_P(Kinds, LivePassesTest, testing::Values("ext4", "xfs", "btrfs"));
INSTANTIATE_TEST_SUITE_P(Kinds, LivePassesOnce, testing::Values("ext4"));

} // namespace
} // namespace kvmport::test
