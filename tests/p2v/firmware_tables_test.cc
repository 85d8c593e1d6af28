// SPDX-License-Identifier: Apache-2.0
// SMBIOS tables and EFI load options made here, byte by byte, whole, cut short and damaged.
#include "libconvert/p2v/efi_variables.h"
#include "libconvert/p2v/smbios.h"

#include <gmock/gmock.h>
#include <random>

namespace kvmport {
namespace {

/// One structure: the formatted bytes behind the header, then the strings.
std::string structure(unsigned type, unsigned handle, const std::string& formatted,
                      const std::vector<std::string>& strings = {}) {
  std::string out = {static_cast<char>(type), static_cast<char>(formatted.size() + 4), static_cast<char>(handle),
                     static_cast<char>(handle >> 8)};
  out += formatted;
  for (const std::string& text : strings)
    out += text + '\0';
  return out + (strings.empty() ? std::string(2, '\0') : std::string(1, '\0'));
}

template <class T> std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

std::string system_structure() {
  std::string uuid;
  for (char c = 0; c < 16; c++)
    uuid += c;
  return structure(1, 1, std::string("\1\2\3\4", 4) + uuid + std::string("\6\5\6", 3),
                   {"Maker", "Box", "v1", " SN-1 ", "SKU\n2", "Family"});
}

/// A Memory Device of version 3.2 or later: size field, extended size, technology, volatile size.
std::string module_structure(unsigned array, std::uint16_t size, std::uint32_t extended = 0,
                             std::uint8_t technology = 3, std::uint64_t volatile_size = 0) {
  std::string formatted(0x54 - 4, '\0');
  const auto put = [&](std::size_t at, const std::string& bytes) { formatted.replace(at - 4, bytes.size(), bytes); };
  put(0x04, raw(static_cast<std::uint16_t>(array)));
  put(0x0c, raw(size));
  put(0x1c, raw(extended));
  put(0x28, raw(technology));
  put(0x3c, raw(volatile_size));
  return structure(17, 0x1100, formatted);
}

std::string array_structure(unsigned handle, unsigned use) {
  return structure(16, handle, std::string{3, static_cast<char>(use), 3} + std::string(8, '\0'));
}

SmbiosSummary summary_of(const std::string& table, const std::string& entry_point = "") {
  return summarize_smbios(as_bytes(entry_point), as_bytes(table));
}

TEST(Smbios, SystemIsRead) {
  const SmbiosSummary summary = summary_of(system_structure() + structure(127, 9, ""));
  EXPECT_EQ(summary.identity.manufacturer, "Maker");
  EXPECT_EQ(summary.identity.serial, "SN-1");
  EXPECT_EQ(summary.identity.sku, "SKU 2");
  EXPECT_EQ(summary.identity.family, "Family");
  EXPECT_EQ(summary.uuid, "03020100-0504-0706-0809-0a0b0c0d0e0f");
}

TEST(Smbios, UuidsOfOldVersionsAreBigEndian) {
  const std::string old("_SM_\0\x1f\2\5\0\0", 10), newer("_SM_\0\x1f\2\6\0\0", 10);
  EXPECT_EQ(summary_of(system_structure(), old).uuid, "00010203-0405-0607-0809-0a0b0c0d0e0f");
  EXPECT_EQ(summary_of(system_structure(), newer).uuid, "03020100-0504-0706-0809-0a0b0c0d0e0f");
  EXPECT_EQ(summary_of(structure(1, 1, std::string(4, '\0') + std::string(16, '\xff'))).uuid, "");
  EXPECT_EQ(summary_of(structure(1, 1, std::string(4, '\0') + std::string(16, '\0'))).uuid, "");
}

TEST(Smbios, FirstStructureOfATypeCounts) {
  EXPECT_EQ(summary_of(system_structure() + structure(1, 2, "\1", {"Blade"})).identity.manufacturer, "Maker");
}

TEST(Smbios, ChassisSkuLiesBehindItsElements) {
  // Two contained elements of three bytes.
  std::string formatted =
      std::string("\1\3\2\3\4", 5) + std::string(10, '\0') + std::string("\2\3", 2) + std::string(6, '\x7f') + "\5";
  const MachineSmbios id = summary_of(structure(3, 3, formatted, {"Maker", "v", "SN", "ASSET", "SKU"})).identity;
  EXPECT_EQ(id.chassis_serial, "SN");
  EXPECT_EQ(id.chassis_asset, "ASSET");
  EXPECT_EQ(id.chassis_sku, "SKU");
}

TEST(Smbios, MemoryIsTheSumOfItsModules) {
  constexpr std::uint64_t mebi = 1U << 20, gibi = 1U << 30;
  struct Case {
    const char* name;
    std::string table;
    std::uint64_t memory;
    bool complete;
  };
  const Case cases[] = {
      {"two and an empty slot",
       array_structure(5, 3) + module_structure(5, 16384) + module_structure(5, 8192) + module_structure(5, 0),
       24 * gibi, true},
      {"in kibibytes", module_structure(5, 0x8000 | 512), mebi / 2, true},
      {"extended size", module_structure(5, 0x7fff, 65536), 64 * gibi, true},
      {"unknown size", module_structure(5, 0xffff) + module_structure(5, 1024), gibi, false},
      {"flash and video memory don't count",
       array_structure(5, 3) + array_structure(6, 5) + module_structure(5, 1024) + module_structure(6, 64), gibi, true},
      {"persistent memory counts as far as it is used as memory",
       module_structure(5, 1024) + module_structure(5, 0x7fff, 131072, 7, 2 * gibi), 3 * gibi, true},
      {"persistent memory that isn't", module_structure(5, 1024) + module_structure(5, 0x7fff, 131072, 7, 0), gibi,
       true},
      {"a sum that does not fit", module_structure(5, 1, 0, 7, ~std::uint64_t{1}) + module_structure(5, 1024),
       ~std::uint64_t{1}, true},
      {"a short structure of an old version", structure(17, 1, std::string(8, '\0') + raw(std::uint16_t{256})),
       256 * mebi, true},
  };
  for (const Case& c : cases) {
    const SmbiosSummary summary = summary_of(c.table);
    EXPECT_EQ(summary.memory, c.memory) << c.name;
    EXPECT_EQ(summary.memory_complete, c.complete) << c.name;
  }
}

TEST(Smbios, DamagedTablesGiveWhatStandsBeforeTheDamage) {
  const std::string table = structure(0, 0, "\1\2", {"Vendor", "1.0"}) + system_structure() + module_structure(5, 1024);
  for (std::size_t length = 0; length <= table.size(); length++) {
    const SmbiosSummary summary = summary_of(table.substr(0, length));
    EXPECT_TRUE(summary.bios_vendor.empty() || summary.bios_vendor == "Vendor");
    EXPECT_EQ(summary.memory != 0, length + 1 >= table.size()) << "one NUL is enough where no string stands";
  }
  std::mt19937 random(1);
  for (int i = 0; i < 20000; i++) {
    std::string damaged = table;
    for (int hit = 0; hit < 3; hit++)
      damaged[random() % damaged.size()] = static_cast<char>(random());
    summary_of(damaged);
  }
  EXPECT_EQ(parse_smbios(as_bytes(std::string("\1\3\0\0\0\0", 6))).size(), 0U) << "shorter than its header";
  EXPECT_EQ(parse_smbios(as_bytes(std::string("\1\5\0\0\1no end", 11))).size(), 0U);
}

std::string utf16(const std::string& text) {
  std::string out;
  for (const char c : text)
    out += std::string{c, '\0'};
  return out + std::string(2, '\0');
}

std::string node(unsigned type, unsigned subtype, const std::string& data) {
  return std::string{static_cast<char>(type), static_cast<char>(subtype)} +
         raw(static_cast<std::uint16_t>(data.size() + 4)) + data;
}

std::string option(unsigned attributes, const std::string& description, const std::string& path) {
  return raw(static_cast<std::uint32_t>(attributes)) + raw(static_cast<std::uint16_t>(path.size())) +
         utf16(description) + path + "optional data";
}

FirmwareBootOption parsed(const std::string& bytes) {
  return parse_boot_option(7, as_bytes(bytes));
}

TEST(BootOption, KindsAreToldByDevicePaths) {
  const std::string acpi = node(2, 1, std::string(8, '\0')), end = node(0x7f, 0xff, "");
  struct Case {
    const char* kind;
    std::string path;
  };
  const Case cases[] = {
      {"network", acpi + node(3, 11, std::string(33, '\0')) + node(3, 12, std::string(23, '\0'))},
      {"usb", acpi + node(3, 5, "\1\2")},
      {"disk", acpi + node(3, 18, std::string(6, '\0'))},
      {"firmware", node(4, 7, std::string(16, '\1')) + node(4, 6, std::string(16, '\1'))},
      {"legacy", node(5, 1, std::string(5, '\0'))},
      {"other", acpi},
      {"other", ""},
  };
  for (const Case& c : cases)
    EXPECT_EQ(parsed(option(1, "x", c.path + end)).kind, c.kind);
}

TEST(BootOption, PartitionAndFileAreRead) {
  std::string drive = raw(1U) + raw(std::uint64_t{2048}) + raw(std::uint64_t{4096});
  for (char c = 0; c < 16; c++)
    drive += c;
  const std::string file = node(4, 4, utf16("\\EFI\\x.efi"));
  const FirmwareBootOption gpt = parsed(option(1, "Linux", node(4, 1, drive + "\2\2") + file));
  EXPECT_EQ(gpt.number, 7);
  EXPECT_TRUE(gpt.active);
  EXPECT_EQ(gpt.description, "Linux");
  EXPECT_EQ(gpt.partition, "03020100-0504-0706-0809-0a0b0c0d0e0f");
  EXPECT_EQ(gpt.file, "\\EFI\\x.efi");
  const FirmwareBootOption mbr = parsed(option(0, "Old", node(4, 1, drive + "\1\1")));
  EXPECT_FALSE(mbr.active);
  EXPECT_EQ(mbr.partition, "");
}

TEST(BootOption, DamageEndsTheReading) {
  std::string drive(38, '\2');
  const std::string whole = option(1, "Linux", node(4, 1, drive) + node(4, 4, utf16("\\x")) + node(0x7f, 0xff, ""));
  for (std::size_t length = 0; length <= whole.size(); length++)
    parsed(whole.substr(0, length));
  std::mt19937 random(2);
  for (int i = 0; i < 20000; i++) {
    std::string damaged = whole;
    damaged[random() % damaged.size()] = static_cast<char>(random());
    parsed(damaged);
  }
  EXPECT_EQ(parsed(option(1, "x", std::string("\4\1\0\0", 4))).kind, "other") << "a node of no length";
  EXPECT_THAT(parse_boot_order(as_bytes(std::string("\1\0\2\0\3", 5))), testing::ElementsAre(1, 2));
}

} // namespace
} // namespace kvmport
