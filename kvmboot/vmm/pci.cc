// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/pci.h"

#include "base/bytes.h"

#include <chrono>

namespace kvmport::vmm {

PciFunction::PciFunction(std::uint16_t vendor, std::uint16_t device, std::uint32_t class_and_revision) {
  set(0x00, 2, vendor);
  set(0x02, 2, device);
  set(0x08, 4, class_and_revision);
  make_writable(0x04, 2, 0x0507); // I/O, memory, bus master, SERR, INTx disable
  make_writable(0x3c, 1, 0xff);
}

std::uint32_t PciFunction::get(unsigned offset, unsigned size) const {
  std::uint32_t value = 0;
  for (unsigned i = 0; i < size; i++)
    value |= std::uint32_t{offset + i < bytes_.size() ? bytes_[offset + i] : std::uint8_t{0xff}} << 8 * i;
  return value;
}

void PciFunction::set(unsigned offset, unsigned size, std::uint32_t value) {
  for (unsigned i = 0; i < size && offset + i < bytes_.size(); i++)
    bytes_[offset + i] = static_cast<std::uint8_t>(value >> 8 * i);
}

void PciFunction::make_writable(unsigned offset, unsigned size, std::uint32_t mask) {
  for (unsigned i = 0; i < size && offset + i < mask_.size(); i++)
    mask_[offset + i] = static_cast<std::uint8_t>(mask >> 8 * i);
}

void PciFunction::config_write(unsigned offset, unsigned size, std::uint32_t value) {
  for (unsigned i = 0; i < size && offset + i < bytes_.size(); i++) {
    std::uint8_t& byte = bytes_[offset + i];
    const std::uint8_t mask = mask_[offset + i];
    byte = static_cast<std::uint8_t>((byte & ~mask) | (value >> 8 * i & mask));
  }
}

PciHost::PciHost(std::function<void()> reset) : reset_(std::move(reset)) {
  // 82441FX host bridge. The subsystem tells SeaBIOS that this is a QEMU-like board; the PAM registers say that
  // 0xC0000-0xFFFFF is RAM.
  auto host = std::make_unique<PciFunction>(0x8086, 0x1237, 0x06000002);
  host->set(0x2c, 4, 0x11001af4);
  host->set(0x59, 1, 0x10);
  host->set(0x5a, 4, 0x33333333);
  host->set(0x5e, 2, 0x3333);
  host->make_writable(0x59, 4, 0xffffffff);
  host->make_writable(0x5d, 3, 0xffffff);
  add(0, 0, std::move(host));

  auto isa = std::make_unique<PciFunction>(0x8086, 0x7000, 0x06010000);
  isa->set(0x0e, 1, 0x80); // more functions follow
  isa->set(0x60, 4, 0x80808080);
  isa->make_writable(0x60, 4, 0xffffffff);
  add(1, 0, std::move(isa));

  auto power = std::make_unique<PciFunction>(0x8086, 0x7113, 0x06800003);
  power->set(0x3d, 1, 1);
  power->set(0x40, 4, 1);
  power->make_writable(0x40, 4, 0xffc0);
  power->set(0x58, 4, 1U << 25); // APMC_EN: SMM is set up already, in that there is none
  power->make_writable(0x80, 1, 1);
  power->set(0x90, 4, 1);
  power->make_writable(0x90, 4, 0xfff0);
  power->make_writable(0xd2, 1, 0xff);
  add(1, 3, std::move(power));
}

void PciHost::configure(std::uint32_t window) {
  constexpr unsigned command = 0x04, first_bar = 0x10, bars = 6, line = 0x3c, pin = 0x3d;
  constexpr std::uint32_t memory_decoding = 2, flags = 0xf;
  at(1, 0)->set(0x60, 4, 0x0b0b0a0a);
  for (unsigned i = 0; i < functions_.size(); i++) {
    PciFunction* function = functions_[i].get();
    if (function == nullptr)
      continue;
    for (unsigned bar = first_bar; bar < first_bar + bars * 4; bar += 4) {
      function->config_write(bar, 4, 0xffffffff);
      const std::uint32_t size = 0U - (function->get(bar, 4) & ~flags);
      const auto place = static_cast<std::uint32_t>(size == 0 ? 0 : round_up(window, size));
      function->config_write(bar, 4, place);
      if (size != 0)
        window = place + size;
    }
    if (function->get(pin, 1) != 0)
      function->config_write(line, 1, interrupt_of(i / 8));
    function->config_write(command, 2, memory_decoding);
  }
  PciFunction& power = *at(1, 3);
  power.set(line, 1, 9); // the SCI
  power.set(0x40, 4, 0x601);
  power.set(0x80, 1, 1);
}

unsigned PciHost::interrupt_of(unsigned slot) const {
  const std::uint32_t route = at(1, 0)->get(0x60 + (slot - 1) % 4, 1);
  return (route & 0x80) != 0 ? 0 : route & 0x0f;
}

PciFunction* PciHost::addressed() const {
  const bool enabled = (address_ >> 31) != 0, this_bus = (address_ >> 16 & 0xff) == 0;
  return enabled && this_bus ? functions_[address_ >> 8 & 0xff].get() : nullptr;
}

std::uint64_t PciHost::read(std::uint64_t offset, unsigned size) {
  if (offset < 4)
    return offset == 0 && size == 4 ? address_ : 0xffffffff;
  PciFunction* const function = addressed();
  return function == nullptr ? 0xffffffff : function->get((address_ & 0xfc) + static_cast<unsigned>(offset - 4), size);
}

void PciHost::write(std::uint64_t offset, unsigned size, std::uint64_t value) {
  if (offset < 4) {
    if (offset == 0 && size == 4)
      address_ = static_cast<std::uint32_t>(value);
    else if (offset == 1 && size == 1 && (value & 4) != 0)
      reset_();
    return;
  }
  if (PciFunction* const function = addressed())
    function->config_write((address_ & 0xfc) + static_cast<unsigned>(offset - 4), size,
                           static_cast<std::uint32_t>(value));
}

std::uint64_t PowerManagement::read(std::uint64_t offset, unsigned size) {
  if (offset == 8) { // 24 bits at 3.579545 MHz
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    const auto us = static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(now).count());
    return static_cast<std::uint64_t>(static_cast<unsigned __int128>(us) * 3579545 / 1000000) & 0xffffff;
  }
  return little_endian(std::as_bytes(std::span(bytes_)), offset, size);
}

void PowerManagement::write(std::uint64_t offset, unsigned size, std::uint64_t value) {
  constexpr std::uint64_t status = 0, control = 4, sleep_enable = 1U << 13, sleep_type = 7U << 10;
  if (offset == status) // bits are cleared by writing ones; none is ever set
    return;
  if (offset == control && size >= 2 && (value & sleep_enable) != 0 && (value & sleep_type) == 0) {
    power_off_(); // SLP_TYP 0 is S5 in acpi.cc
    return;
  }
  for (unsigned i = 0; i < size && offset + i < bytes_.size(); i++)
    bytes_[offset + i] = static_cast<std::uint8_t>(value >> 8 * i);
  bytes_[control] |= 1; // SCI_EN stays: the FADT tells no way out of ACPI mode
}

} // namespace kvmport::vmm
