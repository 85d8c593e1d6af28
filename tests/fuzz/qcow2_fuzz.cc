// SPDX-License-Identifier: Apache-2.0
// Any bytes as a qcow2 image: it is read or refused with an Error, extents cover the disk in order, small and large
// reads agree. Inputs without the magic are laid over a fixed small image by xor, so that mutations hit structure.
#include "formats/readers.h"

#include <algorithm>
#include <cstdlib>

namespace {

using namespace kvmport;

/// A version 3 image with clusters of 512 bytes: header, L1, L2, one data cluster; what is xored decides the rest.
Bytes base_image() {
  Bytes image(4096);
  const auto put32 = [&](std::size_t at, std::uint32_t value) { store_be<std::uint32_t>(image, at, value); };
  const auto put64 = [&](std::size_t at, std::uint64_t value) { store_be<std::uint64_t>(image, at, value); };
  put32(0, 0x514649fb);
  put32(4, 3);
  put32(20, 9);
  put64(24, 32768);
  put32(36, 1);
  put64(40, 512);
  put64(48, 1024);
  put32(56, 1);
  put32(96, 4);
  put32(100, 112);
  put64(512, std::uint64_t{1} << 63 | 1536);
  put64(1536, std::uint64_t{1} << 63 | 2048);
  put64(1544, std::uint64_t{1} << 62 | 2560);
  put64(1552, 1);
  image[2560] = std::byte{3}; // an empty deflate stream
  return image;
}

void require(bool condition) {
  if (!condition)
    std::abort();
}

void exercise(const Image& image) {
  constexpr std::uint64_t most = 4 << 20;
  (void)image.info();
  const std::uint64_t size = image.size();
  std::uint64_t at = 0;
  Bytes large, small(777);
  for (const Extent& extent : image.extents({0, size})) {
    require(extent.range.offset == at && extent.range.length != 0);
    at = extent.range.end();
    if (extent.range.offset > most)
      continue;
    large.assign(std::min<std::uint64_t>(extent.range.length, 65536), std::byte{0x5a});
    try {
      image.read(extent.range.offset, large);
    } catch (const Error&) { // a compressed cluster may be damaged
      continue;
    }
    require(extent.kind == ExtentKind::data || is_zero(large));
    for (std::size_t p = 0; p < large.size(); p += small.size()) {
      const auto part = std::span(small).first(std::min(small.size(), large.size() - p));
      image.read(extent.range.offset + p, part);
      require(std::equal(part.begin(), part.end(), large.begin() + static_cast<std::ptrdiff_t>(p)));
    }
  }
  require(at == size);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0)
    return 0;
  // An input that has the magic is an image of its own; any other is laid over the small one.
  Bytes bytes;
  if (size > 4 && data[0] == 'Q' && data[1] == 'F') {
    bytes.resize(size);
    std::memcpy(bytes.data(), data, size);
  } else {
    bytes = base_image();
    bytes.resize(std::max(bytes.size(), size));
    for (std::size_t i = 0; i < size; i++)
      bytes[i] ^= static_cast<std::byte>(data[i]);
  }
  try {
    exercise(*open_qcow2(SourceFile::from_memory(bytes, "/nonexistent/fuzz.qcow2"), OpenContext{}));
  } catch (const Error&) { // refused
  }
  return 0;
}
