// SPDX-License-Identifier: Apache-2.0
// Writes to loop devices of this host, seen through its kernel's tracepoints.
#include "libconvert/p2v/change_tracker.h"
#include "libconvert/p2v/dirty_map.h"
#include "libconvert/p2v/tracefs.h"
#include "tests/p2v/loop_disk.h"

#include <array>
#include <csignal>
#include <fcntl.h>
#include <fstream>
#include <gtest/gtest.h>
#include <optional>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <thread>

namespace kvmport::test {
namespace {

constexpr std::uint64_t kib = 1024, mib = 1024 * kib, size = 64 * mib;

class ChangeTrackerTest : public testing::Test {
 protected:
  void SetUp() override {
    const fs::path file = dir_.path() / "disk";
    must_run({"truncate", "-s", std::to_string(size), file.string()});
    loop_.emplace(file);
    if (!*loop_)
      GTEST_SKIP() << "no loop devices here: " << loop_->why();
    fd_ = UniqueFd(::open(loop_->path().c_str(), O_RDWR | O_CLOEXEC | O_DIRECT));
    try {
      const TraceDirectory directory{{}};
    } catch (const Error& error) {
      GTEST_SKIP() << error.why();
    }
  }

  std::vector<TrackedDisk> disks() const { return {{loop_->device(), size}}; }
  void write(std::uint64_t offset, std::uint64_t length) const {
    alignas(4096) static std::array<std::byte, 1 << 20> bytes{};
    write_exact(fd_.get(), offset, std::span(bytes).first(length), "loop");
  }
  static bool instance_of(pid_t pid) {
    const TraceDirectory directory{{}};
    return fs::exists(directory.path() / "instances" / ("kvmport-" + std::to_string(pid)));
  }

