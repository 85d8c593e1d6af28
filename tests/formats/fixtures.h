// SPDX-License-Identifier: Apache-2.0
// What the tests of raw, qcow2, overlay and NBD share.
#pragma once

#include "formats/image.h"
#include "tests/support/tempdir.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <string>

namespace kvmport::test {

/// Runs `action`, which must throw Error `code`; returns the error's text for more checks.
inline std::string expect_error(const std::string& code, const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.summary() + " " + error.why();
  }
  ADD_FAILURE() << "no error, " << code << " was expected";
  return {};
}

inline Bytes random_bytes(std::size_t size, unsigned seed) {
  std::mt19937_64 random(seed);
  Bytes bytes(size);
  for (auto& b : bytes)
    b = static_cast<std::byte>(random());
  return bytes;
}

inline Bytes text_bytes(std::size_t size, std::size_t start = 0) {
  Bytes bytes(size);
  for (std::size_t i = 0; i < size; i++)
    bytes[i] = static_cast<std::byte>("the quick brown fox jumps over the lazy dog\n"[(start + i) % 44]);
  return bytes;
}

inline Bytes read_all(const Image& image, std::uint64_t offset, std::size_t size) {
  Bytes bytes(size, std::byte{0x5a});
  image.read(offset, bytes);
  return bytes;
}

/// Digest-free comparison: all bytes of `image` equal those of the raw file, and its extents cover the disk in order
/// with zeros where they say zeros. Reads in pieces of `step` bytes.
inline void expect_same_as_raw(const Image& image, const std::filesystem::path& raw, std::size_t step = 1U << 20) {
  const UniqueFd fd = open_source(raw);
  ASSERT_EQ(image.size(), file_size(fd.get()));
  Bytes ours(step), theirs(step);
  for (std::uint64_t at = 0; at < image.size(); at += step) {
    const std::size_t n = std::min<std::uint64_t>(step, image.size() - at);
    image.read(at, std::span(ours).first(n));
    read_exact(fd.get(), at, std::span(theirs).first(n), raw.string());
    ASSERT_EQ(std::memcmp(ours.data(), theirs.data(), n), 0) << "bytes differ in the " << step << " from " << at;
  }
  std::uint64_t at = 0;
  for (const Extent& extent : image.extents({0, image.size()})) {
    ASSERT_EQ(extent.range.offset, at);
    ASSERT_GT(extent.range.length, 0U);
    at = extent.range.end();
    for (std::uint64_t p = extent.range.offset; extent.kind != ExtentKind::data && p < at; p += step) {
      const std::size_t n = std::min<std::uint64_t>(step, at - p);
      read_exact(fd.get(), p, std::span(theirs).first(n), raw.string());
      ASSERT_TRUE(is_zero(ByteSpan(theirs).first(n))) << "extent at " << extent.range.offset << " is not zero";
    }
  }
  ASSERT_EQ(at, image.size());
}

} // namespace kvmport::test
