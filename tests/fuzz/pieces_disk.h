// SPDX-License-Identifier: Apache-2.0
// A large disk from a small input: what unpack() of image_fuzz.h makes of it, without making it.
#pragma once

#include "formats/image.h"
#include "tests/fuzz/input.h"

namespace kvmport::fuzz {

class PiecesDisk final : public Image {
 public:
  explicit PiecesDisk(Input in, std::uint64_t most) : size_(std::min(in.number(4) << 10, most)) {
    while (!in.empty()) {
      const std::uint64_t offset = in.number(4);
      pieces_.push_back({offset, in.take(in.number(2))});
    }
  }
  std::uint64_t size() const override { return size_; }
  std::uint64_t bytes_read() const { return bytes_read_; }
  ImageInfo info() const override { return {}; }
  std::vector<Extent> extents(Range range) const override { return {{range, ExtentKind::data}}; }
  void read(std::uint64_t offset, std::span<std::byte> out) const override {
    must(offset <= size_ && out.size() <= size_ - offset);
    bytes_read_ += out.size();
    std::ranges::fill(out, std::byte{0});
    for (const Piece& piece : pieces_) {
      const std::uint64_t from = std::max(offset, piece.offset);
      const std::uint64_t to = std::min(offset + out.size(), piece.offset + piece.bytes.size());
      if (from < to)
        std::memcpy(out.data() + (from - offset), piece.bytes.data() + (from - piece.offset), to - from);
    }
  }

 private:
  struct Piece {
    std::uint64_t offset;
    ByteSpan bytes;
  };
  std::uint64_t size_;
  std::vector<Piece> pieces_;
  mutable std::uint64_t bytes_read_ = 0;
};

} // namespace kvmport::fuzz
