// SPDX-License-Identifier: Apache-2.0
// File descriptors that close themselves, and whole reads and writes on them. Nothing here seeks: all is pread/pwrite,
// so one descriptor may serve several threads.
#pragma once

#include "base/bytes.h"

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>

namespace kvmport {

/// Owns a file descriptor. Movable, not copyable.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) noexcept : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }
  int release() noexcept { return std::exchange(fd_, -1); }
  void reset() noexcept;

 private:
  int fd_ = -1;
};

/// Opens a regular file or block device for reading (never a FIFO, socket or character device, never blocks).
/// Errors: NOT_FOUND, NO_PERMISSION, NOT_A_DISK.
UniqueFd open_source(const std::filesystem::path& path);
/// Creates `path` for reading and writing with mode 0644; O_EXCL: an existing file is Error FILE_EXISTS.
UniqueFd create_new(const std::filesystem::path& path);
/// The same, but an existing file is emptied.
UniqueFd create_or_empty(const std::filesystem::path& path);
/// Opens an existing file for reading and writing.
UniqueFd open_existing(const std::filesystem::path& path);
/// An unnamed sparse file in `directory` that vanishes with its descriptor.
UniqueFd open_unnamed(const std::filesystem::path& directory);

/// The ends of a pair of connected Unix sockets of this type (SOCK_STREAM, …, with flags), closed on exec.
std::pair<UniqueFd, UniqueFd> socket_pair(int type);

/// Size in bytes of a regular file or block device.
std::uint64_t file_size(int fd);
/// Reads exactly out.size() bytes; Error DISK_TRUNCATED names `name` and the offset when the file ends first.
void read_exact(int fd, std::uint64_t offset, std::span<std::byte> out, std::string_view name);
/// Reads up to out.size() bytes, fewer only at the end of the file.
std::size_t read_some(int fd, std::uint64_t offset, std::span<std::byte> out, std::string_view name);
/// Writes all of it, or throws (DISK_FULL, IO_ERROR).
void write_exact(int fd, std::uint64_t offset, ByteSpan in, std::string_view name);

/// A whole small file; Error FILE_TOO_LARGE past `limit` bytes.
std::string read_file(const std::filesystem::path& path, std::uint64_t limit = 16U << 20);
/// Writes `NAME.partial`, fsyncs, renames to `path`, fsyncs the directory.
void write_file_durably(const std::filesystem::path& path, std::string_view content);
/// Makes renames inside `directory` durable.
void sync_directory(const std::filesystem::path& directory);

/// A new private directory (mode 0700) below `parent`, removed with its content when this goes.
class TempDir {
 public:
  explicit TempDir(const std::filesystem::path& parent = std::filesystem::temp_directory_path());
  TempDir(TempDir&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  TempDir& operator=(TempDir&&) = delete;
  ~TempDir();
  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
};

} // namespace kvmport
