// SPDX-License-Identifier: Apache-2.0
// The part of a disk in which a filesystem lies, for readers that believe nothing of it: what can't be true is a Doubt,
// which says why and is no error of the whole.
#pragma once

#include "formats/image.h"

#include <string>
#include <string_view>

namespace kvmport {

/// Why a filesystem can't be believed.
struct Doubt {
  std::string why;
  bool hibernated = false;
};

inline void require(bool right, const char* why) {
  if (!right)
    throw Doubt{why};
}

/// The part of a disk in which a filesystem lies.
class Part {
 public:
  /// Error IMAGE_CORRUPT when `range` lies outside of the disk.
  Part(const Image& image, Range range);
  const Range& range() const { return range_; }
  std::uint64_t size() const { return range_.length; }
  bool holds(std::uint64_t offset, std::uint64_t length) const {
    return offset <= range_.length && length <= range_.length - offset;
  }
  /// Offsets count from the part's beginning; what lies outside of it is a Doubt.
  void read(std::uint64_t offset, std::span<std::byte> out) const;
  Bytes read(std::uint64_t offset, std::size_t length) const;
  /// Something else may have taken a place where an old superblock was left over: then that is what counts. libblkid
  /// names nothing when it sees signatures of two things. `type`: how its name begins, "ext" for all three; empty: it
  /// must see nothing.
  void require_content(std::string_view type) const;

 private:
  const Image& image_;
  const Range range_;
};

/// The first bit from `i` on that is `value`, at most `limit`. Bit 0 is the lowest of the first byte.
std::uint64_t find_bit(ByteSpan bits, std::uint64_t i, std::uint64_t limit, bool value);

} // namespace kvmport
