// SPDX-License-Identifier: Apache-2.0
// Devices and where they are: ranges of I/O ports and of memory addresses.
#pragma once

#include "base/bytes.h"

#include <cstdint>
#include <functional>
#include <map>

namespace kvmport::vmm {

/// A device's registers. `offset` is relative to the range that it was added with. One access at a time.
class Device {
 public:
  virtual ~Device() = default;
  /// `size` bytes (1, 2, 4 or 8), little-endian.
  virtual std::uint64_t read(std::uint64_t offset, unsigned size) = 0;
  virtual void write(std::uint64_t offset, unsigned size, std::uint64_t value) = 0;
};

/// `size` bytes of registers as a number; those behind the end are zeros.
inline std::uint64_t little_endian(ByteSpan registers, std::uint64_t offset, unsigned size) {
  std::uint64_t value = 0;
  for (unsigned i = 0; i < size && offset + i < registers.size(); i++)
    value |= std::to_integer<std::uint64_t>(registers[offset + i]) << 8 * i;
  return value;
}

/// Sets the level of an interrupt line.
using IrqLine = std::function<void(bool)>;

/// Ports or memory. Reads from nowhere give all ones, writes to nowhere are lost, as on a PC.
class Bus {
 public:
  /// The device is borrowed. Ranges must not overlap; an overlap is refused with false.
  bool add(std::uint64_t base, std::uint64_t length, Device& device);
  void remove(std::uint64_t base) { entries_.erase(base); }
  std::uint64_t read(std::uint64_t address, unsigned size);
  void write(std::uint64_t address, unsigned size, std::uint64_t value);

 private:
  struct Entry {
    std::uint64_t length;
    Device* device;
  };
  /// The entry that holds the whole access.
  const std::pair<const std::uint64_t, Entry>* find(std::uint64_t address, unsigned size) const;
  std::map<std::uint64_t, Entry> entries_;
};

} // namespace kvmport::vmm
