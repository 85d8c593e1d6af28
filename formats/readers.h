// SPDX-License-Identifier: Apache-2.0
// What the readers of all formats share: the bytes they read (a window of a host file, or memory), how they follow the
// names that an image contains, and one factory per format. Users of images need only image.h.
#pragma once

#include "formats/image.h"

#include <compare>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace kvmport {

/// The bytes of one image file: a window of an open host file, or borrowed memory (tests, fuzzing). A cheap handle:
/// copies share the descriptor. All offsets are relative to the window and checked against it. Safe from several
/// threads.
class SourceFile {
 public:
  /// What tells two windows of host files apart, however they were named. Memory has its address as inode.
  struct Identity {
    std::uint64_t device = 0, inode = 0, offset = 0;
    auto operator<=>(const Identity&) const = default;
  };

  /// Opens `path` (open_source of base/file.h). window.length 0: to the end. A window past the end of the file is Error
  /// DISK_TRUNCATED.
  static SourceFile open(const std::filesystem::path& path, Range window = {});
  static SourceFile from_fd(UniqueFd fd, const std::filesystem::path& path, Range window = {});
  /// `bytes` is borrowed and must outlive every copy of the handle.
  static SourceFile from_memory(ByteSpan bytes, const std::filesystem::path& name);

  const std::filesystem::path& path() const;
  /// Bytes in the window.
  std::uint64_t size() const { return size_; }
  bool contains(std::uint64_t offset, std::uint64_t length) const {
    return offset <= size_ && length <= size_ - offset;
  }
  /// Throws Error DISK_TRUNCATED, naming the path, `what` and the offset, unless the bytes lie inside the window.
  void require(std::uint64_t offset, std::uint64_t length, std::string_view what) const;
  /// Fills `out` from `offset`; Error DISK_TRUNCATED names path and offset.
  void read(std::uint64_t offset, std::span<std::byte> out) const;
  /// `length` bytes in a new vector; nothing is allocated before the range is known to be inside the window.
  Bytes read_bytes(std::uint64_t offset, std::uint64_t length) const;
  /// Where these bytes lie in a host file; nothing for memory.
  std::optional<FileRange> file_range(Range range) const;
  /// `range` (inside the window) as data and unallocated (holes) extents, by SEEK_DATA/SEEK_HOLE where the host
  /// file system can tell; all data otherwise.
  std::vector<Extent> data_extents(Range range) const;
  /// A part of this window as a window of its own (one extent of a flat file).
  SourceFile part(Range range) const;
  Identity identity() const;
  /// The descriptor, borrowed; -1 for memory.
  int fd() const;
  bool is_memory() const { return fd() < 0; }

 private:
  struct Backing;
  SourceFile(std::shared_ptr<const Backing> backing, std::uint64_t base, std::uint64_t size);
  std::shared_ptr<const Backing> backing_;
  std::uint64_t base_ = 0, size_ = 0;
};

/// How an image may reach other files, and how deep. One context belongs to one image file of a chain; it is a value.
class OpenContext {
 public:
  /// Most images that one chain may hold.
  static constexpr unsigned max_depth = 64;

  explicit OpenContext(OpenOptions options = {});

  const OpenOptions& options() const { return options_; }
  unsigned depth() const { return static_cast<unsigned>(chain_.size()); }

  /// Opens the file that the image `from` calls `name` (an extent; `why` says so in errors: "extent", "backing file").
  /// `name` must be one path component, relative to the directory of `from`, or a path that lies, after
  /// weakly_canonical, inside that directory or an allowed one; anything else (URLs, json:, absolute elsewhere) is
  /// Error PATH_NOT_ALLOWED. Opened with O_NOFOLLOW|O_NONBLOCK; not a regular file or block device: NOT_A_DISK. Not
  /// there: PARENT_MISSING.
  SourceFile open_file(const SourceFile& from, const std::string& name, std::string_view why) const;

  /// Opens the image that `from` calls `name` (backing file, parent), `format_hint` as in OpenOptions::format. Errors
  /// of open_file, CHAIN_LOOP when it is `from` itself or one of the images above it, or the chain is deeper than
  /// max_depth, and those of the format.
  std::unique_ptr<Image> open_referenced(const SourceFile& from, const std::string& name,
                                         const std::string& format_hint, std::string_view why) const;

 private:
  OpenOptions options_;
  std::vector<SourceFile::Identity> chain_; ///< the images above, topmost first
};

/// The image in `file`, whose format is known or, when `format` is empty, probed.
std::unique_ptr<Image> open_format(const SourceFile& file, const std::string& format, const OpenContext& context);

// One per format. Each checks the whole header and throws before it returns; `file` has been probed or named by the
// user to be of this format.
std::unique_ptr<Image> open_raw(SourceFile file, const OpenContext& context);
std::unique_ptr<Image> open_qcow2(SourceFile file, const OpenContext& context);
std::unique_ptr<Image> open_vmdk(SourceFile file, const OpenContext& context);
std::unique_ptr<Image> open_vdi(SourceFile file, const OpenContext& context);
std::unique_ptr<Image> open_vhd(SourceFile file, const OpenContext& context);
std::unique_ptr<Image> open_vhdx(SourceFile file, const OpenContext& context);

/// Appends `extent` to `list`, joined with the last one when both have the same kind.
void append_extent(std::vector<Extent>& list, Extent extent);

} // namespace kvmport
