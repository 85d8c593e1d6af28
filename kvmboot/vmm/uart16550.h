// SPDX-License-Identifier: Apache-2.0
// The serial port of a PC: NS16550A (National Semiconductor data sheet PC16550D, June 1995, section 8).
#pragma once

#include "kvmboot/vmm/bus.h"

#include <deque>
#include <string>
#include <string_view>
#include <utility>

namespace kvmport::vmm {

/// Sends at once and never loses a byte; receives what is typed on it.
class Uart16550 final : public Device {
 public:
  explicit Uart16550(IrqLine irq) : irq_(std::move(irq)) {}
  std::uint64_t read(std::uint64_t offset, unsigned size) override;
  void write(std::uint64_t offset, unsigned size, std::uint64_t value) override;
  /// Text for the guest; what does not fit into 4 KiB is dropped.
  void type(std::string_view text);
  /// What the guest sent since the last call.
  std::string take() { return std::exchange(sent_, {}); }

 private:
  void update();

  IrqLine irq_;
  std::uint8_t interrupt_enable_ = 0, line_control_ = 0, modem_control_ = 0, scratch_ = 0, fifo_control_ = 0;
  std::uint16_t divisor_ = 12;
  bool transmitter_empty_ = false; ///< the THRE interrupt is pending
  std::deque<std::uint8_t> received_;
  std::string sent_;
};

} // namespace kvmport::vmm
