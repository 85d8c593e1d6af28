// SPDX-License-Identifier: Apache-2.0
// Any accesses to the configuration ports and to memory, on a bus with a virtio disk and a network card without a
// cable: BARs may be anywhere, over each other and over RAM.
#include "kvmboot/vmm/virtio_net.h"
#include "tests/fuzz/blk_disk.h"
#include "tests/fuzz/vmm_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvmport;
  using namespace kvmport::fuzz;
  Input in(data, size);
  BlkDisk disk;
  vmm::VirtioNet net("", -1);
  vmm::Bus ports, mmio;
  vmm::GuestMemory& memory = guarded_memory(Driver::memory_size);
  Card blk_card(disk.device(), memory, mmio), net_card(net, memory, mmio);
  vmm::PciHost pci([] {});
  pci.add(2, 0, blk_card.function());
  pci.add(3, 0, net_card.function());
  ports.add(0xcf8, 8, pci);
  if (in.number(1) % 2 == 0)
    pci.configure(static_cast<std::uint32_t>(in.number(4)));
  while (!in.empty()) {
    const auto kind = in.number(1);
    Card& card = (kind & 0x80) == 0 ? blk_card : net_card;
    switch (kind % 5) {
    case 0: { // configuration address: of one of the cards, or any
      const auto slot = in.number(1);
      const auto offset = in.number(1);
      ports.write(0xcf8, 4, 0x80000000 | (slot < 0xc0 ? 2 + slot % 2 : slot & 31) << 11 | offset);
      break;
    }
    case 1: {
      const std::uint64_t port = 0xcf8 + in.number(1) % 8;
      const unsigned length = access_size(in, 3);
      ports.write(port, length, in.number(length));
      break;
    }
    case 2: {
      const std::uint64_t port = 0xcf8 + in.number(1) % 8;
      (void)ports.read(port, access_size(in, 3));
      break;
    }
    case 3: {
      const std::uint64_t address = in.number(4);
      const unsigned length = access_size(in);
      mmio.write(address, length, in.number(length));
      (void)mmio.read(address, length);
      break;
    }
    default:
      card.driver().step(in, card.bar());
      break;
    }
    blk_card.check();
    net_card.check();
    for (unsigned slot = 0; slot < 32; slot++)
      must(pci.interrupt_of(slot) < 16);
  }
  disk.check();
  return 0;
}
