// SPDX-License-Identifier: Apache-2.0
// ext4 changed in user space, in the locked-down child as conversions do it: the kernel's own fsck must find nothing,
// and the kernel must read what was written.
#include "base/process.h"
#include "formats/overlay.h"
#include "libconvert/guest/userspace/volume.h"
#include "tests/support/tempdir.h"

#include <algorithm>
#include <csignal>
#include <fmt/format.h>
#include <functional>
#include <gmock/gmock.h>
#include <sstream>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

/// A filesystem made by mke2fs from a directory, below an overlay.
class Ext4 : public testing::TestWithParam<std::vector<std::string>> {
 protected:
  void make(const std::vector<std::string>& options, const std::string& size = "64M") {
    std::vector<std::string> argv{"mke2fs", "-q", "-F"};
    argv.insert(argv.end(), options.begin(), options.end());
    argv.insert(argv.end(), {"-d", tree().string(), disk().string(), size});
    must_run(argv);
    run_process({"e2fsck", "-fyD", disk().string()}, std::chrono::minutes(1)); // makes hashed directories
    open();
  }
  void open() {
    image_ = open_image(disk(), {.format = "raw", .allowed_directories = {}, .window = {}});
    overlay_ = std::make_unique<Overlay>(*image_, dir_.path(), 1ULL << 30);
    volume_ = open_confined_ext4_volume(*overlay_, {0, image_->size()}, why_not_);
  }
  /// The overlay's view as a file.
  fs::path written() {
    const fs::path out = dir_.path() / "out.img";
    fs::copy_file(disk(), out, fs::copy_options::overwrite_existing);
    UniqueFd fd = open_existing(out);
    for (const auto& extent : overlay_->dirty()) {
      Bytes bytes(extent.range.length);
      overlay_->read(extent.range.offset, bytes);
      write_exact(fd.get(), extent.range.offset, bytes, "out");
    }
    return out;
  }
  /// The same, checked by e2fsck.
  fs::path checked() {
    volume_->flush();
    const fs::path out = written();
    const ProcessResult fsck = run_process({"e2fsck", "-fn", out.string()}, std::chrono::minutes(1));
    EXPECT_EQ(fsck.exit_code, 0) << fsck.out << fsck.err;
    return out;
  }
  std::string debugfs(const fs::path& image, const std::string& request) {
    return must_run({"debugfs", "-R", request, image.string()});
  }
  fs::path tree() const { return dir_.path() / "tree"; }
  fs::path disk() const { return dir_.path() / "disk.img"; }
  void put(const std::string& path, const std::string& content) {
    fs::create_directories((tree() / path).parent_path());
    write_file_durably(tree() / path, content);
  }

  TempDir dir_;
  std::unique_ptr<Image> image_;
  std::unique_ptr<Overlay> overlay_;
  std::unique_ptr<Volume> volume_;
  std::string why_not_;
};

