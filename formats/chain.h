// SPDX-License-Identifier: Apache-2.0
// What block-mapped formats (VMDK, VDI, VHD, VHDX) share: one image that is made of pieces, a parent below it, bounded
// caches for its tables, and the check that no two guest blocks share bytes of the file. A format says where a guest
// byte lies; reading, merging and the chain are done here. Offsets and lengths are bytes.
#pragma once

#include "formats/readers.h"

#include <array>
#include <deque>
#include <mutex>
#include <unordered_map>

namespace kvmport {

/// Where the bytes from one guest offset on lie.
struct Piece {
  enum class Place {
    file,   ///< verbatim in `file` at `host`
    zero,   ///< zeros, by the format's word
    below,  ///< never written here: the parent's bytes, or zeros without one
    packed, ///< must be asked from read_packed()
  };
  Place place = Place::below;
  std::uint64_t length = 0;
  const SourceFile* file = nullptr;
  std::uint64_t host = 0;
};

/// Objects that were read or decoded, by number, as long as they fit into a number of bytes; the oldest go first. Safe
/// from several threads; nothing is locked while an object is loaded.
class PageCache {
 public:
  using Page = std::shared_ptr<const Bytes>;
  explicit PageCache(std::size_t capacity) : capacity_(capacity) {}

  Page find(std::uint64_t key) const;
  Page insert(std::uint64_t key, Bytes bytes);
  template <class Load> Page get(std::uint64_t key, Load&& load) {
    if (Page page = find(key))
      return page;
    return insert(key, load());
  }

 private:
  std::size_t capacity_, used_ = 0;
  mutable std::mutex mutex_;
  std::unordered_map<std::uint64_t, Page> pages_;
  std::deque<std::uint64_t> order_;
};

/// Entries of a table that lies in a file, read page by page as they are needed; no table is read that does not lie
/// inside the file.
class FileTable {
 public:
  /// `bytes` long, at `offset` of `file`; Error DISK_TRUNCATED (naming `what`) when the file ends before it does.
  FileTable(const SourceFile& file, std::uint64_t offset, std::uint64_t bytes, std::string_view what);
  std::uint32_t le32(std::uint64_t index) const {
    return load_le<std::uint32_t>(*page(index * 4), index * 4 % page_bytes);
  }
  std::uint32_t be32(std::uint64_t index) const {
    return load_be<std::uint32_t>(*page(index * 4), index * 4 % page_bytes);
  }

 private:
  static constexpr std::uint64_t page_bytes = 64U << 10;
  PageCache::Page page(std::uint64_t at) const;
  SourceFile file_;
  std::uint64_t offset_, bytes_;
  mutable PageCache pages_{64U << 20};
};

/// Which units of a file are in use. Memory is bounded by the number of claims.
class UnitMap {
 public:
  /// False when one of the `count` units from `unit` on was claimed before.
  bool claim(std::uint64_t unit, std::uint64_t count = 1);

 private:
  static constexpr std::uint64_t chunk_bits = 4096;
  std::unordered_map<std::uint64_t, std::array<std::uint64_t, chunk_bits / 64>> chunks_;
};

/// An image that is made of pieces, with an optional parent below. Safe from several threads when locate() and
/// read_packed() are.
class PiecedImage : public Image {
 public:
  std::uint64_t size() const final { return size_; }
  std::vector<Extent> extents(Range range) const final;
  void read(std::uint64_t offset, std::span<std::byte> out) const final;
  std::optional<FileRange> file_range(Range range) const final;

 protected:
  explicit PiecedImage(std::uint64_t size) : size_(size) {}
  void set_size(std::uint64_t size) { size_ = size; }
  /// A parent that is shorter reads as zeros past its end.
  void set_parent(std::unique_ptr<Image> parent);
  const Image* parent() const { return parent_.get(); }
  /// Adds what info() of the parent says about its files and oddities.
  void add_parent(ImageInfo& info) const;

  /// The piece at `offset`: 1 to `max` bytes, where offset + max ≤ size().
  virtual Piece locate(std::uint64_t offset, std::uint64_t max) const = 0;
  /// Fills a prefix of `out` (at least one byte) from `offset`, which locate() called packed; returns its length.
  virtual std::size_t read_packed(std::uint64_t offset, const Piece& piece, std::span<std::byte> out) const;
  /// Checks all tables against the file; called once, before the first extents() returns.
  virtual void validate() const {}

 private:
  void check(std::uint64_t offset, std::uint64_t length) const;
  /// Pieces of one run joined while they go on where the last ended.
  Piece locate_run(std::uint64_t offset, std::uint64_t max) const;
  void read_below(std::uint64_t offset, std::span<std::byte> out) const;
  void add_below(std::vector<Extent>& list, Range range) const;

  std::uint64_t size_;
  std::unique_ptr<Image> parent_;
  mutable std::mutex validation_mutex_;
  mutable bool valid_ = false;
};

/// Error IMAGE_CORRUPT for `file`: what is wrong, and the numbers that show it.
Error corrupt(const SourceFile& file, const std::string& what, const std::string& why = {});
/// "at file offset N".
std::string at_offset(std::uint64_t offset);

/// Throws Error IMAGE_CORRUPT unless `value` is a power of two in [low, high].
void require_power_of_two(const SourceFile& file, std::uint64_t value, std::uint64_t low, std::uint64_t high,
                          const std::string& what);

/// How many bits from `first` on (at most `max`, and inside `bitmap`) equal the first one. Bit 0 of a byte comes first,
/// or last when `msb_first`.
struct BitRun {
  bool value = false;
  std::uint64_t count = 0;
};
BitRun bit_run(ByteSpan bitmap, std::uint64_t first, std::uint64_t max, bool msb_first);

/// UTF-16 text up to a NUL as UTF-8; malformed units become '?'.
std::string utf16_text(ByteSpan bytes, bool big_endian);

/// Opens the parent of a differencing image. `names`: what the image calls it, most trusted first; Windows paths become
/// paths relative to the image's directory, and whatever can't be found or is not allowed is looked for by its last
/// component beside the image. Errors: those of the first name.
std::unique_ptr<Image> open_parent(const OpenContext& context, const SourceFile& from,
                                   const std::vector<std::string>& names, const std::string& format);

} // namespace kvmport
