// SPDX-License-Identifier: Apache-2.0
// An EFI system partition changed in user space: fsck.vfat must find nothing, and mtools read what was written.
#include "base/process.h"
#include "formats/overlay.h"
#include "libconvert/guest/userspace/volume.h"
#include "tests/support/tempdir.h"

#include <gtest/gtest.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

constexpr std::uint64_t offset = 1U << 20;

/// A FAT32 filesystem in the middle of a disk.
class Fat : public testing::Test {
 protected:
  Fat() {
    { UniqueFd fd = create_new(disk()); }
    fs::resize_file(disk(), offset + (40U << 20) + offset);
    must_run({"mkfs.vfat", "-F", "32", "--offset", "2048", disk().string(), "40960"});
    mtools("mmd", {"::/EFI", "::/EFI/debian"});
    put("::/EFI/debian/grubx64.efi", std::string(300000, 'g'));
    put("::/EFI/debian/A rather long name.conf", "long\n");
    image_ = open_image(disk(), {.format = "raw", .allowed_directories = {}, .window = {}});
    overlay_ = std::make_unique<Overlay>(*image_, dir_.path(), 1ULL << 30);
    volume_ = open_fat_volume(*overlay_, {offset, 40U << 20}, why_not_);
  }
  fs::path disk() const { return dir_.path() / "disk.img"; }
  std::string mtools(const std::string& tool, std::vector<std::string> words) {
    words.insert(words.begin(), {tool, "-i", view_.empty() ? disk().string() + "@@1M" : view_.string()});
    return must_run(words);
  }
  void put(const std::string& path, const std::string& content) {
    write_file_durably(dir_.path() / "content", content);
    mtools("mcopy", {"-o", (dir_.path() / "content").string(), path});
  }
  /// What the volume has written, as a file; checked.
  void flush() {
    volume_->flush();
    view_ = dir_.path() / "view";
    Bytes bytes(40U << 20);
    overlay_->read(offset, bytes);
    write_file_durably(view_, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    const ProcessResult fsck = run_process({"fsck.vfat", "-n", view_.string()}, std::chrono::minutes(1));
    EXPECT_EQ(fsck.exit_code, 0) << fsck.out << fsck.err;
  }

  TempDir dir_;
  fs::path view_;
  std::unique_ptr<Image> image_;
  std::unique_ptr<Overlay> overlay_;
  std::unique_ptr<Volume> volume_;
  std::string why_not_;
};

TEST_F(Fat, ReadsNamesWithoutCase) {
  ASSERT_TRUE(volume_) << why_not_;
  EXPECT_EQ(volume_->list("/"), std::vector<std::string>{"EFI"});
  EXPECT_EQ(volume_->list("/efi/DEBIAN"), (std::vector<std::string>{"A rather long name.conf", "grubx64.efi"}));
  EXPECT_EQ(volume_->read("/EFI/debian/a RATHER long name.conf", 100), "long\n");
  EXPECT_EQ(volume_->lstat("/EFI/debian/GRUBX64.EFI")->size, 300000U);
  EXPECT_EQ(volume_->lstat("/EFI")->type, FileType::directory);
  EXPECT_FALSE(volume_->lstat("/EFI/none"));
  EXPECT_THROW((void)volume_->read("/EFI", 10), Error);
  EXPECT_GT(volume_->free_space().bytes, 30U << 20);
}

TEST_F(Fat, WritesWhatMtoolsRead) {
  ASSERT_TRUE(volume_) << why_not_;
  volume_->make_directory("/EFI/BOOT");
  volume_->copy("/EFI/debian/grubx64.efi", "/EFI/BOOT/BOOTX64.EFI");
  volume_->create("/EFI/BOOT/grub.cfg", "configfile\n", 0644);
  volume_->append("/EFI/BOOT/grub.cfg", "more\n");
  volume_->rewrite("/EFI/debian/A rather long name.conf", std::string(70000, 'n'));
  volume_->rename("/EFI/debian/grubx64.efi", "/EFI/debian/old.efi");
  volume_->create("/EFI/gone", "x", 0644);
  volume_->remove("/EFI/gone");
  EXPECT_TRUE(overlay_->dirty().empty()) << "nothing lies on the disk before flush()";
  flush();
  EXPECT_EQ(mtools("mtype", {"::/EFI/BOOT/BOOTX64.EFI"}), std::string(300000, 'g'));
  EXPECT_EQ(mtools("mtype", {"::/EFI/BOOT/grub.cfg"}), "configfile\nmore\n");
  EXPECT_EQ(mtools("mtype", {"::/EFI/debian/A rather long name.conf"}), std::string(70000, 'n'));
  EXPECT_EQ(mtools("mdir", {"-b", "-/", "-a", "::/"}).find("gone"), std::string::npos);
  for (const Extent& extent : overlay_->dirty()) {
    EXPECT_GE(extent.range.offset, offset);
    EXPECT_LE(extent.range.end(), offset + (40U << 20));
  }
}

TEST_F(Fat, RefusesWhatFatHasNot) {
  ASSERT_TRUE(volume_) << why_not_;
  EXPECT_THROW(volume_->symlink("/EFI", "/link"), Error);
  EXPECT_THROW(volume_->create("/EFI/a*b", "x", 0644), Error);
  try {
    volume_->create("/EFI/too-large", std::string(60U << 20, 'x'), 0644);
    FAIL() << "it was not full";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "GUEST_NO_SPACE") << error.what();
  }
}

TEST_F(Fat, IsNotOpenedWhenItIsNone) {
  EXPECT_FALSE(open_fat_volume(*overlay_, {0, offset}, why_not_));
  EXPECT_NE(why_not_, "");
}

} // namespace
} // namespace kvmport::test