TEST_P(Ext4, EveryChangeIsWhatTheKernelReadsAndFsckIsClean) {
  put("etc/fstab", "/dev/sda1 / ext4\n");
  put("etc/big", std::string(3000000, 'x'));
  put("boot/initrd", std::string(5000001, 'i'));
  fs::permissions(tree() / "etc/fstab", fs::perms(0640));
  // Enough names for an hashed directory of several blocks.
  for (int i = 0; i < 400; i++)
    put("etc/many/a-rather-long-file-name-number-" + std::to_string(i), std::to_string(i));
  make(GetParam());
  ASSERT_TRUE(volume_) << why_not_;

  EXPECT_EQ(volume_->read("/etc/fstab", 1000), "/dev/sda1 / ext4\n");
  EXPECT_EQ(volume_->list("/"), (std::vector<std::string>{"boot", "etc", "lost+found"}));
  EXPECT_EQ(volume_->list("/etc/many").size(), 400U);

  const std::string longer(70000, 'f');
  volume_->rewrite("/etc/fstab", longer);
  volume_->rewrite("/etc/big", "small now\n");
  volume_->append("/boot/initrd", std::string(2000003, 'n'));
  volume_->create("/etc/new", "new\n", 0600);
  volume_->copy("/etc/fstab", "/etc/new");
  for (int i = 0; i < 100; i++)
    volume_->create("/etc/many/one-more-file-with-a-long-name-" + std::to_string(i), "more", 0644);
  for (int i = 0; i < 400; i += 3)
    volume_->remove("/etc/many/a-rather-long-file-name-number-" + std::to_string(i));
  volume_->make_directory("/etc/dir");
  volume_->rename("/etc/new", "/etc/dir/renamed");
  volume_->symlink("/dev/null", "/etc/link");
  volume_->symlink(std::string(200, 'l'), "/etc/long-link");
  volume_->set_label("/etc/dir/renamed", "system_u:object_r:etc_t:s0");

  EXPECT_EQ(volume_->label("/etc/dir/renamed"), "system_u:object_r:etc_t:s0");
  EXPECT_EQ(volume_->readlink("/etc/link"), "/dev/null");
  EXPECT_EQ(volume_->readlink("/etc/long-link"), std::string(200, 'l'));
  EXPECT_EQ(volume_->lstat("/etc/dir/renamed")->mode, 0640U);

  const fs::path out = checked();
  EXPECT_EQ(debugfs(out, "cat /etc/fstab"), longer);
  EXPECT_EQ(debugfs(out, "cat /etc/big"), "small now\n");
  EXPECT_EQ(debugfs(out, "cat /etc/dir/renamed"), longer);
  EXPECT_EQ(debugfs(out, "cat /boot/initrd"), std::string(5000001, 'i') + std::string(2000003, 'n'));
  EXPECT_EQ(debugfs(out, "cat /etc/many/one-more-file-with-a-long-name-99"), "more");
  EXPECT_EQ(volume_->list("/etc/many").size(), 366U);
}

TEST_P(Ext4, EmptyDirectoriesAreRemoved) {
  for (int i = 0; i < 300; i++) // a directory of several blocks
    put("var/many/a-rather-long-file-name-number-" + std::to_string(i), "x");
  put("var/full/file", "x");
  fs::create_directories(tree() / "var/none");
  make(GetParam());
  ASSERT_TRUE(volume_) << why_not_;
  const std::uint64_t free_before = volume_->free_space().bytes;
  EXPECT_THROW(volume_->remove("/var/full"), Error);
  EXPECT_THROW(volume_->rename("/var/full/file", "/var/none"), Error);
  for (int i = 0; i < 300; i++)
    volume_->remove("/var/many/a-rather-long-file-name-number-" + std::to_string(i));
  volume_->remove("/var/many");
  volume_->remove("/var/none");
  volume_->make_directory("/var/again");
  volume_->remove("/var/again");
  EXPECT_EQ(volume_->list("/var"), std::vector<std::string>{"full"});
  EXPECT_GT(volume_->free_space().bytes, free_before + 300 * 1024);
  checked();
}

INSTANTIATE_TEST_SUITE_P(Kinds, Ext4,
                         testing::Values(std::vector<std::string>{"-t", "ext4"},
                                         std::vector<std::string>{"-t", "ext4", "-b", "1024"},
                                         std::vector<std::string>{"-t", "ext4", "-O", "^metadata_csum,^64bit"},
                                         std::vector<std::string>{"-t", "ext4", "-I", "128"},
                                         std::vector<std::string>{"-t", "ext3"},
                                         std::vector<std::string>{"-t", "ext2"}));

using Ext4Refusal = Ext4;

TEST_F(Ext4Refusal, AFullFilesystemIsSaid) {
  put("a", "a");
  make({"-t", "ext4"}, "8M");
  ASSERT_TRUE(volume_) << why_not_;
  try {
    volume_->append("/a", std::string(20U << 20, 'x'));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "GUEST_NO_SPACE");
  }
}

