// SPDX-License-Identifier: Apache-2.0
// One PCI bus behind configuration mechanism 1 (PCI Local Bus Specification 3.0, section 3.2.2.3.2), with the chips of
// an i440FX board that SeaBIOS and kernels look for.
#pragma once

#include "kvmboot/vmm/bus.h"

#include <array>
#include <memory>
#include <vector>

namespace kvmport::vmm {

/// A function's 256 bytes of configuration space. Only bits that were made writable change.
class PciFunction {
 public:
  PciFunction(std::uint16_t vendor, std::uint16_t device, std::uint32_t class_and_revision);
  virtual ~PciFunction() = default;

  std::uint32_t get(unsigned offset, unsigned size) const;
  /// By the machine: any bit.
  void set(unsigned offset, unsigned size, std::uint32_t value);
  void make_writable(unsigned offset, unsigned size, std::uint32_t mask);
  /// By the guest.
  virtual void config_write(unsigned offset, unsigned size, std::uint32_t value);

 private:
  std::array<std::uint8_t, 256> bytes_{}, mask_{};
};

/// Ports 0xCF8-0xCFF; 0xCF9 in their midst resets the machine (Intel 82371SB data sheet, section 2.4.4).
class PciHost final : public Device {
 public:
  explicit PciHost(std::function<void()> reset);
  /// Puts a function at slot.function; the place must be free.
  void add(unsigned slot, unsigned function, std::unique_ptr<PciFunction> what) {
    functions_.at(std::size_t{slot} * 8 + function) = std::move(what);
  }
  /// What firmware does, as SeaBIOS does it (seabios src/fw/pciinit.c): interrupts {10, 10, 11, 11} for the router, a
  /// place from `window` on for each BAR, the power management ports at 0x600.
  void configure(std::uint32_t window);
  PciFunction* at(unsigned slot, unsigned function) const { return functions_[slot % 32 * 8 + function % 8].get(); }
  /// The interrupt that the board's router gives to pin A of a slot: PIIX3's PIRQ registers (Intel 82371SB data sheet,
  /// section 2.2.4), 0 when the firmware has set none.
  unsigned interrupt_of(unsigned slot) const;

  std::uint64_t read(std::uint64_t offset, unsigned size) override;
  void write(std::uint64_t offset, unsigned size, std::uint64_t value) override;

 private:
  /// The function that the address register names; null: none.
  PciFunction* addressed() const;

  std::array<std::unique_ptr<PciFunction>, 256> functions_;
  std::function<void()> reset_;
  std::uint32_t address_ = 0;
};

/// PIIX4's power management ports (Intel 82371AB data sheet, section 7.2), 64 ports from their base on: the PM timer of
/// ACPI 6.4, section 4.8.3.3, and the power switch.
class PowerManagement final : public Device {
 public:
  explicit PowerManagement(std::function<void()> power_off) : power_off_(std::move(power_off)) {}
  std::uint64_t read(std::uint64_t offset, unsigned size) override;
  void write(std::uint64_t offset, unsigned size, std::uint64_t value) override;

 private:
  std::function<void()> power_off_;
  std::array<std::uint8_t, 64> bytes_{0, 0, 0, 0, 1}; ///< SCI_EN: always in ACPI mode
};

} // namespace kvmport::vmm
