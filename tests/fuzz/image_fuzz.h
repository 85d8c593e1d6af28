// SPDX-License-Identifier: Apache-2.0
// What the fuzz targets of image readers share: an input becomes an image in memory, which is opened and read. Whatever
// the bytes are, the reader gives an Error or a disk whose extents cover it and whose empty parts are zeros.
#pragma once

#include "formats/readers.h"
#include "tests/fuzz/input.h"

#include <algorithm>

namespace kvmport::fuzz {

/// Large images from small inputs: 4 bytes of size in KiB (at most 16 MiB), then records of a 4-byte offset, a 2-byte
/// length and that many bytes; the rest is zeros.
inline Bytes unpack(ByteSpan in) {
  if (in.size() < 4)
    return {};
  Bytes image(std::min<std::uint64_t>(load_le<std::uint32_t>(in, 0), 16U << 10) << 10);
  for (std::size_t at = 4; at + 6 <= in.size();) {
    const auto offset = load_le<std::uint32_t>(in, at);
    const std::size_t length = std::min<std::size_t>(load_le<std::uint16_t>(in, at + 4), in.size() - at - 6);
    if (offset < image.size())
      std::copy_n(in.begin() + static_cast<std::ptrdiff_t>(at + 6),
                  std::min<std::size_t>(length, image.size() - offset), image.begin() + offset);
    at += 6 + length;
  }
  return image;
}

inline void exercise(const Image& image) {
  constexpr std::uint64_t piece = 1U << 20;
  std::uint64_t at = 0, budget = 16 * piece;
  for (const Extent& extent : image.extents({0, image.size()})) {
    must(extent.range.offset == at && extent.range.length != 0);
    at = extent.range.end();
    Bytes bytes(std::min({extent.range.length, piece, budget}), std::byte{0x5a});
    budget -= bytes.size();
    image.read(extent.range.offset, bytes);
    must(extent.kind == ExtentKind::data || is_zero(bytes));
    if (bytes.size() > 700) { // in other pieces, the same bytes
      Bytes part(333);
      image.read(extent.range.offset + 301, part);
      must(std::equal(part.begin(), part.end(), bytes.begin() + 301));
    }
  }
  must(at == image.size());
}

/// Opens `bytes` as `format`. Names in it lead to a directory that is not there.
inline int run(ByteSpan bytes, const std::string& format) {
  try {
    const auto image =
        open_format(SourceFile::from_memory(bytes, "/nowhere/at/all/image"), format, OpenContext(OpenOptions{}));
    (void)image->info();
    exercise(*image);
  } catch (const Error&) { // a refusal is an answer
  }
  return 0;
}

} // namespace kvmport::fuzz
