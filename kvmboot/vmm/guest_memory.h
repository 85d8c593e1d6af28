// SPDX-License-Identifier: Apache-2.0
// The memory of a guest, as devices see it. Guest addresses are hostile: the only way in is slice(), which gives the
// whole range or nothing.
#pragma once

#include "base/bytes.h"

#include <cstdint>
#include <optional>
#include <span>

namespace kvmport::vmm {

/// RAM from guest-physical address 0 on, zero-filled. Safe from several threads as far as the guest's own races allow.
class GuestMemory {
 public:
  /// `size` bytes, a multiple of 4096. Error OUT_OF_MEMORY.
  explicit GuestMemory(std::uint64_t size);
  /// Puts the start of a file in the place of memory. Error OUT_OF_MEMORY.
  void share(std::uint64_t address, std::uint64_t length, int fd);
  ~GuestMemory();
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;

  std::uint64_t size() const noexcept { return memory_.size(); }
  /// The bytes at `address`, or nothing when any of them is not RAM.
  std::optional<std::span<std::byte>> slice(std::uint64_t address, std::uint64_t length) const;
  /// A copy of a little-endian number; nothing outside of RAM.
  template <typename T> std::optional<T> load(std::uint64_t address) const {
    const auto bytes = slice(address, sizeof(T));
    return bytes ? std::optional<T>(load_le<T>(*bytes, 0)) : std::nullopt;
  }
  template <typename T> bool store(std::uint64_t address, T value) const {
    const auto bytes = slice(address, sizeof(T));
    if (bytes)
      store_le<T>(*bytes, 0, value);
    return bytes.has_value();
  }

 private:
  std::span<std::byte> memory_;
};

} // namespace kvmport::vmm
