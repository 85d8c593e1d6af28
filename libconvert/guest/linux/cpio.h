// SPDX-License-Identifier: Apache-2.0
// cpio archives in the "newc" format, as the kernel unpacks them into its initramfs (Documentation/driver-api/
// early-userspace/buffer-format.rst of the Linux kernel). A reader that takes one entry at a time from a stream, and a
// writer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace kvmport::linux_guest {

struct CpioEntry {
  std::string name; ///< without leading "/" or "./"
  std::uint32_t mode = 0;
  std::uint64_t size = 0;
  bool is_file() const { return (mode & 0170000U) == 0100000U; }
  bool is_directory() const { return (mode & 0170000U) == 0040000U; }
  bool is_link() const { return (mode & 0170000U) == 0120000U; }
};

/// The next bytes, at least one and at most `most`, which stay until the next call; none only at the end.
using ByteSource = std::function<std::string_view(std::size_t most)>;

/// Reads entries up to the trailer, then the next archive of the same stream, as the kernel does. Errors:
/// INITRAMFS_UNREADABLE.
class CpioReader {
 public:
  explicit CpioReader(ByteSource source) : source_(std::move(source)) {}

  /// False at the end of the stream, or where something else than an archive follows. What is left of the last entry's
  /// content is skipped.
  bool next(CpioEntry& entry);
  /// The content of the entry; Error past `limit`.
  std::string content(std::uint64_t limit);
  /// After next() returned false: where the stream, or the archives in it with the zeros behind them, end.
  std::uint64_t end() const { return end_; }

 private:
  bool take(std::span<char> out);
  void skip(std::uint64_t bytes);
  void align();

  ByteSource source_;
  std::uint64_t position_ = 0, left_ = 0, end_ = 0;
  bool inside_ = true; ///< of an archive: no trailer seen yet
};

class CpioWriter {
 public:
  void directory(const std::string& name, std::uint32_t permissions = 0755);
  void file(const std::string& name, std::string_view content, std::uint32_t permissions = 0644);
  void symlink(const std::string& name, std::string_view target);
  /// Trailer and padding; the archive is done.
  std::string finish();

 private:
  void entry(const std::string& name, std::uint32_t mode, std::string_view content, std::uint32_t links);
  std::string out_;
  std::uint32_t inode_ = 0;
};

} // namespace kvmport::linux_guest
