// SPDX-License-Identifier: Apache-2.0
// Freezes real filesystems on loop devices. Whether one stands still is seen by a child that tries to write.
#include "libconvert/p2v/freezer.h"
#include "tests/p2v/loop_disk.h"

#include <csignal>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <thread>

namespace kvmport::test {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

/// A process that writes a file; it blocks while the filesystem stands still.
class Writer {
 public:
  explicit Writer(const fs::path& file) {
    pid_ = ::fork();
    if (pid_ == 0) {
      const int fd = ::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
      _exit(fd >= 0 && ::write(fd, "x", 1) == 1 ? 0 : 1);
    }
  }
  ~Writer() { wait(30s); }
  /// It has written within `time`.
  bool wait(std::chrono::milliseconds time) {
    for (const auto end = Clock::now() + time; !done_;) {
      int status = 0;
      done_ = ::waitpid(pid_, &status, WNOHANG) == pid_;
      if (done_)
        return status == 0;
      if (Clock::now() > end)
        return false;
      std::this_thread::sleep_for(5ms);
    }
    return true;
  }

 private:
  pid_t pid_ = -1;
  bool done_ = false;
};

bool writable(const fs::path& directory, std::chrono::milliseconds time = 5s) {
  return Writer(directory / "probe").wait(time);
}

/// Two filesystems, one mounted in the other.
class FreezerTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    for (const char* name : {"outer", "inner"}) {
      const fs::path file = dir_.path() / name;
      must_run({"truncate", "-s", "320M", file.string()});
      must_run({std::string("mkfs.") + GetParam(), "-q", file.string()});
      loops_.push_back(std::make_unique<LoopDisk>(file));
      if (!*loops_.back())
        GTEST_SKIP() << "no loop devices here: " << loops_.back()->why();
    }
    outer_ = std::make_unique<Mounted>(loops_[0]->path(), dir_.path() / "mnt", "rw");
    ASSERT_TRUE(*outer_) << outer_->why();
    inner_ = std::make_unique<Mounted>(loops_[1]->path(), dir_.path() / "mnt" / "in", "rw");
    ASSERT_TRUE(*inner_) << inner_->why();
    disks_ = {loops_[0]->device(), loops_[1]->device()};
  }
  void TearDown() override {
    inner_.reset();
    outer_.reset();
  }

  std::vector<MountedFilesystem> filesystems() const { return filesystems_on({}, disks_); }

  const TempDir dir_;
  std::vector<std::unique_ptr<LoopDisk>> loops_;
  std::unique_ptr<Mounted> outer_, inner_;
  std::vector<dev_t> disks_;
};

TEST_P(FreezerTest, FindsTheDeepestFirst) {
  const auto found = filesystems();
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].device, disks_[1]);
  EXPECT_EQ(found[1].device, disks_[0]);
  EXPECT_EQ(found[0].depth, found[1].depth + 1);
  EXPECT_EQ(found[0].type, GetParam());
  EXPECT_EQ(found[1].places.at(0).path, outer_->path());
}

TEST_P(FreezerTest, StandsStillUntilThawed) {
  const auto found = filesystems();
  Freeze freeze(found);
  EXPECT_EQ(freeze.frozen(), (std::vector<std::size_t>{0, 1}));
  Writer one(outer_->path() / "file"), two(inner_->path() / "file");
  EXPECT_FALSE(one.wait(300ms));
  EXPECT_FALSE(two.wait(1ms));
  EXPECT_FALSE(freeze.expired());
  EXPECT_TRUE(freeze.thaw());
  EXPECT_TRUE(one.wait(5s));
  EXPECT_TRUE(two.wait(5s));
  EXPECT_GE(freeze.duration(), 300ms);
  EXPECT_LE(freeze.duration(), 5s);
  EXPECT_TRUE(freeze.thaw());
  EXPECT_EQ(::kill(freeze.watchdog(), 0), -1); // and is reaped
}