  const TempDir dir_;
  std::optional<LoopDisk> loop_;
  UniqueFd fd_;
};

TEST_F(ChangeTrackerTest, SeesEachWriteOnce) {
  ChangeTracker tracker(disks());
  write(30 * mib, 4096); // before it starts
  tracker.start();
  EXPECT_TRUE(tracker.take().disks.at(0).empty());
  write(0, 4096);
  write(mib - 4096, 8192);
  write(10 * mib, mib);
  write(size - 4096, 4096);
  Bytes buffer(4096);
  const UniqueFd cached(::open(loop_->path().c_str(), O_RDONLY | O_CLOEXEC));
  read_exact(cached.get(), 20 * mib, buffer, "loop"); // reads are no changes
  EXPECT_GE(tracker.pending(), 0U);
  const Changes changes = tracker.take();
  EXPECT_FALSE(changes.overrun);
  EXPECT_EQ(
      changes.disks.at(0),
      (std::vector<Range>{{0, 64 * kib}, {mib - 64 * kib, 128 * kib}, {10 * mib, mib}, {size - 64 * kib, 64 * kib}}));
  EXPECT_TRUE(tracker.take().disks.at(0).empty());
}

TEST_F(ChangeTrackerTest, SeesDiscardsAndZeroes) {
  ChangeTracker tracker(disks());
  tracker.start();
  must_run({"blkdiscard", "-o", "1048576", "-l", "1048576", loop_->path().string()});
  EXPECT_EQ(tracker.take().disks.at(0), (std::vector<Range>{{mib, mib}}));
  must_run({"blkdiscard", "-z", "-o", "4194304", "-l", "65536", loop_->path().string()});
  EXPECT_EQ(tracker.take().disks.at(0), (std::vector<Range>{{4 * mib, 64 * kib}}));
}

/// Of the page cache of a block device, by many threads at once.
TEST_F(ChangeTrackerTest, SeesWhatManyWrite) {
  ChangeTracker tracker(disks(), {.granularity = 4 * kib});
  tracker.start();
  std::vector<std::jthread> writers;
  for (unsigned i = 0; i < 4; i++)
    writers.emplace_back([&, i] {
      for (std::uint64_t at = i; at < size / (4 * kib); at += 8)
        write(at * 4 * kib, 4 * kib);
    });
  writers.clear();
  const Changes changes = tracker.take();
  EXPECT_FALSE(changes.overrun);
  ASSERT_EQ(bytes_of(changes.disks.at(0)), size / 2);
  for (const Range& range : changes.disks.at(0)) {
    EXPECT_EQ(range.length, 16 * kib);
    EXPECT_EQ(range.offset % (32 * kib), 0U);
  }
}

TEST_F(ChangeTrackerTest, ReportsAnOverrun) {
  TrackerOptions options;
  options.drain_interval = std::chrono::hours(1);
  options.buffer = 8 * kib;
  options.all_buffers = 8 * kib;
  ChangeTracker tracker(disks(), options);
  tracker.start();
  EXPECT_FALSE(tracker.take().overrun);
  for (std::uint64_t i = 0; i < 10000; i++)
    write(i % 1000 * 4096, 4096);
  EXPECT_TRUE(tracker.take().overrun);
  write(0, 4096);
  const Changes after = tracker.take();
  EXPECT_FALSE(after.overrun);
  EXPECT_EQ(after.disks.at(0), (std::vector<Range>{{0, 64 * kib}}));
}

TEST_F(ChangeTrackerTest, NoticesThatTracingWasSwitchedOff) {
  ChangeTracker tracker(disks());
  tracker.start();
  const TraceDirectory directory{{}};
  const fs::path file = directory.path() / "instances" / ("kvmport-" + std::to_string(::getpid())) / "tracing_on";
  const UniqueFd fd(::open(file.c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_EQ(::write(fd.get(), "0", 1), 1);
  write(mib, 4096);
  EXPECT_TRUE(tracker.take().overrun);
  write(mib, 4096);
  const Changes after = tracker.take();
  EXPECT_FALSE(after.overrun);
  EXPECT_EQ(after.disks.at(0), (std::vector<Range>{{mib, 64 * kib}}));
}

TEST_F(ChangeTrackerTest, LeavesNoInstanceBehind) {
  {
    const ChangeTracker tracker(disks());
    EXPECT_TRUE(instance_of(::getpid()));
  }
  EXPECT_FALSE(instance_of(::getpid()));
  const pid_t child = ::fork(); // one that is killed
  if (child == 0) {
    ChangeTracker tracker(disks());
    tracker.start();
    ::kill(::getpid(), SIGKILL);
  }
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_TRUE(instance_of(child));
  const ChangeTracker tracker(disks());
  EXPECT_FALSE(instance_of(child));
}

TEST_F(ChangeTrackerTest, RefusesWhatIsNoWholeDisk) {
  try {
    const ChangeTracker tracker({{makedev(4095, 1), size}});
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "LIVE_NOT_POSSIBLE");
    EXPECT_NE(error.hint().find("boot medium"), std::string::npos);
  }
}

TEST(ChangeTracker, RefusesALockedDownKernel) {
  const TempDir dir;
  fs::create_directories(dir.path() / "kernel" / "security");
  for (const auto& [text, refused] : {std::pair("none integrity [confidentiality]\n", true),
                                      std::pair("none [integrity] confidentiality\n", false)}) {
    std::ofstream(dir.path() / "kernel" / "security" / "lockdown") << text;
    HostRoots host;
    host.sys = dir.path();
    try {
      const TraceDirectory directory(host);
      EXPECT_FALSE(refused);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), "LIVE_NOT_POSSIBLE");
      EXPECT_EQ(error.why().find("locked down") != std::string::npos, refused) << error.why();
    }
  }
}

TEST(ChangeTracker, TellsReadsFromChanges) {
  for (const char* text : {"R", "RA", "RM", "RAM", "RSM"})
    EXPECT_FALSE(changes_disk(text)) << text;
  for (const char* text : {"W", "WS", "WFS", "FWFSM", "D", "DS", "DE", "N", "NS", "FF", "F", "WSM", "ZR", "ZRA", ""})
    EXPECT_TRUE(changes_disk(text)) << text;
}

} // namespace
} // namespace kvmport::test
