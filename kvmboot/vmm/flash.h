// SPDX-License-Identifier: Apache-2.0
// The parallel flash chip in which UEFI firmware keeps its variables: Intel's command set (JEDEC JESD68.01 "CFI",
// JEP137 algorithm 0x0001; Intel StrataFlash P30 data sheet, section "Command Definitions") on one chip of 8 bits.
//
// While it shows its array the guest reads plain memory; only writes, which are commands, and reads in another mode
// come here.
#pragma once

#include "base/bytes.h"
#include "kvmboot/vmm/bus.h"

namespace kvmport::vmm {

class Flash final : public Device {
 public:
  static constexpr std::uint32_t block = 4096; ///< what one erase command clears; OVMF's block size

  /// `array` is borrowed: a multiple of `block`. `show_array` is told when the guest is to see it as memory and when
  /// not; a new chip is in array mode and tells nothing.
  Flash(std::span<std::byte> array, std::function<void(bool)> show_array);

  std::uint64_t read(std::uint64_t offset, unsigned size) override;
  void write(std::uint64_t offset, unsigned size, std::uint64_t value) override;

 private:
  enum class Mode { array, status, id, cfi };
  enum class Awaits { command, program, erase_confirm, buffer_count, buffer_data, buffer_confirm };

  void command(std::uint8_t code);
  void to(Mode mode);
  void program(std::uint64_t offset, unsigned size, std::uint64_t value);
  std::uint8_t register_byte(std::uint64_t offset) const;

  std::span<std::byte> array_;
  std::function<void(bool)> show_array_;
  Mode mode_ = Mode::array;
  Awaits awaits_ = Awaits::command;
  std::uint64_t left_ = 0; ///< bytes that a buffered program still awaits
  std::uint8_t status_ = 0x80;
};

} // namespace kvmport::vmm
