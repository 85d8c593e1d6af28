// SPDX-License-Identifier: Apache-2.0
// MSI-X of a PCI function (PCI Local Bus Specification 3.0, section 6.8.2): the message control word, the table of
// messages and the pending bits. Where they lie in the function's BAR is the function's business.
#pragma once

#include "kvmboot/vmm/bus.h"

#include <array>
#include <vector>

namespace kvmport::vmm {

/// Sends a message-signalled interrupt: a write of `data` to `address`.
using MsiLine = std::function<void(std::uint64_t address, std::uint32_t data)>;

class MsiX {
 public:
  /// At most 64 vectors.
  MsiX(unsigned vectors, MsiLine line) : table_(vectors, Entry{0, 0, 0, masked}), line_(std::move(line)) {}

  unsigned vectors() const { return static_cast<unsigned>(table_.size()); }
  bool enabled() const { return (control_ & enable) != 0; }
  /// Bits 14 (function mask) and 15 (enable) of the message control word.
  void set_control(std::uint16_t control);
  /// Sends the message of this vector, or marks it pending while it is masked. Nothing for a vector that is not there.
  void signal(std::uint16_t vector);

  std::uint64_t table_read(std::uint64_t offset, unsigned size) const;
  void table_write(std::uint64_t offset, unsigned size, std::uint64_t value);
  std::uint64_t pending_read(std::uint64_t offset) const { return offset == 0 ? pending_ : 0; }

 private:
  static constexpr std::uint16_t enable = 0x8000, mask_all = 0x4000;
  static constexpr std::uint32_t masked = 1;
  using Entry = std::array<std::uint32_t, 4>; ///< address, upper address, data, vector control
  /// Sends what became deliverable.
  void flush();

  std::vector<Entry> table_;
  std::uint64_t pending_ = 0; ///< a bit for each vector
  MsiLine line_;
  std::uint16_t control_ = 0;
};

} // namespace kvmport::vmm
