// SPDX-License-Identifier: Apache-2.0
#include "formats/kernel_image.h"

#include <algorithm>
#include <cstring>
#include <elf.h>
#include <fmt/format.h>

namespace kvmport {
namespace {

constexpr std::uint32_t hdrs = 0x53726448; // "HdrS"

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

/// boot.rst, "The Real-Mode Kernel Header" and "64-bit Boot Protocol".
KernelImage read_bzimage(ByteSpan file) {
  constexpr std::uint64_t header_at = offsetof(boot_params, hdr), jump_end = 0x202, entry64 = 0x200;
  KernelImage kernel;
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
  if (h.relocatable_kernel != 0 && !std::has_single_bit(h.kernel_alignment))
    invalid("its alignment is no power of two");
  kernel.relocatable = h.relocatable_kernel != 0;
  const bool enter64 = (h.xloadflags & XLF_KERNEL_64) != 0;
  if (code.size() <= (enter64 ? entry64 : 0))
    invalid("it has no code");
  kernel.entry = enter64 ? KernelImage::Entry::linux64 : KernelImage::Entry::linux32;
  kernel.segments = {{h.pref_address, std::max<std::uint64_t>(h.init_size, code.size()), code}};
  kernel.start = h.pref_address + (enter64 ? entry64 : 0);
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
KernelImage read_elf(ByteSpan file) {
  constexpr unsigned max_segments = 64;
  const auto elf = struct_at<Elf64_Ehdr>(file, 0, "ELF header");
  if (elf.e_ident[EI_CLASS] != ELFCLASS64 || elf.e_ident[EI_DATA] != ELFDATA2LSB || elf.e_machine != EM_X86_64)
    invalid("it is an ELF file, but not for x86-64");
  if (elf.e_type != ET_EXEC)
    invalid("it is an ELF file, but not an executable");
  if (elf.e_phentsize != sizeof(Elf64_Phdr) || elf.e_phnum > max_segments || elf.e_phoff > file.size())
    invalid("its program headers are not usable");
  KernelImage kernel;
  for (unsigned i = 0; i < elf.e_phnum; i++) {
    const auto header = struct_at<Elf64_Phdr>(file, elf.e_phoff + i * sizeof(Elf64_Phdr), "program header");
    if (header.p_type == PT_NOTE && kernel.start == 0)
      kernel.start = pvh_entry(segment_of(file, header));
    if (header.p_type != PT_LOAD || header.p_memsz == 0)
      continue;
    const ByteSpan content = segment_of(file, header);
    if (content.size() > header.p_memsz)
      invalid("a segment is larger in the file than in memory");
    if (header.p_memsz > UINT64_MAX - header.p_paddr)
      throw Error("KERNEL_TOO_LARGE", "the kernel does not fit into any memory");
    for (const KernelSegment& other : kernel.segments)
      if (header.p_paddr < other.address + other.size && other.address < header.p_paddr + header.p_memsz)
        invalid("its segments overlap");
    kernel.segments.push_back({header.p_paddr, header.p_memsz, content});
  }
  kernel.entry = kernel.start != 0 ? KernelImage::Entry::pvh : KernelImage::Entry::linux64;
  if (kernel.start == 0)
    kernel.start = elf.e_entry;
  if (std::ranges::none_of(kernel.segments, [&](const KernelSegment& segment) {
        return kernel.start >= segment.address && kernel.start - segment.address < segment.size;
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

} // namespace

std::uint64_t KernelImage::end() const {
  std::uint64_t last = 0;
  for (const KernelSegment& segment : segments)
    last = std::max(last, segment.address + segment.size);
  return last;
}

KernelImage read_kernel_image(ByteSpan file) {
  const bool elf = file.size() >= SELFMAG && std::memcmp(file.data(), ELFMAG, SELFMAG) == 0;
  return elf ? read_elf(file) : read_bzimage(file);
}

std::string kernel_image_version(std::string_view head) {
  const ByteSpan bytes = as_bytes(head);
  if (head.size() < 0x210 || head.substr(0x202, 4) != "HdrS")
    return {};
  const std::size_t at = load_le<std::uint16_t>(bytes, 0x20e) + std::size_t{0x200};
  if (at == 0x200 || at >= head.size())
    return {};
  const std::string_view text = head.substr(at, 256);
  return std::string(text.substr(0, text.find_first_of(std::string_view(" \0", 2))));
}

} // namespace kvmport
