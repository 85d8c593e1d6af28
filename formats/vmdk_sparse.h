// SPDX-License-Identifier: Apache-2.0
// One sparse extent of a VMDK (magic KDMV): a directory of tables of grains, plain or compressed (streamOptimized).
// VMware "Virtual Disk Format 5.0" (Technical Note, 2011), "Hosted Sparse Extents" and "Stream-Optimized Compressed
// Sparse Extents". Offsets are bytes of the extent unless a name says "host".
#pragma once

#include "formats/chain.h"
#include "formats/inflate.h"

namespace kvmport::vmdk {

class SparseExtent {
 public:
  /// Checks header, footer and where the tables lie. Errors: IMAGE_CORRUPT, DISK_TRUNCATED, FORMAT_UNSUPPORTED.
  explicit SparseExtent(SourceFile file);

  std::uint64_t size() const { return size_; }
  std::uint64_t grain_bytes() const { return grain_; }
  bool compressed() const { return compressed_; }
  const SourceFile& file() const { return file_; }
  /// The text of the embedded descriptor; empty when there is none.
  std::string descriptor() const;
  /// Damage that was got over so far.
  std::vector<std::string> notes() const;

  /// See PiecedImage.
  Piece locate(std::uint64_t offset, std::uint64_t max) const;
  std::size_t read_packed(std::uint64_t offset, std::span<std::byte> out) const;
  void validate() const;

 private:
  struct Batch;
  void read_header();
  void read_footer();
  void parse_fields(ByteSpan header, bool footer);
  void open_directories();
  PageCache::Page table(std::uint64_t index) const;
  std::optional<Bytes> read_table(std::uint32_t table_sector, std::uint64_t index, std::string& problem) const;
  std::string entry_problem(std::uint32_t entry, std::uint64_t grain_index) const;
  void note(const std::string& text) const;
  std::uint64_t grain_length(std::uint64_t start) const { return std::min(grain_, size_ - start); }
  void decode(BlockDecoder& decoder, ByteSpan packed, std::uint64_t host, std::uint64_t start,
              std::span<std::byte> out) const;
  std::size_t read_part(std::uint64_t offset, std::uint32_t entry, std::span<std::byte> out) const;
  void validate_compressed_end() const;
  void validate_sharing() const;

  /// How much of the file one pread may take for compressed grains, and how long one compressed grain may be.
  static constexpr std::uint64_t batch_bytes = 2U << 20;
  std::uint64_t max_packed() const { return grain_ + grain_ / 2 + 4096; }

  SourceFile file_;
  std::uint32_t version_ = 0, flags_ = 0, table_entries_ = 0;
  std::uint64_t capacity_ = 0, size_ = 0, grain_ = 0;
  std::uint64_t descriptor_sector_ = 0, descriptor_sectors_ = 0;
  std::uint64_t directory_sector_ = 0, spare_sector_ = 0;
  std::uint64_t tables_ = 0; ///< how many the directory lists
  bool compressed_ = false;
  std::unique_ptr<FileTable> directory_, spare_;
  mutable PageCache table_cache_{64U << 20};
  mutable PageCache decoded_{8U << 20};
  mutable Pool<BlockDecoder> decoders_;
  mutable std::mutex notes_mutex_;
  mutable std::vector<std::string> notes_;
};

} // namespace kvmport::vmdk
