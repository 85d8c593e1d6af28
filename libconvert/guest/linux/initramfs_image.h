// SPDX-License-Identifier: Apache-2.0
// An initramfs as the kernel unpacks it: cpio archives one after the other, each plain or compressed, later files
// winning (Documentation/driver-api/early-userspace/buffer-format.rst of the Linux kernel). Decompression by
// libarchive.
#pragma once

#include "libconvert/guest/linux/cpio.h"

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace kvmport::linux_guest {

/// One archive of the image.
struct InitramfsPart {
  std::uint64_t offset = 0; ///< in the file
  std::string compression;  ///< "", "gzip", "xz", "lzma", "bzip2", "zstd", "lz4", "lzo"
};

/// Called for every entry in order; `content` gives its bytes when asked.
using InitramfsVisitor = std::function<void(const CpioEntry& entry, const std::function<std::string()>& content)>;

/// Walks all parts. Errors: INITRAMFS_UNREADABLE.
std::vector<InitramfsPart> walk_initramfs(std::string_view image, const InitramfsVisitor& visit);

/// The tree after unpacking.
class InitramfsTree {
 public:
  /// `keep` says whose contents are kept. Errors: INITRAMFS_UNREADABLE.
  InitramfsTree(std::string_view image, const std::function<bool(const std::string& name)>& keep);

  const std::vector<InitramfsPart>& parts() const { return parts_; }
  /// By name ("usr/lib/modules/…"), links not followed.
  const std::map<std::string, CpioEntry>& entries() const { return entries_; }
  bool has(const std::string& name) const { return entries_.contains(name); }
  /// As has(), links followed.
  bool reaches(const std::string& path) const;
  /// The name with its links followed, as far as it exists.
  std::string resolve(const std::string& path) const;
  /// Kept contents; nullptr: not there or not kept.
  const std::string* content(const std::string& name) const;

 private:
  std::vector<InitramfsPart> parts_;
  std::map<std::string, CpioEntry> entries_;
  std::map<std::string, std::string> contents_; ///< link targets as well
};

/// The bytes of a compressed stream, whichever of the above it is (a plain one as it is). Errors:
/// INITRAMFS_UNREADABLE, also past `limit`.
std::string decompress(std::string_view bytes, std::uint64_t limit);
/// A gzip stream.
std::string compress_gzip(std::string_view bytes);

} // namespace kvmport::linux_guest
