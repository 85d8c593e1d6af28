// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/bus.h"

#include <iterator>

namespace kvmport::vmm {

bool Bus::add(std::uint64_t base, std::uint64_t length, Device& device) {
  const auto next = entries_.lower_bound(base);
  if (length == 0 || base + length < base || (next != entries_.end() && next->first < base + length))
    return false;
  if (next != entries_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second.length > base)
      return false;
  }
  entries_.emplace(base, Entry{length, &device});
  return true;
}

const std::pair<const std::uint64_t, Bus::Entry>* Bus::find(std::uint64_t address, unsigned size) const {
  const auto next = entries_.upper_bound(address);
  if (next == entries_.begin())
    return nullptr;
  const auto& entry = *std::prev(next);
  const std::uint64_t offset = address - entry.first;
  return offset < entry.second.length && size <= entry.second.length - offset ? &entry : nullptr;
}

std::uint64_t Bus::read(std::uint64_t address, unsigned size) {
  const auto* const at = find(address, size);
  return at == nullptr ? ~std::uint64_t{0} : at->second.device->read(address - at->first, size);
}

void Bus::write(std::uint64_t address, unsigned size, std::uint64_t value) {
  if (const auto* const at = find(address, size))
    at->second.device->write(address - at->first, size, value);
}

} // namespace kvmport::vmm
