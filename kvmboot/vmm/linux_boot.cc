// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/linux_boot.h"

#include "base/error.h"
#include "base/file.h"
#include "formats/kernel_image.h"

#include <algorithm>
#include <fmt/format.h>

namespace kvmport::vmm {
namespace {

constexpr std::uint64_t mib = 1U << 20, page = 4096, max_file = 1U << 30;
// Our tables, all below the first MiB, where no kernel may lie.
constexpr std::uint64_t gdt_at = 0x1000, start_info_at = 0x2000, zero_page_at = 0x7000, page_tables_at = 0x9000,
                        command_line_at = 0x20000, command_line_space = 0x10000, low_ram_end = 0x9fc00;
/// RAM ends below the devices' addresses.
constexpr std::uint64_t max_ram = 3ULL << 30;

std::uint64_t ram_of(const GuestMemory& memory) {
  return std::min(memory.size(), max_ram);
}

void put(const GuestMemory& memory, std::uint64_t at, ByteSpan bytes) {
  const auto to = memory.slice(at, bytes.size());
  if (!to)
    throw Error("KERNEL_TOO_LARGE", "the guest has too little memory to boot a kernel");
  std::copy(bytes.begin(), bytes.end(), to->begin());
}

void need_room(std::uint64_t at, std::uint64_t size, std::uint64_t ram) {
  if (at < mib)
    throw Error("KERNEL_IMAGE_INVALID", "the kernel can't be booted",
                fmt::format("it wants to be at {:#x}, below 1 MiB", at));
  if (at > ram || size > ram - at)
    throw Error("KERNEL_TOO_LARGE", "the kernel does not fit into the guest's memory",
                fmt::format("it needs {} bytes at {:#x}; the guest has {} bytes", size, at, ram),
                "give the guest more memory");
}

/// A kernel that may lie elsewhere does when its place is not there.
void place_kernel(KernelImage& kernel, const GuestMemory& memory) {
  const std::uint64_t ram = ram_of(memory);
  if (kernel.relocatable) {
    KernelSegment& only = kernel.segments.front();
    if (only.address < mib || only.address > ram || only.size > ram - only.address) {
      const std::uint64_t at = round_up(mib, kernel.header.kernel_alignment);
      kernel.start = at + (kernel.start - only.address);
      only.address = at;
    }
  }
  for (const KernelSegment& segment : kernel.segments) {
    need_room(segment.address, segment.size, ram);
    put(memory, segment.address, segment.content);
  }
  kernel.header.code32_start = static_cast<std::uint32_t>(kernel.segments.front().address);
}

std::uint64_t place_initrd(ByteSpan initrd, const KernelImage& kernel, const GuestMemory& memory) {
  const std::uint64_t limit = std::min(ram_of(memory), std::uint64_t{kernel.header.initrd_addr_max} + 1);
  const std::uint64_t at = initrd.size() > limit ? 0 : (limit - initrd.size()) / page * page;
  if (at < kernel.end())
    throw Error("INITRD_TOO_LARGE", "the initrd does not fit into the guest's memory",
                fmt::format("it has {} bytes; between the kernel's end {:#x} and {:#x} is too little room",
                            initrd.size(), kernel.end(), limit),
                "give the guest more memory");
  put(memory, at, initrd);
  return at;
}

std::vector<boot_e820_entry> memory_map(std::uint64_t ram) {
  return {{0, low_ram_end, e820_ram},
          {low_ram_end, mib - low_ram_end, e820_reserved},
          {mib, ram - mib, e820_ram},
          {kvm_pages_at, kvm_pages, e820_reserved}};
}

/// What the kernel is told about.
struct Told {
  std::uint64_t initrd, initrd_size, rsdp;
  std::vector<boot_e820_entry> map;
};

/// struct boot_params, boot.rst and Documentation/arch/x86/zero-page.rst.
void put_zero_page(const KernelImage& kernel, const Told& told, const GuestMemory& memory) {
  boot_params zero_page{};
  zero_page.hdr = kernel.header;
  zero_page.hdr.type_of_loader = 0xff; // none that has a number
  zero_page.hdr.vid_mode = 0xffff;     // normal
  zero_page.hdr.ramdisk_image = static_cast<std::uint32_t>(told.initrd);
  zero_page.hdr.ramdisk_size = static_cast<std::uint32_t>(told.initrd_size);
  zero_page.hdr.cmd_line_ptr = command_line_at;
  zero_page.hdr.setup_data = 0;
  zero_page.acpi_rsdp_addr = told.rsdp;
  zero_page.screen_info.orig_video_mode = 3; // the text card: 80 x 25
  zero_page.screen_info.orig_video_cols = 80;
  zero_page.screen_info.orig_video_lines = 25;
  zero_page.screen_info.orig_video_isVGA = 1;
  zero_page.screen_info.orig_video_points = 16;
  zero_page.e820_entries = static_cast<std::uint8_t>(told.map.size());
  std::copy(told.map.begin(), told.map.end(), zero_page.e820_table);
  put(memory, zero_page_at, std::as_bytes(std::span(&zero_page, 1)));
}

/// struct hvm_start_info, version 1, its list of one module and its memory map (start_info.h).
void put_start_info(const Told& told, const GuestMemory& memory) {
  constexpr std::uint64_t module_at = start_info_at + 0x100, map_at = start_info_at + 0x200;
  memory.store<std::uint32_t>(start_info_at, 0x336ec578);
  memory.store<std::uint32_t>(start_info_at + 4, 1);
  memory.store<std::uint32_t>(start_info_at + 12, told.initrd_size != 0 ? 1 : 0);
  memory.store<std::uint64_t>(start_info_at + 16, module_at);
  memory.store<std::uint64_t>(start_info_at + 24, command_line_at);
  memory.store<std::uint64_t>(start_info_at + 32, told.rsdp);
  memory.store<std::uint64_t>(start_info_at + 40, map_at);
  memory.store<std::uint64_t>(start_info_at + 48, told.map.size());
  memory.store<std::uint64_t>(module_at, told.initrd);
  memory.store<std::uint64_t>(module_at + 8, told.initrd_size);
  for (std::size_t i = 0; i < told.map.size(); i++) {
    memory.store<std::uint64_t>(map_at + i * 24, told.map[i].addr);
    memory.store<std::uint64_t>(map_at + i * 24 + 8, told.map[i].size);
    memory.store<std::uint64_t>(map_at + i * 24 + 16, told.map[i].type);
  }
}

/// Intel SDM volume 3, sections 3.4.5 and 4.5.
StartState put_mode(KernelImage::Entry entry, const GuestMemory& memory) {
  constexpr std::uint64_t code32 = 0x00cf9b000000ffff, code64 = 0x00af9b000000ffff, data = 0x00cf93000000ffff;
  constexpr std::uint64_t present_writable = 3, large = 0x80, two_mib = 2 * mib, tables = 4;
  StartState start;
  start.mode = entry == KernelImage::Entry::linux64 ? StartState::Mode::long64 : StartState::Mode::protected32;
  start.gdt = gdt_at;
  memory.store(gdt_at + 0x10, entry == KernelImage::Entry::linux64 ? code64 : code32);
  memory.store(gdt_at + 0x18, data);
  start.cr3 = page_tables_at;
  memory.store(page_tables_at, (page_tables_at + page) | present_writable);
  for (std::uint64_t i = 0; i < tables; i++)
    memory.store(page_tables_at + page + i * 8, (page_tables_at + (2 + i) * page) | present_writable);
  for (std::uint64_t i = 0; i < tables * 512; i++)
    memory.store(page_tables_at + 2 * page + i * 8, i * two_mib | large | present_writable);
  return start;
}

} // namespace

LinuxImages read_linux_images(const LinuxBoot& boot) {
  return {read_file(boot.kernel, max_file), boot.initrd.empty() ? "" : read_file(boot.initrd, max_file),
          boot.command_line};
}

StartState load_linux(const LinuxImages& images, std::uint64_t rsdp, const GuestMemory& memory) {
  const ByteSpan file = as_bytes(images.kernel), initrd = as_bytes(images.initrd);
  KernelImage kernel = read_kernel_image(file);
  place_kernel(kernel, memory);
  const std::uint64_t longest = std::min<std::uint64_t>(kernel.header.cmdline_size, command_line_space - 1);
  if (images.command_line.size() > longest)
    throw Error("COMMAND_LINE_TOO_LONG", "the kernel's command line is too long",
                fmt::format("it has {} bytes; this kernel takes {}", images.command_line.size(), longest),
                "shorten it");
  put(memory, command_line_at, as_bytes(images.command_line)); // the zero behind it is there
  const Told told{initrd.empty() ? 0 : place_initrd(initrd, kernel, memory), initrd.size(), rsdp,
                  memory_map(ram_of(memory))};
  StartState start = put_mode(kernel.entry, memory);
  start.regs.rip = kernel.start;
  if (kernel.entry == KernelImage::Entry::pvh) {
    start.regs.rbx = start_info_at;
    put_start_info(told, memory);
  } else {
    start.regs.rsi = zero_page_at;
    put_zero_page(kernel, told, memory);
  }
  return start;
}

} // namespace kvmport::vmm
