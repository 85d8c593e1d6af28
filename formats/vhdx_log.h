// SPDX-License-Identifier: Apache-2.0
// The log of a VHDX: metadata writes that a crash left to be repeated. They are repeated in memory, the file stays as
// it is. [MS-VHDX] 2.3 "Log" and 2.3.3 "Log Replay".
#pragma once

#include "formats/readers.h"

#include <array>
#include <map>

namespace kvmport::vhdx {

using Guid = std::array<std::byte, 16>;

/// CRC-32C (Castagnoli) of `bytes`, in which the four bytes at `hole` count as zeros.
std::uint32_t crc32c(ByteSpan bytes, std::size_t hole);

/// A file and later writes over it, which stay in memory. Reading is safe from several threads.
class PatchedFile {
 public:
  explicit PatchedFile(SourceFile file) : file_(std::move(file)), size_(file_.size()) {}

  const SourceFile& file() const { return file_; }
  std::uint64_t size() const { return size_; }
  /// What is past the end of the real file reads as zeros.
  void grow(std::uint64_t size) { size_ = std::max(size_, size); }
  void write(std::uint64_t offset, Bytes bytes);
  void zero(std::uint64_t offset, std::uint64_t length);

  /// True when these bytes lie in the file, and no write covers any of them.
  bool is_verbatim(std::uint64_t offset, std::uint64_t length) const;
  /// Error DISK_TRUNCATED unless the bytes lie inside size().
  void require(std::uint64_t offset, std::uint64_t length, std::string_view what) const;
  void read(std::uint64_t offset, std::span<std::byte> out) const;
  Bytes read_bytes(std::uint64_t offset, std::uint64_t length) const;

 private:
  struct Patch {
    std::uint64_t length = 0;
    std::shared_ptr<const Bytes> bytes; ///< nothing: zeros
    std::uint64_t skip = 0;             ///< where in `bytes` the patch begins
  };
  void insert(std::uint64_t offset, Patch patch);
  SourceFile file_;
  std::uint64_t size_;
  std::map<std::uint64_t, Patch> patches_; ///< by offset, never overlapping
};

struct LogPlace {
  std::uint64_t offset = 0, length = 0;
  Guid id{}; ///< all zeros: nothing to repeat
};

/// Repeats the log over `target` and says in one line what was done; empty when the log was empty. Error IMAGE_CORRUPT
/// when the log is damaged, DISK_TRUNCATED when the file is shorter than the log knows it to have been.
std::string replay_log(PatchedFile& target, const LogPlace& place);

} // namespace kvmport::vhdx
