// SPDX-License-Identifier: Apache-2.0
// The guest's mounted tree, as all guest code sees it: absolute paths as inside the guest, symbolic links followed
// inside the guest only. Made of libguestfs for real guests and of a directory for unit tests.
#pragma once

#include "base/bytes.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace kvmport {

enum class FileType { regular, directory, symlink, other };

struct FileStat {
  FileType type = FileType::other;
  std::uint32_t mode = 0; ///< permission bits
  std::uint32_t uid = 0, gid = 0;
  std::uint64_t size = 0;
};

/// Room left in the filesystem that holds a path.
struct FreeSpace {
  std::string filesystem;  ///< which one: equal for paths in the same
  std::uint64_t bytes = 0; ///< that a file may grow by
};

/// One thread at a time. Errors: GUEST_FILE_MISSING, GUEST_READ_FAILED, GUEST_WRITE_FAILED.
class GuestFilesystem {
 public:
  virtual ~GuestFilesystem() = default;

  /// Follows links; nothing when it does not exist (a dangling link does not exist).
  virtual std::optional<FileStat> stat(const std::string& path) const = 0;
  /// Does not follow the last link.
  virtual std::optional<FileStat> lstat(const std::string& path) const = 0;
  /// Names in a directory, sorted, without "." and ".."; empty when there is no such directory.
  virtual std::vector<std::string> list(const std::string& directory) const = 0;
  /// The whole file; Error GUEST_FILE_TOO_LARGE past `limit`.
  virtual std::string read(const std::string& path, std::uint64_t limit = 512U << 20) const = 0;
  /// The first bytes of a file, fewer when it is shorter.
  virtual std::string read_head(const std::string& path, std::size_t bytes) const;
  virtual std::string readlink(const std::string& path) const = 0;
  /// The path with every link resolved inside the guest.
  virtual std::string realpath(const std::string& path) const = 0;
  /// SELinux label (security.selinux), when the file has one.
  virtual std::optional<std::string> label(const std::string& path) const = 0;
  /// Room in the filesystem of the nearest existing directory above `path`; nothing when it can't be known.
  virtual std::optional<FreeSpace> free_space(const std::string& path) const;

  /// Writes the whole file; an existing file keeps mode, owner and label, a new one gets the given ones.
  virtual void write(const std::string& path, std::string_view content, std::uint32_t mode = 0644) = 0;
  virtual void append(const std::string& path, std::string_view content) = 0;
  virtual void remove(const std::string& path) = 0;
  virtual void rename(const std::string& from, const std::string& to) = 0;
  /// Keeps mode, owner and label.
  virtual void copy(const std::string& from, const std::string& to) = 0;
  virtual void symlink(const std::string& target, const std::string& path) = 0;
  virtual void make_directories(const std::string& path) = 0;
  virtual void set_label(const std::string& path, const std::string& label) = 0;

  bool exists(const std::string& path) const { return stat(path).has_value(); }
  bool is_directory(const std::string& path) const {
    auto s = stat(path);
    return s && s->type == FileType::directory;
  }
  bool is_file(const std::string& path) const {
    auto s = stat(path);
    return s && s->type == FileType::regular;
  }
  /// read(), or nothing when there is no such regular file.
  std::optional<std::string> try_read(const std::string& path, std::uint64_t limit = 16U << 20) const;
};

/// A host directory as a guest's tree, for tests and staging.
std::unique_ptr<GuestFilesystem> open_directory_filesystem(const std::string& root);

} // namespace kvmport
