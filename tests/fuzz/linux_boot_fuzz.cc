// SPDX-License-Identifier: Apache-2.0
// Any bytes as a kernel for direct boot: it is refused with an Error or placed, and then everything that the processor
// and the kernel are told about lies in memory.
#include "kvmboot/vmm/linux_boot.h"
#include "tests/fuzz/vmm_fuzz.h"

#include <asm/bootparam.h>

namespace {

using namespace kvmport;

void check(const vmm::StartState& start, const vmm::LinuxImages& images, const vmm::GuestMemory& memory) {
  using fuzz::must;
  constexpr std::uint64_t mib = 1U << 20;
  must(start.regs.rip >= mib && start.regs.rip < memory.size());
  must(memory.slice(start.gdt, 32) && memory.slice(start.cr3, 6 * 4096));
  must((start.regs.rsi == 0) != (start.regs.rbx == 0));
  std::uint64_t initrd = 0, command_line = 0;
  if (start.regs.rsi != 0) {
    const auto page = memory.slice(start.regs.rsi, sizeof(boot_params));
    must(page.has_value());
    boot_params zero_page;
    std::memcpy(&zero_page, page->data(), sizeof zero_page);
    must(zero_page.hdr.ramdisk_size == images.initrd.size() && zero_page.hdr.setup_data == 0 &&
         zero_page.e820_entries == 4);
    initrd = zero_page.hdr.ramdisk_image;
    command_line = zero_page.hdr.cmd_line_ptr;
  } else {
    must(memory.load<std::uint32_t>(start.regs.rbx) == 0x336ec578U);
    if (!images.initrd.empty())
      initrd = *memory.load<std::uint64_t>(*memory.load<std::uint64_t>(start.regs.rbx + 16));
    command_line = *memory.load<std::uint64_t>(start.regs.rbx + 24);
  }
  must(as_text(*memory.slice(initrd, images.initrd.size())) == images.initrd);
  must(images.initrd.empty() || initrd >= mib);
  must(as_text(*memory.slice(command_line, images.command_line.size())) == images.command_line);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvmport::fuzz;
  Input in(data, size);
  vmm::LinuxImages images;
  images.initrd.assign(in.number(2) * 8, 'i');
  images.command_line.assign(in.number(1) * 16, 'c');
  images.kernel = as_text(in.take(size));
  vmm::GuestMemory& memory = guarded_memory(2U << 20);
  try {
    check(vmm::load_linux(images, 0xe0000, memory), images, memory);
  } catch (const Error&) { // a refusal is an answer
  }
  return 0;
}
