// SPDX-License-Identifier: Apache-2.0
// The memory of a guest, as devices see it. Guest addresses are hostile: the only way in is slice(), which gives the
// whole range or nothing.
#pragma once

#include "base/file.h"

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

/// The window 0xA0000-0xBFFFF of a VGA card as memory that two processes share: the machine's, whose guest writes it,
/// and the one that looks at the screen from outside.
class VideoMemory {
 public:
  static constexpr std::uint64_t address = 0xa0000, size = 0x20000, text_at = 0x18000; ///< text: 0xB8000

  /// Error OUT_OF_MEMORY.
  VideoMemory();
  ~VideoMemory();
  VideoMemory(const VideoMemory&) = delete;
  VideoMemory& operator=(const VideoMemory&) = delete;

  int fd() const noexcept { return fd_.get(); }
  /// A copy of the text window (32 KiB of characters and attributes), since the guest may write it meanwhile.
  Bytes text() const;

 private:
  UniqueFd fd_;
  void* at_;
};

} // namespace kvmport::vmm
