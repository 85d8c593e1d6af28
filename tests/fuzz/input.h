// SPDX-License-Identifier: Apache-2.0
// What all fuzz targets share: an input that is read front to back, so that seeds can be written by hand.
#pragma once

#include "base/bytes.h"

#include <algorithm>
#include <cstdlib>

namespace kvmport::fuzz {

inline void must(bool truth) {
  if (!truth)
    std::abort();
}

/// Behind its end are zeros.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : rest_(std::as_bytes(std::span(data, size))) {}
  bool empty() const { return rest_.empty(); }
  /// A little-endian number of at most 8 bytes.
  std::uint64_t number(std::size_t bytes) {
    std::uint64_t value = 0;
    std::size_t shift = 0;
    for (const std::byte byte : take(bytes)) {
      value |= std::to_integer<std::uint64_t>(byte) << shift;
      shift += 8;
    }
    return value;
  }
  /// The next bytes, fewer at the end.
  ByteSpan take(std::size_t bytes) {
    const ByteSpan taken = rest_.first(std::min(bytes, rest_.size()));
    rest_ = rest_.subspan(taken.size());
    return taken;
  }
  /// All up to this byte, which is skipped, or to the end.
  ByteSpan take_until(std::byte end) {
    const ByteSpan taken =
        rest_.first(static_cast<std::size_t>(std::find(rest_.begin(), rest_.end(), end) - rest_.begin()));
    rest_ = rest_.subspan(std::min(taken.size() + 1, rest_.size()));
    return taken;
  }

 private:
  ByteSpan rest_;
};

} // namespace kvmport::fuzz
