// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/linux_boot.h"

#include "base/error.h"
#include "base/file.h"
#include "formats/image.h"

#include <algorithm>
#include <cstring>
#include <elf.h>
#include <fmt/format.h>

namespace kvmport::vmm {
namespace {

constexpr std::uint64_t mib = 1U << 20, page = 4096, max_file = 1U << 30;
// Our tables, all below the first MiB, where no kernel may lie.
constexpr std::uint64_t gdt_at = 0x1000, start_info_at = 0x2000, zero_page_at = 0x7000, page_tables_at = 0x9000,
                        command_line_at = 0x20000, command_line_space = 0x10000, low_ram_end = 0x9fc00;
/// RAM ends below the devices' addresses.
constexpr std::uint64_t max_ram = 3ULL << 30;
constexpr std::uint32_t hdrs = 0x53726448; // "HdrS"

enum class Entry { pvh, linux32, linux64 };

/// A kernel that lies in guest memory.
struct Kernel {
  Entry entry = Entry::linux64;
  std::uint64_t start = 0, end = 0; ///< where it is entered; the first byte behind what it needs
  setup_header header{};
};

[[noreturn]] void invalid(const std::string& why) {
  throw Error("KERNEL_IMAGE_INVALID", "the kernel can't be booted", why,
              "give a bzImage (vmlinuz) or an ELF vmlinux for x86-64");
}

template <typename T> T struct_at(ByteSpan file, std::uint64_t offset, const char* name) {
  if (offset > file.size() || file.size() - offset < sizeof(T))
    invalid(fmt::format("its {} at offset {} is cut off", name, offset));
  T value;
  std::memcpy(&value, file.data() + offset, sizeof value);
  return value;
}

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
    invalid(fmt::format("it wants to be at {:#x}, below 1 MiB", at));
  if (at > ram || size > ram - at)
    throw Error("KERNEL_TOO_LARGE", "the kernel does not fit into the guest's memory",
                fmt::format("it needs {} bytes at {:#x}; the guest has {} bytes", size, at, ram),
                "give the guest more memory");
}

/// boot.rst, "The Real-Mode Kernel Header" and "64-bit Boot Protocol".
Kernel load_bzimage(ByteSpan file, const GuestMemory& memory) {
  constexpr std::uint64_t header_at = offsetof(boot_params, hdr), jump_end = 0x202, entry64 = 0x200;
  Kernel kernel;
  setup_header& h = kernel.header;
  h = struct_at<setup_header>(file, header_at, "setup header");
  if (h.boot_flag != 0xaa55 || h.header != hdrs)
    invalid("it is neither a bzImage nor an ELF file");
  if (h.version < 0x020a)
    invalid(fmt::format("its boot protocol {}.{:02} is older than 2.10", h.version >> 8, h.version & 0xff));
  if ((h.loadflags & LOADED_HIGH) == 0)
    invalid("it is a zImage");
  // What lies behind the header's end is code.
  const std::uint64_t header_end = jump_end + (h.jump >> 8), known_end = header_at + sizeof h;
  if (header_end < header_at + offsetof(setup_header, handover_offset))
    invalid("its setup header is too short");
  if (header_end < known_end)
    std::memset(reinterpret_cast<std::byte*>(&h) + (header_end - header_at), 0, known_end - header_end);

  const std::uint64_t setup = (std::uint64_t{h.setup_sects == 0 ? 4U : h.setup_sects} + 1) * 512;
  if (setup >= file.size() || (file.size() - setup + 15) / 16 < h.syssize)
    invalid("it is cut off");
  const ByteSpan code = file.subspan(setup);
  const std::uint64_t size = std::max<std::uint64_t>(h.init_size, code.size()), ram = ram_of(memory);
  std::uint64_t at = h.pref_address;
  if (h.relocatable_kernel != 0 && (at < mib || at > ram || size > ram - at)) {
    if (!std::has_single_bit(h.kernel_alignment))
      invalid("its alignment is no power of two");
    at = round_up(mib, h.kernel_alignment);
  }
  need_room(at, size, ram);
  put(memory, at, code);
  h.code32_start = static_cast<std::uint32_t>(at);
  const bool enter64 = (h.xloadflags & XLF_KERNEL_64) != 0;
  if (code.size() <= (enter64 ? entry64 : 0))
    invalid("it has no code");
  kernel.entry = enter64 ? Entry::linux64 : Entry::linux32;
  kernel.start = at + (enter64 ? entry64 : 0);
  kernel.end = at + size;
  return kernel;
}

/// The entry that XEN_ELFNOTE_PHYS32_ENTRY names in a segment of notes; 0: none.
std::uint64_t pvh_entry(ByteSpan notes) {
  constexpr std::uint32_t phys32_entry = 18;
  while (notes.size() >= sizeof(Elf64_Nhdr)) {
    const auto note = struct_at<Elf64_Nhdr>(notes, 0, "note");
    const std::uint64_t value_at = sizeof note + round_up(note.n_namesz, 4),
                        end = value_at + round_up(note.n_descsz, 4);
    if (value_at + note.n_descsz > notes.size())
      invalid("a note reaches out of its segment");
    const std::string_view name = as_text(notes.subspan(sizeof note, note.n_namesz));
    if (note.n_type == phys32_entry && name == std::string_view("Xen\0", 4)) {
      if (note.n_descsz == 4)
        return load_le<std::uint32_t>(notes, value_at);
      if (note.n_descsz == 8)
        return load_le<std::uint64_t>(notes, value_at);
      invalid("its PVH entry is no number");
    }
    notes = notes.subspan(std::min<std::uint64_t>(end, notes.size()));
  }
  return 0;
}

ByteSpan segment_of(ByteSpan file, const Elf64_Phdr& header) {
  if (header.p_offset > file.size() || header.p_filesz > file.size() - header.p_offset)
    invalid("a segment reaches behind the end of the file");
  return file.subspan(header.p_offset, header.p_filesz);
}

/// System V ABI, "Object Files" and "Program Loading"; pvh.pandoc for the entry.
Kernel load_elf(ByteSpan file, const GuestMemory& memory) {
  constexpr unsigned max_segments = 64;
  const auto elf = struct_at<Elf64_Ehdr>(file, 0, "ELF header");
  if (elf.e_ident[EI_CLASS] != ELFCLASS64 || elf.e_ident[EI_DATA] != ELFDATA2LSB || elf.e_machine != EM_X86_64)
    invalid("it is an ELF file, but not for x86-64");
  if (elf.e_type != ET_EXEC)
    invalid("it is an ELF file, but not an executable");
  if (elf.e_phentsize != sizeof(Elf64_Phdr) || elf.e_phnum > max_segments || elf.e_phoff > file.size())
    invalid("its program headers are not usable");
  std::vector<Range> taken;
  Kernel kernel;
  for (unsigned i = 0; i < elf.e_phnum; i++) {
    const auto header = struct_at<Elf64_Phdr>(file, elf.e_phoff + i * sizeof(Elf64_Phdr), "program header");
    if (header.p_type == PT_NOTE && kernel.start == 0)
      kernel.start = pvh_entry(segment_of(file, header));
    if (header.p_type != PT_LOAD || header.p_memsz == 0)
      continue;
    const ByteSpan content = segment_of(file, header);
    if (content.size() > header.p_memsz)
      invalid("a segment is larger in the file than in memory");
    need_room(header.p_paddr, header.p_memsz, ram_of(memory));
    for (const Range& other : taken)
      if (header.p_paddr < other.offset + other.length && other.offset < header.p_paddr + header.p_memsz)
        invalid("its segments overlap");
    taken.push_back({header.p_paddr, header.p_memsz});
    put(memory, header.p_paddr, content);
    kernel.end = std::max(kernel.end, header.p_paddr + header.p_memsz);
  }
  kernel.entry = kernel.start != 0 ? Entry::pvh : Entry::linux64;
  if (kernel.start == 0)
    kernel.start = elf.e_entry;
  if (std::none_of(taken.begin(), taken.end(), [&](const Range& segment) {
        return kernel.start >= segment.offset && kernel.start - segment.offset < segment.length;
      }))
    invalid(fmt::format("its entry {:#x} lies in none of its segments", kernel.start));
  kernel.header.boot_flag = 0xaa55; // a vmlinux has no setup header
  kernel.header.header = hdrs;
  kernel.header.version = 0x020c;
  kernel.header.loadflags = LOADED_HIGH;
  kernel.header.initrd_addr_max = 0xffffffff;
  kernel.header.cmdline_size = 2047; // COMMAND_LINE_SIZE
  return kernel;
}

std::uint64_t place_initrd(ByteSpan initrd, const Kernel& kernel, const GuestMemory& memory) {
  const std::uint64_t limit = std::min(ram_of(memory), std::uint64_t{kernel.header.initrd_addr_max} + 1);
  const std::uint64_t at = initrd.size() > limit ? 0 : (limit - initrd.size()) / page * page;
  if (at < kernel.end)
    throw Error("INITRD_TOO_LARGE", "the initrd does not fit into the guest's memory",
                fmt::format("it has {} bytes; between the kernel's end {:#x} and {:#x} is too little room",
                            initrd.size(), kernel.end, limit),
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
void put_zero_page(const Kernel& kernel, const Told& told, const GuestMemory& memory) {
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
StartState put_mode(Entry entry, const GuestMemory& memory) {
  constexpr std::uint64_t code32 = 0x00cf9b000000ffff, code64 = 0x00af9b000000ffff, data = 0x00cf93000000ffff;
  constexpr std::uint64_t present_writable = 3, large = 0x80, two_mib = 2 * mib, tables = 4;
  StartState start;
  start.mode = entry == Entry::linux64 ? StartState::Mode::long64 : StartState::Mode::protected32;
  start.gdt = gdt_at;
  memory.store(gdt_at + 0x10, entry == Entry::linux64 ? code64 : code32);
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
  const Kernel kernel = images.kernel.starts_with(ELFMAG) ? load_elf(file, memory) : load_bzimage(file, memory);
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
  if (kernel.entry == Entry::pvh) {
    start.regs.rbx = start_info_at;
    put_start_info(told, memory);
  } else {
    start.regs.rsi = zero_page_at;
    put_zero_page(kernel, told, memory);
  }
  return start;
}

} // namespace kvmport::vmm
