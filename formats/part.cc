// SPDX-License-Identifier: Apache-2.0
#include "formats/part.h"

#include "formats/partitions.h"

namespace kvmport {

Part::Part(const Image& image, Range range) : image_(image), range_(range) {
  if (range.offset > image.size() || range.length > image.size() - range.offset)
    throw Error("IMAGE_CORRUPT", "a filesystem lies outside of its disk");
}

void Part::read(std::uint64_t offset, std::span<std::byte> out) const {
  require(holds(offset, out.size()), "its tables lie outside of it");
  image_.read(range_.offset + offset, out);
}

Bytes Part::read(std::uint64_t offset, std::size_t length) const {
  require(holds(offset, length), "its tables lie outside of it");
  Bytes bytes(length);
  image_.read(range_.offset + offset, bytes);
  return bytes;
}

void Part::require_content([[maybe_unused]] std::string_view type) const {
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION // it is slow, and checks checksums
  const std::string found = probe_content(image_, range_).type;
  require(type.empty() ? found.empty() : found.starts_with(type), "there are signatures of something else as well");
#endif
}

std::uint64_t find_bit(ByteSpan bits, std::uint64_t i, std::uint64_t limit, bool value) {
  const std::byte other = value ? std::byte{0} : std::byte{0xff};
  while (i < limit) {
    const std::byte eight = bits[i / 8];
    if (i % 8 == 0 && eight == other)
      i += 8;
    else if (((std::to_integer<unsigned>(eight) >> (i % 8) & 1) != 0) == value)
      return i;
    else
      i++;
  }
  return limit;
}

} // namespace kvmport
