// SPDX-License-Identifier: Apache-2.0
// Small files of /sys and /proc below a root. A file that isn't there, can't be read or is too large is as good as
// empty: attributes come and go with kernels and drivers. Links that lead outside of the root are not followed.
#pragma once

#include "base/bytes.h"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace kvmport {

/// Paths are absolute and mean below the root: "/sys/block". Safe from several threads.
class SysTree {
 public:
  /// Error NOT_FOUND when `root` is no directory.
  explicit SysTree(const std::filesystem::path& root);

  /// The root is "/": the kernel that we run on is the one that the files tell of.
  bool live() const { return live_; }
  bool exists(const std::string& path) const;
  /// Clean UTF-8 text without the white space around it; nothing when there is no such file, or an empty one.
  std::optional<std::string> text(const std::string& path) const;
  /// The same, or empty.
  std::string word(const std::string& path) const { return text(path).value_or(std::string()); }
  std::optional<std::uint64_t> number(const std::string& path) const;
  /// "0x060000" of PCI and USB attributes; also without "0x".
  std::optional<std::uint64_t> hex(const std::string& path) const;
  /// The bytes as they are; empty when they can't be read. At most 1 MiB.
  Bytes bytes(const std::string& path) const;
  /// Names in a directory, digits in them compared as numbers.
  std::vector<std::string> list(const std::string& directory) const;
  /// The last part of where a link leads ("ahci" of ".../driver"); empty: no link.
  std::string link_name(const std::string& path) const;
  /// `path` below the root with all links resolved; empty: it isn't there.
  std::string resolved(const std::string& path) const;
  /// Where it lies on this host; nothing: it isn't there, or a link leads outside.
  std::optional<std::filesystem::path> host_path(const std::string& path) const;

 private:
  std::filesystem::path root_;
  bool live_ = false;
};

/// "sda2" < "sda10" < "sdaa": shorter letters first, digits as numbers.
bool natural_less(const std::string& a, const std::string& b);
/// "0-3,8" as numbers, at most `limit` of them; nothing for other text.
std::vector<unsigned> parse_cpu_list(const std::string& text, std::size_t limit = 65536);

} // namespace kvmport
