// SPDX-License-Identifier: Apache-2.0
// A split virtqueue as the device sees it (virtio 1.2, section 2.7). Every number in it is the guest's and hostile: a
// chain is copied once, bounded by the queue's size, and each buffer must be RAM, else the queue is broken until the
// next reset.
#pragma once

#include "kvmboot/vmm/guest_memory.h"

#include <vector>

namespace kvmport::vmm {

/// Parts of a request in the guest's memory.
using Buffers = std::vector<std::span<std::byte>>;
std::size_t total(const Buffers& buffers);
/// Their bytes as one.
Bytes gather(const Buffers& from);
/// Fills them in turn; returns how many bytes had room.
std::size_t scatter(ByteSpan bytes, const Buffers& to);

class Virtqueue {
 public:
  static constexpr std::uint16_t max_size = 128;

  /// One request: buffers that the device reads, then buffers that it fills.
  struct Chain {
    std::uint16_t head = 0;
    Buffers readable, writable;
  };

  std::uint16_t size = max_size; ///< a power of two, at most max_size
  std::uint64_t descriptors = 0, available = 0, used = 0;
  std::uint16_t vector = 0xffff; ///< its MSI-X message; 0xffff: none
  bool enabled = false;

  /// The next request, or nothing when there is none or the queue is broken.
  std::optional<Chain> pop(const GuestMemory& memory);
  /// Gives a request back with the number of bytes that were filled.
  void push(const GuestMemory& memory, std::uint16_t head, std::uint32_t written);
  /// Whether the driver wants to be told of used buffers.
  bool wants_interrupt(const GuestMemory& memory) const;
  bool broken() const noexcept { return broken_; }
  void reset() { *this = Virtqueue(); }

 private:
  bool collect(const GuestMemory& memory, Chain& chain) const;

  std::uint16_t next_available_ = 0, next_used_ = 0;
  bool broken_ = false;
};

} // namespace kvmport::vmm
