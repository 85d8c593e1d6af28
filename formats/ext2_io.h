// SPDX-License-Identifier: Apache-2.0
// Shows a byte range of one of our disks to libext2fs as its block device. Reads go through a small cache of aligned
// pieces, because libext2fs asks block by block and a compressed image answers in whole grains.
#pragma once

#include "formats/image.h"

#include <ext2fs/ext2fs.h>
#include <memory>
#include <string>
#include <vector>

namespace kvmport {

/// An ext2/3/4 filesystem opened by libext2fs. One thread at a time.
class Ext2Handle {
 public:
  /// Reads only: writes of libext2fs fail.
  static Ext2Handle open(const Image& disk, Range range);
  /// Reads and writes; what is written lies on `disk` after ext2fs_flush() or close().
  static Ext2Handle open_writable(WritableImage& disk, Range range);

  Ext2Handle(Ext2Handle&& other) noexcept;
  Ext2Handle(const Ext2Handle&) = delete;
  Ext2Handle& operator=(const Ext2Handle&) = delete;
  Ext2Handle& operator=(Ext2Handle&&) = delete;
  /// Without close(), changes that libext2fs still holds in memory are dropped.
  ~Ext2Handle();

  /// Writes what libext2fs holds (bitmaps, group descriptors, superblock) and closes. Errors: GUEST_WRITE_FAILED.
  void close();
  /// From now on at most this many bytes are read, repeated ones included; then reads fail. For filesystems that may be
  /// made to be endless.
  void limit_reads(std::uint64_t bytes);
  ext2_filsys get() const { return fs_; }

  /// The inode at an absolute path whose symbolic links are followed within the filesystem; 0 when there is none.
  ext2_ino_t find(const std::string& path) const;
  /// All zeros when it can't be read, or `number` is 0.
  ext2_inode inode(ext2_ino_t number) const;
  /// Where the content of a regular file lies: its first blocks, at most `most`, in its order; empty when it can't be
  /// read.
  std::vector<std::uint64_t> blocks(ext2_ino_t number, std::size_t most) const;
  /// At most `most` bytes of a file from `offset` on; empty when it can't be read.
  std::string content(ext2_ino_t number, std::uint64_t offset, std::size_t most) const;

 private:
  struct Device;
  explicit Ext2Handle(std::unique_ptr<Device> device);
  std::unique_ptr<Device> device_;
  ext2_filsys fs_ = nullptr;
};

/// Text of a libext2fs error.
std::string ext2_error(errcode_t error);

} // namespace kvmport