/// A filesystem as a pulled plug leaves it: synced files that only its journal knows, and a deleted one still in use.
class Ext4Crash : public Ext4 {
 protected:
  void SetUp() override {
    const fs::path live = dir_.path() / "live.img", mounted = dir_.path() / "mounted";
    fs::create_directories(mounted);
    must_run({"mke2fs", "-q", "-F", "-t", "ext4", live.string(), "64M"});
    must_run({"mount", "-o", "loop", live.string(), mounted.string()});
    try {
      must_run({"sh", "-c",
                "cd " + mounted.string() +
                    " && mkdir etc && echo old > etc/fstab && sync && exec 3>deleted && echo x >&3 && rm deleted && "
                    "echo new > etc/new && echo changed > etc/fstab && sync etc/new etc/fstab && cp --sparse=always " +
                    live.string() + " " + disk().string()});
    } catch (...) {
      run_process({"umount", mounted.string()}, std::chrono::seconds(60));
      throw;
    }
    must_run({"umount", mounted.string()});
    open();
  }
};

TEST_F(Ext4Crash, TheJournalIsReplayedBeforeAnythingIsChanged) {
  ASSERT_NE(must_run({"dumpe2fs", "-h", disk().string()}).find("needs_recovery"), std::string::npos);
  ASSERT_TRUE(volume_) << why_not_;
  EXPECT_EQ(volume_->read("/etc/new", 100), "new\n");
  EXPECT_EQ(volume_->read("/etc/fstab", 100), "changed\n");
  volume_->rewrite("/etc/fstab", "ours\n");
  volume_->create("/etc/more", std::string(100000, 'm'), 0644);
  volume_->flush();
  const fs::path out = written();
  // The kernel frees the deleted file when it mounts, and finds nothing else to do.
  const fs::path mounted = dir_.path() / "mounted";
  must_run({"mount", "-o", "loop", out.string(), mounted.string()});
  const std::string fstab = read_file(mounted / "etc/fstab", 100), more = read_file(mounted / "etc/more", 200000);
  must_run({"umount", mounted.string()});
  EXPECT_EQ(fstab, "ours\n");
  EXPECT_EQ(more, std::string(100000, 'm'));
  const ProcessResult fsck = run_process({"e2fsck", "-fn", out.string()}, std::chrono::minutes(1));
  EXPECT_EQ(fsck.exit_code, 0) << fsck.out;
}

TEST_F(Ext4Crash, AKilledReaderIsAnErrorAndNoCrash) {
  ASSERT_TRUE(volume_) << why_not_;
  const std::string children = read_file("/proc/self/task/" + std::to_string(::gettid()) + "/children", 1000);
  for (std::istringstream list(children); !list.eof();) {
    pid_t pid = 0;
    if (list >> pid)
      ::kill(pid, SIGKILL);
  }
  EXPECT_THROW((void)volume_->read("/etc/fstab", 100), Error);
  EXPECT_THROW(volume_->rewrite("/etc/fstab", "x"), Error);
}

TEST_F(Ext4Refusal, AFullInodeTableIsSaid) {
  put("a", "a");
  make({"-t", "ext4", "-N", "32"});
  ASSERT_TRUE(volume_) << why_not_;
  std::string code;
  for (int i = 0; i < 100 && code.empty(); i++) {
    try {
      volume_->create("/file" + std::to_string(i), "x", 0644);
    } catch (const Error& error) {
      code = error.code();
    }
  }
  EXPECT_EQ(code, "GUEST_NO_SPACE");
  checked();
}

TEST_F(Ext4Refusal, ProtectedFilesAreNotChanged) {
  put("fixed", "fixed");
  put("log", "log");
  put("dir/file", "x");
  make({"-t", "ext4"});
  for (const auto& [path, flags] : {std::pair("/fixed", "0x80010"), {"/log", "0x80020"}, {"/dir", "0x80010"}})
    must_run({"debugfs", "-w", "-R", std::string("set_inode_field ") + path + " flags " + flags, disk().string()});
  open();
  ASSERT_TRUE(volume_) << why_not_;
  const std::vector<std::function<void()>> changes{
      [&] { volume_->rewrite("/fixed", "x"); }, [&] { volume_->append("/fixed", "x"); },
      [&] { volume_->remove("/fixed"); },       [&] { volume_->rename("/fixed", "/other"); },
      [&] { volume_->rewrite("/log", "x"); },   [&] { volume_->create("/dir/more", "x", 0644); },
      [&] { volume_->remove("/dir/file"); }};
  for (const auto& change : changes)
    EXPECT_THROW(change(), Error);
  EXPECT_EQ(volume_->list("/dir"), std::vector<std::string>{"file"});
}

