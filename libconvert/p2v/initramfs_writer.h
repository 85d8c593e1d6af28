// SPDX-License-Identifier: Apache-2.0
// Writes an initramfs: a cpio archive ("newc", Documentation/driver-api/early-userspace/buffer-format.rst of the Linux
// kernel) compressed by zstd, both by libarchive. All belongs to root and is of one time, whoever runs this, so that
// the same content gives the same bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

namespace kvmport {

/// Collects a tree, then writes it sorted, folders first. Names have no leading '/'; folders above a name come by
/// themselves. A later entry of the same name replaces the earlier one.
class InitramfsTreeWriter {
 public:
  void directory(const std::string& name, std::uint32_t permissions = 0755);
  void file(const std::string& name, std::string content, std::uint32_t permissions = 0644);
  /// The content of a file of this host (links are followed), read when the archive is written.
  void copy(const std::string& name, const std::filesystem::path& source, std::uint32_t permissions = 0644);
  void symlink(const std::string& name, const std::string& target);
  bool has(const std::string& name) const { return entries_.contains(name); }

  /// `time`: of all entries, seconds since 1970. `level`: of zstd. The file is emptied first. Returns the size of what
  /// was packed. Errors: IO_ERROR, NOT_FOUND.
  std::uint64_t write(const std::filesystem::path& archive, std::int64_t time, int level) const;

 private:
  struct Entry {
    std::uint32_t mode = 0;
    std::string content; ///< of a file, or target of a link
    std::filesystem::path source;
  };
  void add(const std::string& name, Entry entry);
  std::map<std::string, Entry> entries_;
};

} // namespace kvmport
