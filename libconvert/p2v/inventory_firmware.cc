// SPDX-License-Identifier: Apache-2.0
// Firmware and its tables: /sys/firmware/efi (efivarfs: four bytes of attributes before each variable's data),
// /sys/firmware/dmi/tables, /sys/firmware/memmap.
#include "libconvert/machine/text.h"
#include "libconvert/p2v/efi_variables.h"
#include "libconvert/p2v/inventory_parts.h"
#include "libconvert/p2v/smbios.h"

#include <algorithm>
#include <charconv>
#include <fmt/format.h>

namespace kvmport::inventory_parts {
namespace {

/// Of the variables that the UEFI specification defines.
constexpr std::string_view global_guid = "-8be4df61-93ca-11d2-aa0d-00e098032b8c";
constexpr const char* variables = "/sys/firmware/efi/efivars/";

/// The data of a global variable; empty: not there.
Bytes variable(const SysTree& tree, const std::string& name) {
  Bytes raw = tree.bytes(variables + name + std::string(global_guid));
  raw.erase(raw.begin(), raw.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(4, raw.size())));
  return raw;
}

std::optional<bool> flag_variable(const SysTree& tree, const std::string& name) {
  const Bytes data = variable(tree, name);
  return data.empty() ? std::nullopt : std::optional(data[0] == std::byte{1});
}

/// The number of "Boot0003-GUID".
std::optional<std::uint16_t> boot_number(std::string_view name) {
  if (name.size() != 8 + global_guid.size() || !name.starts_with("Boot") || !name.ends_with(global_guid))
    return std::nullopt;
  std::uint16_t number = 0;
  const auto [end, ec] = std::from_chars(name.data() + 4, name.data() + 8, number, 16);
  return ec == std::errc() && end == name.data() + 8 ? std::optional(number) : std::nullopt;
}

void read_boot_options(const SysTree& tree, FirmwareInventory& firmware) {
  firmware.boot_order = parse_boot_order(variable(tree, "BootOrder"));
  if (const Bytes current = variable(tree, "BootCurrent"); current.size() >= 2)
    firmware.boot_current = load_le<std::uint16_t>(current, 0);
  for (const std::string& name : tree.list(variables))
    if (const auto number = boot_number(name))
      firmware.boot_options.push_back(parse_boot_option(*number, variable(tree, name.substr(0, 8))));
  const auto place = [&](std::uint16_t number) {
    return std::find(firmware.boot_order.begin(), firmware.boot_order.end(), number) - firmware.boot_order.begin();
  };
  std::stable_sort(firmware.boot_options.begin(), firmware.boot_options.end(),
                   [&](const auto& a, const auto& b) { return place(a.number) < place(b.number); });
}

/// Bytes of memory that the firmware's map gives to the system, to the next mebibyte (the legacy video area and a few
/// tables lie between); 0: no map.
std::uint64_t memory_map_size(const SysTree& tree) {
  std::uint64_t sum = 0;
  for (const std::string& entry : tree.list("/sys/firmware/memmap")) {
    const std::string at = "/sys/firmware/memmap/" + entry, type = tree.word(at + "/type");
    const auto start = tree.hex(at + "/start"), end = tree.hex(at + "/end");
    if ((type == "System RAM" || type.starts_with("ACPI ")) && start && end && *end >= *start)
      sum += *end - *start + 1;
  }
  constexpr std::uint64_t mebi = 1U << 20;
  return sum > ~std::uint64_t{0} - mebi ? 0 : round_up(sum, mebi);
}

/// MemTotal of /proc/meminfo, in bytes.
std::uint64_t usable_memory(const SysTree& tree) {
  const std::string text = tree.word("/proc/meminfo");
  constexpr std::string_view key = "MemTotal:";
  const std::size_t at = text.find(key);
  if (at == std::string::npos)
    return 0;
  std::string_view line = std::string_view(text).substr(at + key.size());
  line = trimmed(line.substr(0, line.find('\n')));
  if (line.ends_with(" kB"))
    line.remove_suffix(3);
  return multiplied(parse_number(line).value_or(0), 1024).value_or(0);
}

std::string mebibytes(std::uint64_t bytes) {
  return fmt::format("{} MiB", bytes >> 20);
}

/// The first source that agrees with what the kernel sees.
void choose_memory(const SysTree& tree, const SmbiosSummary& smbios, Inventory& inventory) {
  MemoryInventory& memory = inventory.memory;
  memory.usable = usable_memory(tree);
  memory.modules = smbios.modules;
  const std::uint64_t map = memory_map_size(tree);
  const std::uint64_t seen = map != 0 ? map : memory.usable;
  // Mirrored or spare modules are installed but not seen. What firmware, video and crash kernels take is far less.
  const bool plausible = smbios.memory_complete && smbios.memory >= seen && smbios.memory - smbios.memory / 4 <= seen;
  if (smbios.memory != 0 && (plausible || seen == 0)) {
    memory.size = smbios.memory;
    memory.source = MemoryInventory::Source::smbios;
    return;
  }
  if (smbios.memory != 0 && smbios.memory_complete)
    inventory.notes.push_back(
        fmt::format("{} of memory are installed, but the system sees {}: mirrored or reserved; the "
                    "guest gets what the system sees",
                    mebibytes(smbios.memory), mebibytes(seen)));
  memory.size = seen;
  memory.source = map != 0             ? MemoryInventory::Source::memmap
                  : memory.usable != 0 ? MemoryInventory::Source::meminfo
                                       : MemoryInventory::Source::none;
  if (memory.source == MemoryInventory::Source::meminfo)
    inventory.notes.push_back("how much memory is installed can't be read: the size is what the kernel can use, which "
                              "is less");
}

/// What the kernel itself shows of SMBIOS, where its tables can't be read.
void read_dmi_class(const SysTree& tree, SmbiosSummary& summary) {
  const auto get = [&](const char* name) { return tree.word(std::string("/sys/class/dmi/id/") + name); };
  MachineSmbios& id = summary.identity;
  id = {get("sys_vendor"),      get("product_name"),   get("product_version"),   get("product_serial"),
        get("product_sku"),     get("product_family"), get("board_vendor"),      get("board_name"),
        get("board_version"),   get("board_serial"),   get("board_asset_tag"),   get("chassis_vendor"),
        get("chassis_version"), get("chassis_serial"), get("chassis_asset_tag"), {}};
  const std::string uuid = get("product_uuid");
  summary.uuid = lower(uuid) == "ffffffff-ffff-ffff-ffff-ffffffffffff" ? "" : parse_uuid(uuid).value_or("");
  summary.bios_vendor = get("bios_vendor");
  summary.bios_version = get("bios_version");
  summary.bios_date = get("bios_date");
}

} // namespace

