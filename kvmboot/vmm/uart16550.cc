// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/uart16550.h"

namespace kvmport::vmm {
namespace {
constexpr std::uint8_t divisor_latch = 0x80, loopback = 0x10, fifo_on = 0x01;
constexpr std::uint8_t ier_received = 1, ier_empty = 2;
constexpr std::size_t max_typed = 4096, max_unsaid = 1U << 20;
} // namespace

std::uint64_t Uart16550::read(std::uint64_t offset, unsigned) {
  switch (offset) {
  case 0:
    if ((line_control_ & divisor_latch) != 0)
      return divisor_ & 0xff;
    if (!received_.empty()) {
      const std::uint8_t byte = received_.front();
      received_.pop_front();
      update();
      return byte;
    }
    return 0;
  case 1:
    return (line_control_ & divisor_latch) != 0 ? divisor_ >> 8 : interrupt_enable_;
  case 2: { // the interrupt that is first in rank; reading it ends THRE
    const std::uint8_t fifos = (fifo_control_ & fifo_on) != 0 ? 0xc0 : 0;
    if (!received_.empty() && (interrupt_enable_ & ier_received) != 0)
      return fifos | 4;
    if (transmitter_empty_ && (interrupt_enable_ & ier_empty) != 0) {
      transmitter_empty_ = false;
      update();
      return fifos | 2;
    }
    return fifos | 1;
  }
  case 3:
    return line_control_;
  case 4:
    return modem_control_;
  case 5:
    return 0x60U | (received_.empty() ? 0U : 1U); // transmitter empty, data ready
  case 6:                                         // in loopback the modem's inputs are our outputs
    return (modem_control_ & loopback) != 0
               ? static_cast<std::uint8_t>((modem_control_ & 0x0c) << 4 | (modem_control_ & 0x02) << 3 |
                                           (modem_control_ & 0x01) << 5)
               : 0xb0;
  default:
    return scratch_;
  }
}

void Uart16550::write(std::uint64_t offset, unsigned, std::uint64_t value) {
  const auto byte = static_cast<std::uint8_t>(value);
  switch (offset) {
  case 0:
    if ((line_control_ & divisor_latch) != 0)
      divisor_ = static_cast<std::uint16_t>((divisor_ & 0xff00) | byte);
    else if ((modem_control_ & loopback) != 0)
      type({reinterpret_cast<const char*>(&byte), 1});
    else if (sent_.size() < max_unsaid)
      sent_ += static_cast<char>(byte);
    transmitter_empty_ = true;
    break;
  case 1:
    if ((line_control_ & divisor_latch) != 0) {
      divisor_ = static_cast<std::uint16_t>((divisor_ & 0xff) | byte << 8);
    } else {
      transmitter_empty_ = transmitter_empty_ || ((byte & ier_empty) != 0 && (interrupt_enable_ & ier_empty) == 0);
      interrupt_enable_ = byte & 0x0f;
    }
    break;
  case 2:
    fifo_control_ = byte;
    if ((byte & 2) != 0)
      received_.clear();
    break;
  case 3:
    line_control_ = byte;
    break;
  case 4:
    modem_control_ = byte & 0x1f;
    break;
  case 7:
    scratch_ = byte;
    break;
  default:
    break;
  }
  update();
}

void Uart16550::type(std::string_view text) {
  for (const char c : text)
    if (received_.size() < max_typed)
      received_.push_back(static_cast<std::uint8_t>(c));
  update();
}

void Uart16550::update() {
  irq_((!received_.empty() && (interrupt_enable_ & ier_received) != 0) ||
       (transmitter_empty_ && (interrupt_enable_ & ier_empty) != 0));
}

} // namespace kvmport::vmm
