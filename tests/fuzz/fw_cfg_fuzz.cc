// SPDX-License-Identifier: Apache-2.0
// Any accesses to fw_cfg's ports and any structures of its DMA. A transfer changes what it names and nothing else.
#include "kvmboot/vmm/fw_cfg.h"
#include "tests/fuzz/vmm_fuzz.h"

namespace {

using namespace kvmport;

constexpr std::size_t memory_size = 0x4000;

/// Rings the doorbell for the structure at `address`.
void transfer(vmm::FwCfg& device, const vmm::GuestMemory& memory, std::uint64_t address) {
  const auto all = *memory.slice(0, memory_size);
  Bytes expected(all.begin(), all.end());
  std::uint64_t to = 0, length = 0;
  if (memory.slice(address, 16)) {
    length = load_be<std::uint32_t>(expected, address + 4);
    to = load_be<std::uint64_t>(expected, address + 8);
  }
  device.write(4, 4, detail::swap_bytes(static_cast<std::uint32_t>(address >> 32)));
  device.write(8, 4, detail::swap_bytes(static_cast<std::uint32_t>(address)));
  const auto may_change = [&](std::uint64_t at, std::uint64_t size) {
    if (const auto changed = memory.slice(at, size); changed && size != 0)
      std::memcpy(expected.data() + at, changed->data(), size);
  };
  may_change(to, length);
  may_change(address, 4);
  fuzz::must(std::memcmp(all.data(), expected.data(), memory_size) == 0);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvmport::fuzz;
  Input in(data, size);
  vmm::GuestMemory& memory = guarded_memory(memory_size);
  vmm::FwCfg device(memory);
  device.add(5, Bytes(2, std::byte{1}));
  device.add_file("etc/small", Bytes(3, std::byte{0x11}));
  device.add_file("etc/empty", {});
  device.add_file("etc/large", Bytes(0x5000, std::byte{0x22}));
  vmm::Bus ports;
  ports.add(0x510, 12, device);
  while (!in.empty())
    switch (in.number(1) % 5) {
    case 0: {
      const std::uint64_t port = 0x510 + in.number(1) % 12;
      (void)ports.read(port, access_size(in, 3));
      break;
    }
    case 1: {
      const std::uint64_t port = 0x510 + in.number(1) % 12;
      const unsigned length = access_size(in, 3);
      ports.write(port, length, in.number(length));
      break;
    }
    case 2: {
      const std::uint64_t address = in.number(2) % memory_size;
      const ByteSpan bytes = in.take(in.number(1));
      std::copy_n(bytes.begin(), std::min(bytes.size(), memory_size - address), memory.slice(address, 0)->data());
      break;
    }
    case 3:
      transfer(device, memory, in.number(8));
      break;
    default: { // a structure that is right in form
      const std::uint64_t address = in.number(2) % memory_size;
      const auto at = memory.slice(address, 16);
      if (at) {
        store_be(*at, 0, static_cast<std::uint32_t>(in.number(1) | in.number(2) << 16));
        store_be(*at, 4, static_cast<std::uint32_t>(in.number(2)));
        store_be(*at, 8, in.number(2));
      }
      transfer(device, memory, address);
    }
    }
  return 0;
}
