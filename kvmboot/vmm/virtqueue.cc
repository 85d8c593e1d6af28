// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/virtqueue.h"

#include <algorithm>
#include <atomic>
#include <bit>

namespace kvmport::vmm {
namespace {
constexpr std::uint16_t flag_next = 1, flag_write = 2, flag_indirect = 4, no_interrupt = 1;
} // namespace

std::size_t total(const Buffers& buffers) {
  std::size_t sum = 0;
  for (const auto& part : buffers)
    sum += part.size();
  return sum;
}

Bytes gather(const Buffers& from) {
  Bytes all;
  for (const auto& part : from)
    all.insert(all.end(), part.begin(), part.end());
  return all;
}

std::size_t scatter(ByteSpan bytes, const Buffers& to) {
  std::size_t done = 0;
  for (const auto& part : to) {
    const ByteSpan piece = bytes.subspan(done, std::min(part.size(), bytes.size() - done));
    std::ranges::copy(piece, part.begin());
    done += piece.size();
  }
  return done;
}

bool Virtqueue::collect(const GuestMemory& memory, Chain& chain) const {
  const auto table = memory.slice(descriptors, std::uint64_t{size} * 16);
  if (!table)
    return false;
  std::uint16_t index = chain.head;
  for (unsigned count = 0; count < size; count++) { // a longer chain is a loop
    if (index >= size)
      return false;
    const std::size_t at = std::size_t{index} * 16;
    const auto address = load_le<std::uint64_t>(*table, at);
    const auto length = load_le<std::uint32_t>(*table, at + 8);
    const auto flags = load_le<std::uint16_t>(*table, at + 12);
    index = load_le<std::uint16_t>(*table, at + 14);
    const auto bytes = memory.slice(address, length);
    if (!bytes || (flags & flag_indirect) != 0)
      return false;
    if ((flags & flag_write) != 0)
      chain.writable.push_back(*bytes);
    else if (chain.writable.empty())
      chain.readable.push_back(*bytes);
    else
      return false; // section 2.7.4.2: readable ones come first
    if ((flags & flag_next) == 0)
      return true;
  }
  return false;
}

std::optional<Virtqueue::Chain> Virtqueue::pop(const GuestMemory& memory) {
  if (!enabled || broken_ || !std::has_single_bit(size) || size > max_size)
    return std::nullopt;
  const auto ring = memory.slice(available, 4 + std::uint64_t{size} * 2);
  if (!ring) {
    broken_ = true;
    return std::nullopt;
  }
  const auto written = load_le<std::uint16_t>(*ring, 2);
  if (written == next_available_)
    return std::nullopt;
  std::atomic_thread_fence(std::memory_order_acquire);
  Chain chain;
  chain.head = load_le<std::uint16_t>(*ring, 4 + std::size_t{next_available_} % size * 2);
  if (static_cast<std::uint16_t>(written - next_available_) > size || !collect(memory, chain)) {
    broken_ = true;
    return std::nullopt;
  }
  next_available_++;
  return chain;
}

void Virtqueue::push(const GuestMemory& memory, std::uint16_t head, std::uint32_t written) {
  const auto ring = memory.slice(used, 4 + std::uint64_t{size} * 8);
  if (!ring) {
    broken_ = true;
    return;
  }
  const std::size_t at = 4 + std::size_t{next_used_} % size * 8;
  store_le<std::uint32_t>(*ring, at, head);
  store_le<std::uint32_t>(*ring, at + 4, written);
  std::atomic_thread_fence(std::memory_order_release);
  store_le<std::uint16_t>(*ring, 2, ++next_used_);
}

bool Virtqueue::wants_interrupt(const GuestMemory& memory) const {
  const auto flags = memory.load<std::uint16_t>(available);
  return flags && (*flags & no_interrupt) == 0;
}

} // namespace kvmport::vmm
