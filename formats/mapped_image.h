// SPDX-License-Identifier: Apache-2.0
// A block device made of parts of others, as device-mapper and md make them: linear, striped and mirrored pieces, one
// behind the other.
#pragma once

#include "formats/image.h"

#include <functional>

namespace kvmport {

/// A place on another image.
struct MapTarget {
  const Image* image = nullptr;      ///< borrowed
  WritableImage* writable = nullptr; ///< the same, or null: can't be written
  std::uint64_t offset = 0;          ///< bytes
};

struct MapPiece {
  enum class Kind {
    striped,  ///< `chunk` bytes of the first target, then of the second, …; with one target it is linear
    mirrored, ///< every target holds the same; read from the first
  };
  Kind kind = Kind::striped;
  std::uint64_t length = 0; ///< bytes of the device; with several stripes a multiple of targets × chunk
  std::uint64_t chunk = 0;  ///< bytes; unused with one target
  std::vector<MapTarget> targets;
};

/// Safe from several threads as far as its targets are.
class MappedImage final : public WritableImage {
 public:
  /// Error IMAGE_CORRUPT when a piece lies outside of its targets or is impossible.
  explicit MappedImage(std::vector<MapPiece> pieces);

  std::uint64_t size() const override { return size_; }
  ImageInfo info() const override;
  std::vector<Extent> extents(Range range) const override;
  void read(std::uint64_t offset, std::span<std::byte> out) const override;
  /// To every mirror. Error GUEST_WRITE_FAILED when a target can't be written.
  void write(std::uint64_t offset, ByteSpan data) override;

  /// What holds the same `length` bytes from `offset` of the device on.
  struct Part {
    std::uint64_t offset = 0, length = 0;
    std::vector<MapTarget> targets; ///< one, or every mirror
  };
  /// The parts that make up `range`, in order. Error OUT_OF_RANGE.
  void walk(Range range, const std::function<void(const Part&)>& visit) const;

 private:
  Part part_at(Range range) const;

  std::vector<MapPiece> pieces_;
  std::vector<std::uint64_t> starts_; ///< of each piece
  std::uint64_t size_ = 0;
};

} // namespace kvmport
