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

void Bus::remove(std::uint64_t base) {
  entries_.erase(base);
}

std::map<std::uint64_t, Bus::Entry>::iterator Bus::find(std::uint64_t address, unsigned size) {
  auto at = entries_.upper_bound(address);
  if (at == entries_.begin())
    return entries_.end();
  --at;
  return address - at->first < at->second.length && size <= at->second.length - (address - at->first) ? at
                                                                                                      : entries_.end();
}

std::uint64_t Bus::read(std::uint64_t address, unsigned size) {
  const auto at = find(address, size);
  return at == entries_.end() ? ~std::uint64_t{0} : at->second.device->read(address - at->first, size);
}

void Bus::write(std::uint64_t address, unsigned size, std::uint64_t value) {
  const auto at = find(address, size);
  if (at != entries_.end())
    at->second.device->write(address - at->first, size, value);
}

} // namespace kvmport::vmm
