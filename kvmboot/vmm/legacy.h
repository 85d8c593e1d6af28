// SPDX-License-Identifier: Apache-2.0
// The small parts of a PC's board, each a few registers: clock and CMOS memory, keyboard controller, debug and reset
// ports, the text card's registers.
#pragma once

#include "kvmboot/vmm/bus.h"

#include <array>
#include <functional>
#include <string>
#include <utility>

namespace kvmport::vmm {

/// Ports 0x70-0x71: MC146818 clock (Motorola data sheet) and CMOS memory with the sizes that SeaBIOS reads from it when
/// fw_cfg has none (seabios src/hw/rtc.h).
class Cmos final : public Device {
 public:
  Cmos(std::uint64_t memory, unsigned cpus);
  std::uint64_t read(std::uint64_t offset, unsigned size) override;
  void write(std::uint64_t offset, unsigned size, std::uint64_t value) override;

 private:
  std::uint8_t clock(unsigned index) const;
  std::array<std::uint8_t, 128> bytes_{};
  unsigned index_ = 0;
};

/// Ports 0x60 and 0x64: the keyboard controller, with a keyboard on which nobody types (IBM PC/AT technical reference).
class I8042 final : public Device {
 public:
  explicit I8042(std::function<void()> reset) : reset_(std::move(reset)) {}
  std::uint64_t read(std::uint64_t offset, unsigned size) override;
  void write(std::uint64_t offset, unsigned size, std::uint64_t value) override;

 private:
  /// For the guest to read; what it leaves unread pushes nothing out, and there is an end to it.
  void answer(std::initializer_list<std::uint8_t> bytes);
  std::function<void()> reset_;
  std::string out_;
  std::uint8_t command_ = 0x30, pending_ = 0;
};

/// Port 0x402: the firmware's log. Reads give 0xE9, by which SeaBIOS knows that it is there (seabios
/// src/fw/paravirt.c).
class DebugPort final : public Device {
 public:
  std::uint64_t read(std::uint64_t, unsigned) override { return 0xe9; }
  void write(std::uint64_t offset, unsigned size, std::uint64_t value) override;
  std::string take() { return std::exchange(text_, {}); }

 private:
  std::string text_;
};

/// Port 0x92: fast A20, which is always on, and fast reset (IBM PS/2 technical reference, system control port A).
class FastResetPort final : public Device {
 public:
  explicit FastResetPort(std::function<void()> reset) : reset_(std::move(reset)) {}
  std::uint64_t read(std::uint64_t, unsigned) override { return 2; }
  void write(std::uint64_t offset, unsigned size, std::uint64_t value) override;

 private:
  std::function<void()> reset_;
};

/// Ports 0x3B0-0x3DF of a VGA card: indexed registers that only remember, and the status whose retrace bits toggle (IBM
/// VGA technical reference). The text itself lies in guest RAM at 0xB8000.
class VgaRegisters final : public Device {
 public:
  /// CRTC registers 0x0C and 0x0D: the first character shown.
  unsigned screen_start() const { return crtc_.values[0x0c] * 256U + crtc_.values[0x0d]; }
  std::uint64_t read(std::uint64_t offset, unsigned size) override;
  void write(std::uint64_t offset, unsigned size, std::uint64_t value) override;

 private:
  struct Indexed {
    std::array<std::uint8_t, 256> values{};
    std::uint8_t index = 0;
  };
  /// The registers whose index is at this port and whose data is at the next.
  Indexed* indexed_at(std::uint64_t port);

  Indexed crtc_, sequencer_, graphics_, attributes_;
  std::uint8_t misc_ = 0x67, status_ = 0;
  bool attribute_data_ = false; ///< the next write to 0x3C0 is data
};

} // namespace kvmport::vmm
