// SPDX-License-Identifier: Apache-2.0
// Compression of one qcow2 cluster at a time, in the calling thread, by an encoder that is re-used.
#pragma once

#include "base/bytes.h"
#include "formats/image.h"

#include <memory>
#include <optional>

namespace kvmport {

/// For one thread at a time.
class BlockEncoder {
 public:
  explicit BlockEncoder(Compression compression);
  ~BlockEncoder();
  BlockEncoder(const BlockEncoder&) = delete;
  BlockEncoder& operator=(const BlockEncoder&) = delete;

  /// Compresses `in` into `out` and returns the length, or nothing when it does not get shorter than out.size().
  std::optional<std::size_t> compress(ByteSpan in, std::span<std::byte> out);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

} // namespace kvmport