TEST_P(FreezerTest, ThawsAtTheEndOfTheScope) {
  const auto found = filesystems();
  try {
    const Freeze freeze(found);
    throw std::runtime_error("anything");
  } catch (const std::runtime_error&) {
  }
  EXPECT_TRUE(writable(outer_->path()));
  EXPECT_TRUE(writable(inner_->path()));
}

TEST_P(FreezerTest, WatchdogThawsAfterTheLimit) {
  const auto found = filesystems();
  Freeze freeze(found, {600ms});
  Writer one(outer_->path() / "file");
  EXPECT_FALSE(one.wait(200ms));
  EXPECT_TRUE(one.wait(5s));
  EXPECT_TRUE(writable(inner_->path()));
  EXPECT_TRUE(freeze.expired());
  EXPECT_FALSE(freeze.thaw());
  EXPECT_FALSE(freeze.thaw());
}

/// Runs `hold` in a process that has frozen all, until that process is gone.
template <class Hold> void freeze_elsewhere(const std::vector<MountedFilesystem>& filesystems, const Hold& hold) {
  auto [ours, theirs] = socket_pair(SOCK_STREAM);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ours.reset();
    Freeze freeze(filesystems, {30s});
    [[maybe_unused]] const ssize_t n = ::write(theirs.get(), "f", 1);
    ::pause();
    _exit(0);
  }
  theirs.reset();
  char frozen = 0;
  ASSERT_EQ(::read(ours.get(), &frozen, 1), 1);
  hold(child);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
}

TEST_P(FreezerTest, WatchdogThawsWhenItsParentIsKilled) {
  for (const int signal : {SIGKILL, SIGTERM, SIGSEGV}) {
    freeze_elsewhere(filesystems(), [&](pid_t child) {
      Writer one(outer_->path() / "file"), two(inner_->path() / "file");
      EXPECT_FALSE(one.wait(200ms));
      ::kill(child, signal);
      EXPECT_TRUE(one.wait(5s)) << signal;
      EXPECT_TRUE(two.wait(5s)) << signal;
    });
  }
}

TEST_P(FreezerTest, SaysWhenSomethingElseHasFrozenIt) {
  must_run({"fsfreeze", "-f", outer_->path().string()});
  const auto found = filesystems();
  try {
    const Freeze freeze(found);
    ADD_FAILURE() << "frozen twice";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "FREEZE_FAILED");
    EXPECT_NE(error.summary().find(loops_[0]->path().string()), std::string::npos) << error.what();
  }
  EXPECT_TRUE(writable(inner_->path())); // it was frozen first
  must_run({"fsfreeze", "-u", outer_->path().string()});
  EXPECT_TRUE(writable(outer_->path()));
}

INSTANTIATE_TEST_SUITE_P(Kinds, FreezerTest, testing::Values("ext4", "xfs"));

/// What can't be frozen is written back and named.
TEST(Freezer, LeavesWhatCantBeFrozen) {
  const TempDir dir;
  if (run_process({"mount", "-t", "tmpfs", "none", dir.path().string()}, 30s).exit_code != 0)
    GTEST_SKIP() << "no mount here";
  struct stat st {};
  ASSERT_EQ(::stat(dir.path().c_str(), &st), 0);
  MountedFilesystem filesystem;
  filesystem.device = st.st_dev;
  for (const MountPoint& one : read_mountinfo("/proc/self/mountinfo"))
    if (one.path == dir.path())
      filesystem.places = {one};
  ASSERT_EQ(filesystem.places.size(), 1U);
  {
    Freeze freeze(std::span(&filesystem, 1));
    EXPECT_EQ(freeze.not_frozen(), std::vector<std::size_t>{0});
    EXPECT_TRUE(writable(dir.path()));
  }
  must_run({"umount", dir.path().string()});
}

} // namespace
} // namespace kvmport::test