void read_firmware(const SysTree& tree, Inventory& inventory) {
  FirmwareInventory& firmware = inventory.firmware;
  if (!tree.exists("/sys/firmware/efi"))
    return;
  firmware.kind = tree.number("/sys/firmware/efi/fw_platform_size") == 32 ? FirmwareInventory::Kind::uefi32
                                                                          : FirmwareInventory::Kind::uefi64;
  firmware.secure_boot = flag_variable(tree, "SecureBoot");
  firmware.setup_mode = flag_variable(tree, "SetupMode");
  read_boot_options(tree, firmware);
  if (tree.list(variables).empty())
    inventory.notes.push_back("the UEFI variables can't be read (efivarfs is not mounted): Secure Boot and the boot "
                              "entries are unknown");
  if (firmware.kind == FirmwareInventory::Kind::uefi32)
    inventory.notes.push_back("the firmware is 32-bit UEFI and KVM's is 64-bit: the guest needs a 64-bit boot loader");
}

void read_smbios(const SysTree& tree, Inventory& inventory) {
  const Bytes table = tree.bytes("/sys/firmware/dmi/tables/DMI");
  SmbiosSummary summary = summarize_smbios(tree.bytes("/sys/firmware/dmi/tables/smbios_entry_point"), table);
  if (table.empty())
    read_dmi_class(tree, summary);
  inventory.smbios = summary.identity;
  inventory.uuid = summary.uuid;
  inventory.bios_vendor = summary.bios_vendor;
  inventory.bios_version = summary.bios_version;
  inventory.bios_date = summary.bios_date;
  if (table.empty() && tree.exists("/sys/firmware/dmi/tables/DMI"))
    inventory.notes.push_back("the SMBIOS tables can be read by root only: UUID and serial numbers may be missing");
  choose_memory(tree, summary, inventory);
}

} // namespace kvmport::inventory_parts