TEST_F(Ext4Refusal, HolesAreZerosAndStayReadable) {
  fs::create_directories(tree());
  must_run({"sh", "-c",
            "cd " + tree().string() +
                " && truncate -s 9M sparse && printf end >> sparse && printf start | dd of=sparse "
                "bs=1 conv=notrunc status=none"});
  make({"-t", "ext4"});
  ASSERT_TRUE(volume_) << why_not_;
  std::string expected(9U << 20, '\0');
  expected.replace(0, 5, "start");
  expected += "end";
  EXPECT_TRUE(volume_->read("/sparse", UINT64_MAX) == expected);
  volume_->copy("/sparse", "/copy");
  volume_->append("/sparse", "more");
  EXPECT_TRUE(volume_->read("/copy", UINT64_MAX) == expected);
  EXPECT_TRUE(volume_->read("/sparse", UINT64_MAX) == expected + "more");
  checked();
}

TEST_F(Ext4Refusal, LargeFilesAreReadInTheirOrderAndAsTheyAreNow) {
  std::string expected;
  for (unsigned i = 0; i < 300000; i++)
    expected += std::to_string(i) + "\n";
  put("large", expected);
  make({"-t", "ext4", "-b", "4096"});
  // Blocks that are allocated and were never written are zeros, whatever lies there.
  const std::uint64_t end = round_up(expected.size(), 4096) / 4096;
  must_run({"debugfs", "-w", "-R", fmt::format("sif /large size {}", (end + 80) * 4096), disk().string()});
  must_run({"debugfs", "-w", "-R", fmt::format("fallocate /large {} {}", end + 8, end + 80), disk().string()});
  EXPECT_THAT(debugfs(disk(), "dump_extents /large"), testing::HasSubstr("Uninit"));
  open();
  ASSERT_TRUE(volume_) << why_not_;
  EXPECT_TRUE(volume_->read("/large", 300000) == expected.substr(0, 300000));
  expected.resize((end + 80) * 4096);
  EXPECT_TRUE(volume_->read("/large", UINT64_MAX) == expected);
  volume_->append("/large", "more");
  EXPECT_TRUE(volume_->read("/large", UINT64_MAX) == expected + "more");
  std::ranges::reverse(expected);
  volume_->rewrite("/large", expected);
  EXPECT_TRUE(volume_->read("/large", UINT64_MAX) == expected);
  checked();
}

TEST_F(Ext4Refusal, WhatLibext2fsCannotWriteSafelyIsLeftAlone) {
  put("a", "a");
  for (const char* feature : {"bigalloc", "inline_data", "encrypt", "quota"}) {
    make({"-t", "ext4", "-O", feature});
    EXPECT_FALSE(volume_) << feature;
    EXPECT_FALSE(why_not_.empty()) << feature;
  }
  make({"-t", "ext4"});
  must_run({"debugfs", "-w", "-R", "zap_block -f <8> 0", disk().string()}); // the journal's own superblock
  must_run({"debugfs", "-w", "-R", "feature needs_recovery", disk().string()});
  open();
  EXPECT_FALSE(volume_);
  EXPECT_NE(why_not_.find("journal"), std::string::npos) << why_not_;
}

TEST_F(Ext4Refusal, AClaimedSizeBeyondThePartitionIsRefused) {
  put("a", "a");
  make({"-t", "ext4"});
  fs::resize_file(disk(), 32U << 20);
  open();
  EXPECT_FALSE(volume_);
  EXPECT_FALSE(why_not_.empty());
}

} // namespace
} // namespace kvmport::test
