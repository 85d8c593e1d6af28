// SPDX-License-Identifier: Apache-2.0
// One filesystem of the guest, read and changed in user space, without a kernel and so without an appliance. Paths are
// clean and absolute inside the volume; links are never followed here. One thread at a time.
#pragma once

#include "formats/image.h"
#include "libconvert/guest/filesystem.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace kvmport {

/// A piece of a file: where it lies in the volume, or zeros that lie nowhere.
struct FilePlace {
  std::optional<std::uint64_t> offset;
  std::uint64_t length = 0;
};

class Volume {
 public:
  virtual ~Volume() = default;

  virtual std::optional<FileStat> lstat(const std::string& path) const = 0;
  virtual std::vector<std::string> list(const std::string& directory) const = 0;
  /// The first `bytes` of a regular file, fewer when it is shorter.
  virtual std::string read(const std::string& path, std::uint64_t bytes) const = 0;
  /// The places of what read() returns, in order; nothing for a small file, and where they are not to be had.
  virtual std::optional<std::vector<FilePlace>> places([[maybe_unused]] const std::string& path,
                                                       [[maybe_unused]] std::uint64_t bytes) const {
    return std::nullopt;
  }
  virtual std::string readlink(const std::string& path) const = 0;
  virtual std::optional<std::string> label(const std::string& path) const = 0;
  virtual FreeSpace free_space() const = 0;

  /// Replaces the content of a file that exists; mode, owner and label stay.
  virtual void rewrite(const std::string& path, std::string_view content) = 0;
  /// A new file of root's.
  virtual void create(const std::string& path, std::string_view content, std::uint32_t mode) = 0;
  virtual void append(const std::string& path, std::string_view content) = 0;
  /// A file or link, or an empty directory.
  virtual void remove(const std::string& path) = 0;
  /// Files and links only. The target must not exist.
  virtual void rename(const std::string& from, const std::string& to) = 0;
  /// A file's content, mode, owner and label; `to` need not exist.
  virtual void copy(const std::string& from, const std::string& to) = 0;
  virtual void symlink(const std::string& target, const std::string& path) = 0;
  virtual void make_directory(const std::string& path) = 0;
  virtual void set_label(const std::string& path, const std::string& label) = 0;
  /// Everything lies in the overlay afterwards; the volume can still be used.
  virtual void flush() = 0;
};

/// An ext2/3/4 filesystem through libext2fs; a journal that waits for it is replayed first. Nothing (and the reason in
/// `why_not`) when it can't be written safely: journal damaged, errors noted, a file half truncated, bigalloc, inline
/// data, encryption, features that libext2fs does not know.
std::unique_ptr<Volume> open_ext4_volume(WritableImage& disk, Range range, std::string& why_not);
/// The same in a locked-down child process (base/sandbox.h) that can only read and write the range, by way of this one.
/// Errors of the disk itself come as GUEST_READ_FAILED.
std::unique_ptr<Volume> open_confined_ext4_volume(WritableImage& disk, Range range, std::string& why_not);

/// A FAT filesystem, changed by mtools on a copy in memory. Nothing (and the reason in `why_not`) when they are not
/// installed or can't read it, or it is too large.
std::unique_ptr<Volume> open_fat_volume(WritableImage& disk, Range range, std::string& why_not);

} // namespace kvmport
