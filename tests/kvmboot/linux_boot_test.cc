// SPDX-License-Identifier: Apache-2.0
// The loader of kernels on made-up files, good ones and ones with one field wrong, and on the host's own kernels.
#include "base/file.h"
#include "kvmboot/vmm/linux_boot.h"

#include <elf.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <random>

namespace kvmport::vmm {
namespace {

namespace fs = std::filesystem;
using Mode = StartState::Mode;

constexpr std::uint64_t mib = 1U << 20, memory_size = 64 * mib;

/// A number in a file.
struct Field {
  std::size_t at;
  unsigned size;
  std::uint64_t value;
};

void set(std::string& file, const std::vector<Field>& fields) {
  for (const Field& field : fields)
    for (unsigned i = 0; i < field.size; i++)
      file.at(field.at + i) = static_cast<char>(field.value >> 8 * i);
}

/// One setup sector, a kernel of 1,024 bytes 'k' that wants 2 MiB at 16 MiB. Offsets: boot.rst.
std::string bzimage(const std::vector<Field>& changes = {}) {
  std::string file = std::string(1024, '\0') + std::string(1024, 'k');
  set(file, {{0x1f1, 1, 1},
             {0x1f4, 4, 64},
             {0x1fe, 2, 0xaa55},
             {0x200, 2, 0x66eb},
             {0x202, 4, 0x53726448},
             {0x206, 2, 0x020f},
             {0x211, 1, 1},
             {0x22c, 4, 0x7fffffff},
             {0x230, 4, 0x200000},
             {0x234, 1, 1},
             {0x236, 2, 1},
             {0x238, 4, 255},
             {0x250, 8, 0xbad},
             {0x258, 8, 16 * mib},
             {0x260, 4, 2 * mib}});
  set(file, changes);
  return file;
}

constexpr std::size_t phdr_at = 64, note_at = 0x200, text_at = 0x300, data_at = 0x400;
constexpr std::uint64_t pvh_at = 2 * mib + 0x40, entry_at = 2 * mib + 0x80;
constexpr std::size_t phdr(unsigned n, std::size_t offset) {
  return phdr_at + n * sizeof(Elf64_Phdr) + offset;
}

/// A note with a PVH entry, 0x100 bytes 't' at 2 MiB, and 0x100 bytes 'd' at 4 MiB that need 1 MiB.
std::string elf(const std::vector<Field>& changes = {}) {
  std::string file = std::string(text_at, '\0') + std::string(0x100, 't') + std::string(0x100, 'd');
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_type = ET_EXEC;
  header.e_machine = EM_X86_64;
  header.e_entry = entry_at;
  header.e_phoff = phdr_at;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = 3;
  std::memcpy(file.data(), &header, sizeof header);
  const Elf64_Phdr segments[] = {{PT_NOTE, 0, note_at, 0, 0, 44, 44, 4},
                                 {PT_LOAD, 0, text_at, 0, 2 * mib, 0x100, 0x100, 4096},
                                 {PT_LOAD, 0, data_at, 0, 4 * mib, 0x100, mib, 4096}};
  std::memcpy(file.data() + phdr_at, segments, sizeof segments);
  // GNU's note of one byte, of the same type; then Xen's.
  set(file, {{note_at, 4, 4}, {note_at + 4, 4, 1}, {note_at + 8, 4, 18}, {note_at + 12, 4, 0x00554e47}});
  set(file, {{note_at + 20, 4, 4}, {note_at + 24, 4, 8}, {note_at + 28, 4, 18}, {note_at + 32, 4, 0x006e6558}});
  set(file, {{note_at + 36, 8, pvh_at}});
  set(file, changes);
  return file;
}
constexpr std::size_t note_name_size = note_at + 20, note_value_size = note_at + 24, note_type = note_at + 28,
                      note_value = note_at + 36;

std::string code_of(const LinuxImages& images, std::uint64_t size = memory_size) {
  const GuestMemory memory(size);
  try {
    load_linux(images, 0, memory);
  } catch (const Error& error) {
    EXPECT_FALSE(error.summary().empty());
    return error.code();
  }
  return "";
}

std::string text_at_address(const GuestMemory& memory, std::uint64_t at, std::size_t size) {
  return std::string(as_text(memory.slice(at, size).value()));
}

template <typename T> T number(const GuestMemory& memory, std::uint64_t at) {
  return memory.load<T>(at).value();
}

/// Flat segments of the mode, and in long mode tables that map the first 4 GiB to themselves.
void expect_mode(const StartState& start, Mode mode, const GuestMemory& memory) {
  EXPECT_EQ(start.mode, mode);
  EXPECT_EQ(number<std::uint64_t>(memory, start.gdt + 0x10),
            mode == Mode::long64 ? 0x00af9b000000ffffU : 0x00cf9b000000ffffU);
  EXPECT_EQ(number<std::uint64_t>(memory, start.gdt + 0x18), 0x00cf93000000ffffU);
  for (const std::uint64_t address : {std::uint64_t{0}, 3 * mib, std::uint64_t{0xfee00000}}) {
    const auto entry = [&](std::uint64_t table, unsigned shift) {
      return number<std::uint64_t>(memory, (table & ~std::uint64_t{0xfff}) + (address >> shift & 0x1ff) * 8);
    };
    const std::uint64_t page = entry(entry(entry(start.cr3, 39), 30), 21);
    EXPECT_EQ(page, (address & ~(2 * mib - 1)) | 0x83);
  }
}

struct Region {
  std::uint64_t at, length;
  std::uint32_t type;
  bool operator==(const Region&) const = default;
};
const std::vector<Region> expected_map{
    {0, 0x9fc00, 1}, {0x9fc00, 0x60400, 2}, {mib, 63 * mib, 1}, {0xfeffc000, 0x4000, 2}};

std::vector<Region> map_at(const GuestMemory& memory, std::uint64_t at, unsigned entries, unsigned entry_size) {
  std::vector<Region> map;
  for (unsigned i = 0; i < entries; i++, at += entry_size)
    map.push_back({number<std::uint64_t>(memory, at), number<std::uint64_t>(memory, at + 8),
                   number<std::uint32_t>(memory, at + 16)});
  return map;
}

void expect_zero_page(const StartState& start, const GuestMemory& memory, const LinuxImages& images,
                      std::uint64_t initrd_end) {
  const std::uint64_t page = start.regs.rsi;
  EXPECT_EQ(number<std::uint32_t>(memory, page + 0x202), 0x53726448U);
  EXPECT_EQ(number<std::uint8_t>(memory, page + 0x210), 0xffU) << "type_of_loader";
  EXPECT_EQ(number<std::uint64_t>(memory, page + 0x250), 0U) << "setup_data";
  EXPECT_EQ(number<std::uint64_t>(memory, page + 0x70), 0xe0000U) << "acpi_rsdp_addr";
  const std::uint64_t initrd = number<std::uint32_t>(memory, page + 0x218);
  EXPECT_EQ(initrd % 4096, 0U);
  EXPECT_LE(initrd + images.initrd.size(), initrd_end);
  EXPECT_GT(initrd + images.initrd.size() + 4096, initrd_end) << "as high as it may be";
  EXPECT_EQ(number<std::uint32_t>(memory, page + 0x21c), images.initrd.size());
  EXPECT_EQ(text_at_address(memory, initrd, images.initrd.size()), images.initrd);
  EXPECT_EQ(text_at_address(memory, number<std::uint32_t>(memory, page + 0x228), images.command_line.size() + 1),
            images.command_line + '\0');
  EXPECT_EQ(map_at(memory, page + 0x2d0, number<std::uint8_t>(memory, page + 0x1e8), 20), expected_map);
}

TEST(LinuxBoot, BzImageLiesWhereItPrefersToAndIsToldTheRest) {
  const GuestMemory memory(memory_size);
  const LinuxImages images{bzimage(), std::string(5000, 'i'), "console=ttyS0"};
  const StartState start = load_linux(images, 0xe0000, memory);
  expect_mode(start, Mode::long64, memory);
  EXPECT_EQ(start.regs.rip, 16 * mib + 0x200);
  EXPECT_EQ(text_at_address(memory, 16 * mib, 1024), std::string(1024, 'k'));
  EXPECT_EQ(number<std::uint8_t>(memory, 16 * mib + 1024), 0U);
  EXPECT_EQ(number<std::uint32_t>(memory, start.regs.rsi + 0x214), 16 * mib) << "code32_start";
  expect_zero_page(start, memory, images, memory_size);
}

TEST(LinuxBoot, InitrdStaysBelowTheKernelsLimit) {
  const GuestMemory memory(memory_size);
  const LinuxImages images{bzimage({{0x22c, 4, 32 * mib - 1}}), std::string(5000, 'i'), ""};
  expect_zero_page(load_linux(images, 0xe0000, memory), memory, images, 32 * mib);
}

TEST(LinuxBoot, OldBzImageIsEnteredIn32Bits) {
  const GuestMemory memory(memory_size);
  const StartState start = load_linux({bzimage({{0x206, 2, 0x020a}, {0x236, 2, 0}}), "", ""}, 0, memory);
  expect_mode(start, Mode::protected32, memory);
  EXPECT_EQ(start.regs.rip, 16 * mib);
}

TEST(LinuxBoot, RelocatableBzImageGivesWay) {
  const GuestMemory memory(8 * mib);
  EXPECT_EQ(load_linux({bzimage(), "", ""}, 0, memory).regs.rip, 2 * mib + 0x200)
      << "the first aligned place from 1 MiB on";
  EXPECT_EQ(code_of({bzimage({{0x234, 1, 0}}), "", ""}, 8 * mib), "KERNEL_TOO_LARGE");
}

TEST(LinuxBoot, HeaderOfTheFileEndsWhereItSays) {
  const GuestMemory memory(memory_size);
  const StartState start = load_linux({bzimage({{0x201, 1, 0x62}, {0x264, 8, ~std::uint64_t{0}}}), "", ""}, 0, memory);
  EXPECT_EQ(number<std::uint64_t>(memory, start.regs.rsi + 0x264), 0U) << "what follows is code";
}

TEST(LinuxBoot, PvhKernelGetsAStartInfo) {
  const GuestMemory memory(memory_size);
  const StartState start = load_linux({elf(), "initrd", "quiet"}, 0xe0000, memory);
  expect_mode(start, Mode::protected32, memory);
  EXPECT_EQ(start.regs.rip, pvh_at);
  EXPECT_EQ(text_at_address(memory, 2 * mib, 0x100), std::string(0x100, 't'));
  EXPECT_EQ(text_at_address(memory, 4 * mib, 0x101), std::string(0x100, 'd') + '\0');
  const std::uint64_t info = start.regs.rbx;
  EXPECT_EQ(number<std::uint32_t>(memory, info), 0x336ec578U);
  EXPECT_EQ(number<std::uint32_t>(memory, info + 4), 1U) << "version";
  ASSERT_EQ(number<std::uint32_t>(memory, info + 12), 1U) << "modules";
  const auto module = number<std::uint64_t>(memory, info + 16);
  EXPECT_EQ(number<std::uint64_t>(memory, module + 8), 6U);
  EXPECT_EQ(text_at_address(memory, number<std::uint64_t>(memory, module), 6), "initrd");
  EXPECT_EQ(text_at_address(memory, number<std::uint64_t>(memory, info + 24), 6), std::string("quiet") + '\0');
  EXPECT_EQ(number<std::uint64_t>(memory, info + 32), 0xe0000U);
  EXPECT_EQ(map_at(memory, number<std::uint64_t>(memory, info + 40), number<std::uint32_t>(memory, info + 48), 24),
            expected_map);
}

TEST(LinuxBoot, PvhEntryMayHave32Bits) {
  const GuestMemory memory(memory_size);
  const auto file = elf({{note_value_size, 4, 4}, {note_value + 4, 4, 0}, {phdr(0, 32), 8, 40}});
  EXPECT_EQ(load_linux({file, "", ""}, 0, memory).regs.rip, pvh_at);
}

TEST(LinuxBoot, VmlinuxWithoutPvhGetsAZeroPage) {
  const GuestMemory memory(memory_size);
  const LinuxImages images{elf({{note_type, 4, 17}}), std::string(5000, 'i'), "quiet"};
  const StartState start = load_linux(images, 0xe0000, memory);
  expect_mode(start, Mode::long64, memory);
  EXPECT_EQ(start.regs.rip, entry_at);
  expect_zero_page(start, memory, images, memory_size);
}

struct Bad {
  const char* name;
  bool is_elf;
  std::vector<Field> changes;
  const char* code = "KERNEL_IMAGE_INVALID";
  std::size_t initrd = 0, command_line = 0;
};

class BadKernel : public testing::TestWithParam<Bad> {};

TEST_P(BadKernel, IsRefused) {
  const Bad& bad = GetParam();
  const std::string kernel = bad.is_elf ? elf(bad.changes) : bzimage(bad.changes);
  EXPECT_EQ(code_of({kernel, std::string(bad.initrd, 'i'), std::string(bad.command_line, 'c')}), bad.code);
}

constexpr std::uint64_t huge = ~std::uint64_t{0};
constexpr const char* too_large = "KERNEL_TOO_LARGE";

INSTANTIATE_TEST_SUITE_P(
    BzImage, BadKernel,
    testing::Values(Bad{"boot_flag", false, {{0x1fe, 2, 0}}}, Bad{"magic", false, {{0x202, 4, 0}}},
                    Bad{"protocol", false, {{0x206, 2, 0x0209}}}, Bad{"zimage", false, {{0x211, 1, 0}}},
                    Bad{"short_header", false, {{0x201, 1, 0x61}}}, Bad{"setup_sectors", false, {{0x1f1, 1, 3}}},
                    Bad{"default_setup_sectors", false, {{0x1f1, 1, 0}}}, Bad{"size", false, {{0x1f4, 4, 65}}},
                    Bad{"largest_size", false, {{0x1f4, 4, huge}}},
                    Bad{"fixed_below_1m", false, {{0x234, 1, 0}, {0x258, 8, mib - 1}}},
                    Bad{"fixed_behind_memory", false, {{0x234, 1, 0}, {0x258, 8, huge}}, too_large},
                    Bad{"init_size", false, {{0x260, 4, huge}}, too_large},
                    Bad{"init_size_one_too_much", false, {{0x234, 1, 0}, {0x260, 4, 48 * mib + 1}}, too_large},
                    Bad{"alignment", false, {{0x258, 8, 0}, {0x230, 4, 3 * mib}}},
                    Bad{"no_alignment", false, {{0x258, 8, 0}, {0x230, 4, 0}}},
                    Bad{"largest_alignment", false, {{0x258, 8, 0}, {0x230, 4, 0x80000000}}, too_large},
                    Bad{"no_64_bit_entry", false, {{0x1f1, 1, 2}, {0x1f4, 4, 1}}},
                    Bad{"initrd", false, {}, "INITRD_TOO_LARGE", 46 * mib + 1},
                    Bad{"initrd_limit", false, {{0x22c, 4, 17 * mib}}, "INITRD_TOO_LARGE", 1},
                    Bad{"no_place_for_an_initrd", false, {{0x22c, 4, 0}}, "INITRD_TOO_LARGE", 1},
                    Bad{"command_line", false, {}, "COMMAND_LINE_TOO_LONG", 0, 256},
                    Bad{"no_command_line", false, {{0x238, 4, 0}}, "COMMAND_LINE_TOO_LONG", 0, 1},
                    Bad{"our_own_limit", false, {{0x238, 4, huge}}, "COMMAND_LINE_TOO_LONG", 0, 0x10000}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Elf, BadKernel,
    testing::Values(
        Bad{"class", true, {{EI_CLASS, 1, 1}}}, Bad{"byte_order", true, {{EI_DATA, 1, 2}}},
        Bad{"shared", true, {{16, 2, ET_DYN}}}, Bad{"machine", true, {{18, 2, EM_386}}},
        Bad{"headers_offset", true, {{32, 8, huge}}}, Bad{"headers_behind_end", true, {{32, 8, 0x4f0}}},
        Bad{"header_size", true, {{54, 2, 32}}}, Bad{"header_count", true, {{56, 2, 0xffff}}},
        Bad{"no_headers", true, {{56, 2, 0}}}, Bad{"offset", true, {{phdr(1, 8), 8, huge}}},
        Bad{"file_size", true, {{phdr(2, 32), 8, 0x101}}}, Bad{"largest_file_size", true, {{phdr(2, 32), 8, huge}}},
        Bad{"memory_below_file_size", true, {{phdr(2, 40), 8, 0xff}}},
        Bad{"memory_size", true, {{phdr(2, 40), 8, huge}}, too_large},
        Bad{"one_byte_too_much", true, {{phdr(2, 40), 8, 60 * mib + 1}}, too_large},
        Bad{"address", true, {{phdr(2, 24), 8, huge}}, too_large}, Bad{"below_1m", true, {{phdr(2, 24), 8, mib - 1}}},
        Bad{"overlap", true, {{phdr(2, 24), 8, 2 * mib + 0xff}}},
        Bad{"overlap_from_below", true, {{phdr(2, 24), 8, mib + 1}}}, Bad{"note_offset", true, {{phdr(0, 8), 8, huge}}},
        Bad{"note_size", true, {{phdr(0, 32), 8, 43}}}, Bad{"note_name", true, {{note_name_size, 4, huge}}},
        Bad{"note_value", true, {{note_value_size, 4, huge}}},
        Bad{"note_value_of_2_bytes", true, {{note_value_size, 4, 2}}},
        Bad{"pvh_entry", true, {{note_value, 8, 2 * mib + 0x100}}},
        Bad{"entry", true, {{note_type, 4, 1}, {24, 8, 2 * mib - 1}}},
        Bad{"initrd", true, {}, "INITRD_TOO_LARGE", 59 * mib + 1},
        Bad{"command_line", true, {}, "COMMAND_LINE_TOO_LONG", 0, 2048}),
    [](const auto& info) { return info.param.name; });

TEST(LinuxBoot, CutOffFilesAreRefused) {
  const std::string whole = bzimage();
  for (std::size_t size = 0; size < whole.size() - 15; size += 13) // syssize counts 16 bytes
    ASSERT_EQ(code_of({whole.substr(0, size), "", ""}), "KERNEL_IMAGE_INVALID") << size;
  const std::string vmlinux = elf();
  for (std::size_t size = 0; size < vmlinux.size(); size += 13)
    ASSERT_EQ(code_of({vmlinux.substr(0, size), "", ""}), "KERNEL_IMAGE_INVALID") << size;
}

/// Whatever a file says, it is loaded into the guest's memory or refused.
TEST(LinuxBoot, DamagedFilesAreLoadedOrRefused) {
  std::mt19937 random(1);
  for (unsigned round = 0; round < 4000; round++) {
    std::string file = round % 2 == 0 ? bzimage() : elf();
    const std::size_t from = round % 2 == 0 ? 0x1f1 : 0, length = round % 2 == 0 ? 0x77 : text_at;
    for (unsigned i = 0; i <= round % 3; i++)
      file[from + random() % length] = static_cast<char>(random());
    EXPECT_THAT(code_of({file, "initrd", "quiet"}), testing::AnyOf("", "KERNEL_IMAGE_INVALID", "KERNEL_TOO_LARGE",
                                                                   "INITRD_TOO_LARGE", "COMMAND_LINE_TOO_LONG"));
  }
}

TEST(LinuxBoot, KernelsOfThisHost) {
  unsigned seen = 0;
  for (const auto& entry : fs::directory_iterator("/boot")) {
    if (!entry.path().filename().string().starts_with("vmlinuz-"))
      continue;
    seen++;
    const LinuxImages images = read_linux_images({entry.path(), {}, "console=ttyS0"});
    const auto header = as_bytes(images.kernel);
    const GuestMemory memory(256 * mib);
    const StartState start = load_linux(images, 0, memory);
    expect_mode(start, Mode::long64, memory);
    const auto prefers = load_le<std::uint64_t>(header, 0x258);
    EXPECT_EQ(start.regs.rip, prefers + 0x200);
    const std::size_t setup = (load_le<std::uint8_t>(header, 0x1f1) + std::size_t{1}) * 512;
    EXPECT_EQ(text_at_address(memory, prefers, images.kernel.size() - setup), images.kernel.substr(setup));
    EXPECT_EQ(number<std::uint32_t>(memory, start.regs.rsi + 0x260), load_le<std::uint32_t>(header, 0x260))
        << "init_size";
  }
  if (seen == 0)
    GTEST_SKIP() << "no real kernel was loaded: there is none in /boot";
}

TEST(LinuxBoot, MissingFilesAreNamed) {
  try {
    read_linux_images({"/nonexistent/vmlinuz", {}, {}});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "NOT_FOUND");
    EXPECT_THAT(error.summary(), testing::HasSubstr("/nonexistent/vmlinuz"));
  }
}

} // namespace
} // namespace kvmport::vmm
