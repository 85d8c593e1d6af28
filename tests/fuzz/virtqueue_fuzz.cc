// SPDX-License-Identifier: Apache-2.0
// A hostile driver of a virtio disk: its rings, requests and accesses to the card's registers.
#include "tests/fuzz/blk_disk.h"
#include "tests/fuzz/vmm_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvmport::fuzz;
  constexpr std::uint32_t bar = 0xe0000000;
  Input in(data, size);
  BlkDisk disk;
  kvmport::vmm::Bus mmio;
  Card card(disk.device(), guarded_memory(Driver::memory_size), mmio);
  card.pci().config_write(Card::bar0, 4, bar);
  card.pci().config_write(Card::command, 2, 2);
  while (!in.empty()) {
    if (const auto kind = in.number(1); kind < 0x10) {
      const auto offset = static_cast<unsigned>(in.number(1));
      card.pci().config_write(offset, access_size(in, 3), static_cast<std::uint32_t>(in.number(4)));
    } else {
      card.driver().step(in, card.bar());
    }
    card.check();
  }
  disk.check();
  return 0;
}
