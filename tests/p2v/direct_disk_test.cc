// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/direct_disk.h"
#include "tests/p2v/loop_disk.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <random>
#include <sys/mount.h>
#include <thread>

namespace kvmport::test {
namespace {

constexpr std::uint64_t mib = 1U << 20;

Bytes whole(const fs::path& path) {
  const std::string text = read_file(path, 64 * mib);
  const ByteSpan bytes = as_bytes(text);
  return {bytes.begin(), bytes.end()};
}

/// Places and lengths of every kind, from several threads.
void expect_reads(const DirectDisk& disk, const Bytes& wanted) {
  ASSERT_EQ(disk.size(), wanted.size());
  std::vector<std::jthread> readers;
  for (unsigned thread = 0; thread < 3; thread++)
    readers.emplace_back([&, thread] {
      std::mt19937_64 random(thread);
      for (unsigned i = 0; i < 60; i++) {
        const std::uint64_t offset = random() % wanted.size();
        const std::uint64_t most = std::min<std::uint64_t>(wanted.size() - offset, i % 7 == 0 ? 3 * mib : 20000);
        Bytes got(1 + random() % most);
        disk.read(offset, got);
        ASSERT_TRUE(std::equal(got.begin(), got.end(), wanted.begin() + static_cast<std::ptrdiff_t>(offset)))
            << offset << " " << got.size();
      }
    });
  readers.clear();
  Bytes all(wanted.size());
  disk.read(0, all);
  EXPECT_EQ(all, wanted);
}

TEST(DirectDisk, ReadsFilesAndDevices) {
  const TempDir dir;
  for (const std::uint64_t size : {8 * mib, 5 * mib + 512, mib + 77, std::uint64_t{100}}) {
    const fs::path file = dir.path() / std::to_string(size);
    make_pattern_file(file, size, 3);
    const DirectDisk disk(file);
    EXPECT_TRUE(disk.bad_ranges().empty());
    expect_reads(disk, whole(file));
    Bytes more(2);
    EXPECT_THROW(disk.read(size - 1, more), Error);
  }
  for (const char* sector : {"512", "4096"}) {
    const LoopDisk loop(dir.path() / std::to_string(8 * mib), {"-b", sector});
    if (!loop)
      GTEST_SKIP() << loop.why();
    const DirectDisk disk(loop.path());
    EXPECT_EQ(disk.info().logical_sector, std::stoul(sector));
    EXPECT_TRUE(disk.direct());
    expect_reads(disk, whole(dir.path() / std::to_string(8 * mib)));
  }
}

TEST(DirectDisk, ReadsWhereTheFilesystemHasNoDirectReads) {
  const TempDir dir;
  if (::mount("none", dir.path().c_str(), "tmpfs", 0, nullptr) != 0)
    GTEST_SKIP() << "no mount here";
  make_pattern_file(dir.path() / "disk", mib + 77, 3);
  {
    const DirectDisk disk(dir.path() / "disk");
    expect_reads(disk, whole(dir.path() / "disk"));
  }
  EXPECT_EQ(::umount(dir.path().c_str()), 0);
}

TEST(DirectDisk, TakesADiskForItselfAlone) {
  const TempDir dir;
  const fs::path file = dir.path() / "disk";
  must_run({"truncate", "-s", "32M", file.string()});
  must_run({"mkfs.ext4", "-q", file.string()});
  const LoopDisk loop(file);
  if (!loop)
    GTEST_SKIP() << loop.why();
  DirectOptions options;
  options.exclusive = true;
  {
    const DirectDisk disk(loop.path(), options);
    EXPECT_THROW(DirectDisk(loop.path(), options), Error);
    EXPECT_NO_THROW(DirectDisk(loop.path()));
  }
  const Mounted mounted(loop.path(), dir.path() / "mnt", "rw");
  ASSERT_TRUE(mounted) << mounted.why();
  try {
    const DirectDisk disk(loop.path(), options);
    ADD_FAILURE() << "it is mounted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "DISK_BUSY");
  }
}

/// A loop device over a file that was cut: what lies past its new end can't be read.
class FailingDisk {
 public:
  static constexpr std::uint64_t size = 8 * mib, good = size - 37 * 512;
  explicit FailingDisk(const fs::path& file) : file_(file) {
    make_pattern_file(file, size, 3);
    wanted = whole(file);
    loop_ = std::make_unique<LoopDisk>(file, std::vector<std::string>{"--direct-io=on"});
    fs::resize_file(file, good);
    std::fill(wanted.begin() + static_cast<std::ptrdiff_t>(good), wanted.end(), std::byte{0});
  }
  const fs::path& path() const { return loop_->path(); }
  /// Reads fail here. Not on kernels or filesystems without direct I/O below loop devices.
  bool fails() const {
    const UniqueFd fd(::open(path().c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
    alignas(4096) static std::byte sector[4096];
    return fd && ::pread(fd.get(), sector, sizeof sector, static_cast<off_t>(size - sizeof sector)) < 0;
  }
  void mend() const { fs::resize_file(file_, size); }

  Bytes wanted; ///< zeros where it fails

 private:
  const fs::path file_;
  std::unique_ptr<LoopDisk> loop_;
};

class FailingDiskTest : public testing::Test {
 protected:
  void SetUp() override {
    failing_ = std::make_unique<FailingDisk>(dir_.path() / "disk");
    if (!failing_->fails())
      GTEST_SKIP() << "no device that fails can be made here";
    options_.pause = std::chrono::milliseconds(1);
  }
  const TempDir dir_;
  std::unique_ptr<FailingDisk> failing_;
  DirectOptions options_;
};

TEST_F(FailingDiskTest, NamesTheSectors) {
  const DirectDisk disk(failing_->path(), options_);
  Bytes bytes(FailingDisk::good);
  disk.read(0, bytes);
  Bytes more(mib);
  try {
    disk.read(FailingDisk::size - mib, more);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "DISK_READ_ERROR");
    EXPECT_NE(error.why().find(" " + std::to_string(FailingDisk::good / 512) + " "), std::string::npos) << error.why();
  }
  EXPECT_TRUE(disk.bad_ranges().empty());
}

TEST_F(FailingDiskTest, RescuesAllThatCanBeRead) {
  options_.rescue = true;
  const DirectDisk disk(failing_->path(), options_);
  expect_reads(disk, failing_->wanted);
  EXPECT_EQ(disk.bad_ranges(), (std::vector<Range>{{FailingDisk::good, FailingDisk::size - FailingDisk::good}}));
}

TEST_F(FailingDiskTest, GivesUpAHopelessDisk) {
  options_.rescue = true;
  options_.most_bad_bytes = 4096;
  const DirectDisk disk(failing_->path(), options_);
  Bytes all(FailingDisk::size);
  EXPECT_THROW(disk.read(0, all), Error);
}

/// An error that passes is no error.
TEST_F(FailingDiskTest, TriesAgain) {
  options_.attempts = 100;
  options_.pause = std::chrono::milliseconds(20);
  options_.rescue = true;
  const DirectDisk disk(failing_->path(), options_);
  const std::jthread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    failing_->mend();
  });
  Bytes all(FailingDisk::size);
  disk.read(0, all);
  EXPECT_EQ(all, failing_->wanted);
  EXPECT_TRUE(disk.bad_ranges().empty());
}

TEST(DirectDisk, RefusesWhatIsNoDisk) {
  for (const auto& [path, code] : {std::pair("/dev/null", "NOT_A_DISK"), std::pair("/nowhere", "NOT_FOUND")}) {
    try {
      const DirectDisk disk(path);
      ADD_FAILURE() << path;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code);
    }
  }
}

} // namespace
} // namespace kvmport::test
