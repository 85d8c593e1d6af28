// SPDX-License-Identifier: Apache-2.0
// Images in memory whose extents, speed and failures a test chooses, and comparing what came out.
#pragma once

#include "formats/image.h"
#include "formats/readers.h"

#include <atomic>
#include <functional>
#include <random>
#include <thread>

namespace kvmport::test {

/// A disk in memory. Its extents say "data" for every `unit` that holds a byte that is not zero, and for some that
/// don't.
class MemoryImage final : public Image {
 public:
  static constexpr std::uint64_t unit = 4096;

  /// Regions of text, random bytes, zeros and holes, chosen by `seed`.
  static MemoryImage pattern(std::uint64_t size, unsigned seed) {
    MemoryImage image;
    image.bytes_.resize(size);
    image.holes_.resize(div_round_up(size, unit), true);
    std::mt19937_64 random(seed);
    for (std::uint64_t at = 0; at < size;) {
      const std::uint64_t end = std::min(size, at + 512 * (1 + random() % (1 + random() % 4096)));
      const unsigned kind = random() % 5;
      for (; at < end; at++) {
        if (kind == 0)
          image.bytes_[at] = static_cast<std::byte>("all work and no play "[at % 21]);
        else if (kind == 1)
          image.bytes_[at] = static_cast<std::byte>(random() >> 32);
        if (kind <= 2) // 2: zeros that the format calls data
          image.holes_[at / unit] = false;
      }
    }
    return image;
  }

  std::uint64_t size() const override { return bytes_.size(); }
  ImageInfo info() const override {
    ImageInfo info;
    info.format = "raw";
    info.virtual_size = size();
    return info;
  }
  std::vector<Extent> extents(Range range) const override {
    std::vector<Extent> list;
    for (std::uint64_t at = range.offset; at < range.end();) {
      const std::uint64_t end = std::min(range.end(), (at / unit + 1) * unit);
      append_extent(list, {{at, end - at}, holes_[at / unit] ? ExtentKind::unallocated : ExtentKind::data});
      at = end;
    }
    return list;
  }
  void read(std::uint64_t offset, std::span<std::byte> out) const override {
    if (offset > size() || out.size() > size() - offset)
      throw Error("OUT_OF_RANGE", "the engine read past the end");
    if (on_read)
      on_read(offset);
    bytes_read += out.size();
    std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(offset), out.size(), out.begin());
  }

  Bytes& bytes() { return bytes_; }
  const Bytes& bytes() const { return bytes_; }

  std::function<void(std::uint64_t)> on_read; ///< called before each read; may throw or wait
  mutable std::atomic<std::uint64_t> bytes_read{0};

  MemoryImage() = default;
  MemoryImage(MemoryImage&& other) noexcept : bytes_(std::move(other.bytes_)), holes_(std::move(other.holes_)) {}

 private:
  Bytes bytes_;
  std::vector<bool> holes_;
};

inline std::unique_ptr<Image> open_result(const std::filesystem::path& path, const std::string& format) {
  SourceFile file = SourceFile::open(path);
  return format == "raw" ? open_raw(std::move(file), OpenContext{}) : open_qcow2(std::move(file), OpenContext{});
}

/// All bytes of a disk (a small one).
inline Bytes content_of(const Image& image) {
  Bytes bytes(image.size());
  image.read(0, bytes);
  return bytes;
}

/// The first byte at which two disks differ, or their size. A qcow2 may be longer by less than a sector, of zeros.
inline std::uint64_t first_difference(ByteSpan wanted, ByteSpan got) {
  for (std::uint64_t i = 0; i < got.size(); i++)
    if (got[i] != (i < wanted.size() ? wanted[i] : std::byte{0}))
      return i;
  return got.size() < wanted.size() ? got.size() : wanted.size();
}

} // namespace kvmport::test
