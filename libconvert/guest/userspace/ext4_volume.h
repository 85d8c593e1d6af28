// SPDX-License-Identifier: Apache-2.0
// ext2/3/4 through libext2fs. The volume is not mounted anywhere and its journal is empty, after a replay if need be,
// so writing without the journal is what mke2fs and debugfs do too. Inner part of open_ext4_volume(); reading and
// opening are in ext4_volume.cc, changing in ext4_volume_write.cc.
#pragma once

#include "formats/ext2_io.h"
#include "libconvert/guest/userspace/volume.h"

namespace kvmport {

class Ext4Volume final : public Volume {
 public:
  explicit Ext4Volume(Ext2Handle handle) : handle_(std::move(handle)) {
    check(::ext2fs_read_bitmaps(fs()), "its bitmaps can't be read");
  }
  ~Ext4Volume() override = default;

  std::optional<FileStat> lstat(const std::string& path) const override;
  std::vector<std::string> list(const std::string& directory) const override;
  std::string read(const std::string& path, std::uint64_t bytes) const override;
  std::optional<std::vector<FilePlace>> places(const std::string& path, std::uint64_t bytes) const override;
  std::string readlink(const std::string& path) const override;
  std::optional<std::string> label(const std::string& path) const override;
  FreeSpace free_space() const override;
  void rewrite(const std::string& path, std::string_view content) override;
  void create(const std::string& path, std::string_view content, std::uint32_t mode) override;
  void append(const std::string& path, std::string_view content) override;
  void remove(const std::string& path) override;
  void rename(const std::string& from, const std::string& to) override;
  void copy(const std::string& from, const std::string& to) override;
  void symlink(const std::string& target, const std::string& path) override;
  void make_directory(const std::string& path) override;
  void set_label(const std::string& path, const std::string& label) override;
  void flush() override;

 private:
  ext2_filsys fs() const { return handle_.get(); }

  static void check(errcode_t error, const std::string& what, const char* code = "GUEST_READ_FAILED") {
    if (error == EXT2_ET_BLOCK_ALLOC_FAIL || error == EXT2_ET_INODE_ALLOC_FAIL)
      throw Error("GUEST_NO_SPACE", what, ext2_error(error), "make room in the guest");
    if (error != 0)
      throw Error(code, what, ext2_error(error));
  }
  static void check_write(errcode_t error, const std::string& path) {
    check(error, "can't change " + path + " in the guest", "GUEST_WRITE_FAILED");
  }

  std::optional<ext2_ino_t> find(const std::string& path) const;
  ext2_ino_t need(const std::string& path) const;
  ext2_inode read_inode(ext2_ino_t ino, const std::string& path) const;
  void write_inode(ext2_ino_t ino, ext2_inode& inode, const std::string& path);
  void must_be_changeable(ext2_ino_t ino, const std::string& path, bool append = false) const;
  std::optional<std::string> attribute(ext2_ino_t ino, const char* name) const;
  void set_attribute(ext2_ino_t ino, const char* name, const std::string& value, const std::string& path);
  void link(const std::string& path, ext2_ino_t ino, int type);
  void fill(ext2_ino_t ino, std::uint64_t offset, std::string_view content, const std::string& path);
  void release(ext2_ino_t ino, const std::string& path);
  void free_inode(ext2_ino_t ino, const std::string& path, bool directory);

  Ext2Handle handle_;
};

} // namespace kvmport
