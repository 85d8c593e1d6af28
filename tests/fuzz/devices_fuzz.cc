// SPDX-License-Identifier: Apache-2.0
// Any accesses to the board's small devices, each repeated as often as the input says: nothing that a guest does makes
// them hold more than they say.
#include "kvmboot/vmm/flash.h"
#include "kvmboot/vmm/legacy.h"
#include "kvmboot/vmm/pci.h"
#include "kvmboot/vmm/uart16550.h"
#include "tests/fuzz/vmm_fuzz.h"

namespace {

using namespace kvmport;

/// As vmm::Pc has them.
struct Board {
  Board() {
    ports.add(0x60, 5, keyboard);
    ports.add(0x70, 2, cmos);
    ports.add(0x92, 1, fast_reset);
    ports.add(0x3b0, 0x30, vga);
    ports.add(0x3f8, 8, uart);
    ports.add(0x402, 1, debug);
    ports.add(0x600, 64, power);
    ports.add(flash_at, array.size(), flash);
  }
  static constexpr std::uint64_t flash_at = 0x10000;
  bool shown = true;
  Bytes array = Bytes(4 * vmm::Flash::block, std::byte{0xff});
  vmm::I8042 keyboard{[] {}};
  vmm::Cmos cmos{64U << 20, 2};
  vmm::FastResetPort fast_reset{[] {}};
  vmm::VgaRegisters vga;
  vmm::Uart16550 uart{[](bool) {}};
  vmm::DebugPort debug;
  vmm::PowerManagement power{[] {}};
  vmm::Flash flash{array, [this](bool show) { shown = show; }};
  vmm::Bus ports;
};

constexpr std::pair<std::uint64_t, std::uint64_t> ranges[] = {
    {0x60, 5},  {0x70, 2},  {0x92, 1},   {0x3b0, 0x30},
    {0x3f8, 8}, {0x402, 1}, {0x600, 64}, {Board::flash_at, 4 * vmm::Flash::block},
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvmport::fuzz;
  Input in(data, size);
  Board board;
  unsigned accesses = 0;
  while (!in.empty() && accesses < 20000) {
    const auto kind = in.number(1);
    const auto [base, length] = ranges[kind % 8];
    const std::uint64_t address = base + in.number(length > 256 ? 2 : 1) % length;
    const unsigned width = access_size(in);
    const std::uint64_t repeat = (kind & 0x40) == 0 ? 1 : in.number(2) % 512;
    const std::uint64_t value = (kind & 0x80) == 0 ? 0 : in.number(width);
    for (std::uint64_t i = 0; i < repeat; i++, accesses++)
      if ((kind & 0x80) == 0)
        (void)board.ports.read(address, width);
      else
        board.ports.write(address, width, value);
    if ((kind & 0x20) != 0)
      board.uart.type("typed");
    must(board.vga.screen_start() <= 0xffff);
  }
  must(board.uart.take().size() <= 1U << 20 && board.debug.take().size() <= 1U << 20);
  for (unsigned i = 0; (board.ports.read(0x64, 1) & 1) != 0; i++) {
    must(i < 64);
    (void)board.ports.read(0x60, 1);
  }
  return 0;
}
