// SPDX-License-Identifier: Apache-2.0
// Bytes as they lie in files: bounds-checked loads and stores in either byte order, and arithmetic that refuses to
// wrap. Every number that comes from an image goes through these.
#pragma once

#include "base/error.h"

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

namespace kvmport {

using Bytes = std::vector<std::byte>;
using ByteSpan = std::span<const std::byte>;

namespace detail {
template <std::unsigned_integral T> constexpr T swap_bytes(T v) {
  if constexpr (sizeof(T) == 1)
    return v;
  else if constexpr (sizeof(T) == 2)
    return __builtin_bswap16(v);
  else if constexpr (sizeof(T) == 4)
    return __builtin_bswap32(v);
  else
    return __builtin_bswap64(v);
}
inline void check_bounds(std::size_t size, std::size_t offset, std::size_t need) {
  if (offset > size || size - offset < need)
    throw Error("IMAGE_CORRUPT", "a field lies outside of its structure");
}
} // namespace detail

/// Loads a little-endian / big-endian unsigned integer at `offset`; Error IMAGE_CORRUPT outside the span.
template <std::unsigned_integral T> T load_le(ByteSpan from, std::size_t offset) {
  detail::check_bounds(from.size(), offset, sizeof(T));
  T v;
  std::memcpy(&v, from.data() + offset, sizeof v);
  return std::endian::native == std::endian::little ? v : detail::swap_bytes(v);
}
template <std::unsigned_integral T> T load_be(ByteSpan from, std::size_t offset) {
  return detail::swap_bytes(load_le<T>(from, offset));
}
template <std::unsigned_integral T> void store_le(std::span<std::byte> to, std::size_t offset, T v) {
  detail::check_bounds(to.size(), offset, sizeof(T));
  if (std::endian::native != std::endian::little)
    v = detail::swap_bytes(v);
  std::memcpy(to.data() + offset, &v, sizeof v);
}
template <std::unsigned_integral T> void store_be(std::span<std::byte> to, std::size_t offset, T v) {
  store_le<T>(to, offset, detail::swap_bytes(v));
}

/// a+b and a*b on 64 bits; Error IMAGE_CORRUPT naming `what` when the result does not fit.
inline std::uint64_t checked_add(std::uint64_t a, std::uint64_t b, std::string_view what) {
  std::uint64_t r;
  if (__builtin_add_overflow(a, b, &r))
    throw Error("IMAGE_CORRUPT", std::string(what) + " is too large");
  return r;
}
inline std::uint64_t checked_mul(std::uint64_t a, std::uint64_t b, std::string_view what) {
  std::uint64_t r;
  if (__builtin_mul_overflow(a, b, &r))
    throw Error("IMAGE_CORRUPT", std::string(what) + " is too large");
  return r;
}
constexpr std::uint64_t div_round_up(std::uint64_t a, std::uint64_t b) {
  return a / b + (a % b != 0);
}
/// `a` rounded up to a multiple of `b`; the caller knows that it fits.
constexpr std::uint64_t round_up(std::uint64_t a, std::uint64_t b) {
  return div_round_up(a, b) * b;
}

/// True when `wanted` and the checksum `found` in the image agree. A fuzzer can't guess checksums: there all agree.
inline bool checksum_agrees([[maybe_unused]] std::uint32_t found, [[maybe_unused]] std::uint32_t wanted) {
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
  return true;
#else
  return found == wanted;
#endif
}

/// True when every byte is zero. Fast: used for zero detection while copying.
bool is_zero(ByteSpan bytes);

inline ByteSpan as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}
inline std::string_view as_text(ByteSpan bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

} // namespace kvmport
