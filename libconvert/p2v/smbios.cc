// SPDX-License-Identifier: Apache-2.0
// Numbers of chapters are those of DSP0134 3.7.
#include "libconvert/p2v/smbios.h"

#include "libconvert/machine/text.h"

#include <algorithm>
#include <fmt/format.h>
#include <map>

namespace kvmport {
namespace {

constexpr std::size_t header_size = 4;

unsigned byte_at(ByteSpan bytes, std::size_t offset) {
  return std::to_integer<unsigned>(bytes[offset]);
}

/// The strings behind the formatted part (6.1.3) and where the next structure begins; nothing when the table ends
/// first.
std::optional<std::size_t> read_strings(ByteSpan table, std::size_t at, std::vector<std::string>& strings) {
  if (at + 1 < table.size() && byte_at(table, at) == 0 && byte_at(table, at + 1) == 0)
    return at + 2; // none at all
  while (at < table.size() && byte_at(table, at) != 0) {
    const auto end = std::find(table.begin() + static_cast<std::ptrdiff_t>(at), table.end(), std::byte{0});
    if (end == table.end())
      return std::nullopt;
    const auto stop = static_cast<std::size_t>(end - table.begin());
    strings.emplace_back(as_text(table.subspan(at, stop - at)));
    at = stop + 1;
  }
  return at < table.size() ? std::optional(at + 1) : std::nullopt;
}

/// 7.2.1: the first three fields are little-endian since version 2.6, as everything that reads them takes it.
std::string uuid_of(const SmbiosStructure& system, bool little_endian) {
  constexpr std::size_t offset = 0x08, size = 16;
  if (offset + size > system.formatted.size())
    return {};
  const ByteSpan raw = system.formatted.subspan(offset, size);
  if (std::all_of(raw.begin(), raw.end(), [](std::byte b) { return b == std::byte{0xff}; }))
    return {}; // "not present but can be set"
  constexpr std::size_t swapped[size] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
  std::string digits;
  for (std::size_t i = 0; i < size; i++)
    digits += fmt::format("{:02x}", byte_at(raw, little_endian ? swapped[i] : i));
  return parse_uuid(digits).value_or(std::string());
}

/// Whether the table's version is below 2.6 (5.2.1, 5.2.2).
bool before_2_6(ByteSpan entry_point) {
  const std::string_view anchor = as_text(entry_point);
  if (anchor.starts_with("_SM3_") || !anchor.starts_with("_SM_") || entry_point.size() < 8)
    return false;
  const unsigned major = byte_at(entry_point, 6), minor = byte_at(entry_point, 7);
  return major < 2 || (major == 2 && minor < 6);
}

/// Bytes of a Memory Device (7.18); 0: an empty slot, nothing: unknown.
std::optional<std::uint64_t> module_size(const SmbiosStructure& module) {
  constexpr std::uint64_t mebi = 1U << 20;
  const auto technology = module.field<std::uint8_t>(0x28);
  if (technology && *technology >= 4 && *technology <= 7) { // NVDIMMs and persistent memory: what works as memory
    const auto bytes = module.field<std::uint64_t>(0x3c);
    return !bytes || *bytes == ~std::uint64_t{0} ? std::nullopt : bytes;
  }
  const auto size = module.field<std::uint16_t>(0x0c);
  if (!size || *size == 0xffff)
    return std::nullopt;
  if (*size == 0x7fff) {
    const auto extended = module.field<std::uint32_t>(0x1c);
    return extended ? std::optional((*extended & 0x7fffffffU) * mebi) : std::nullopt;
  }
  return (*size & 0x8000U) != 0 ? (*size & 0x7fffU) * std::uint64_t{1024} : *size * mebi;
}

void add_memory(const std::vector<SmbiosStructure>& structures, SmbiosSummary& summary) {
  std::map<std::uint16_t, bool> system_memory; // by the handle of the array (7.17)
  for (const SmbiosStructure& s : structures)
    if (s.type == 16)
      system_memory[s.handle] = s.field<std::uint8_t>(0x05).value_or(3) == 3;
  for (const SmbiosStructure& s : structures) {
    if (s.type != 17)
      continue;
    const auto array = system_memory.find(s.field<std::uint16_t>(0x04).value_or(0xffff));
    if (array != system_memory.end() && !array->second)
      continue; // video, flash, cache
    const auto size = module_size(s);
    if (!size) {
      summary.memory_complete = false;
      continue;
    }
    std::uint64_t sum = 0;
    if (*size == 0 || __builtin_add_overflow(summary.memory, *size, &sum))
      continue;
    summary.memory = sum;
    summary.modules++;
  }
}

void add_identity(const SmbiosStructure& s, bool little_endian, SmbiosSummary& summary) {
  MachineSmbios& id = summary.identity;
  if (s.type == 0) { // 7.1
    summary.bios_vendor = s.text(0x04);
    summary.bios_version = s.text(0x05);
    summary.bios_date = s.text(0x08);
  } else if (s.type == 1) { // 7.2
    id.manufacturer = s.text(0x04);
    id.product = s.text(0x05);
    id.version = s.text(0x06);
    id.serial = s.text(0x07);
    id.sku = s.text(0x19);
    id.family = s.text(0x1a);
    summary.uuid = uuid_of(s, little_endian);
  } else if (s.type == 2) { // 7.3
    id.board_manufacturer = s.text(0x04);
    id.board_product = s.text(0x05);
    id.board_version = s.text(0x06);
    id.board_serial = s.text(0x07);
    id.board_asset = s.text(0x08);
  } else if (s.type == 3) { // 7.4
    id.chassis_manufacturer = s.text(0x04);
    id.chassis_version = s.text(0x06);
    id.chassis_serial = s.text(0x07);
    id.chassis_asset = s.text(0x08);
    const std::size_t elements = s.field<std::uint8_t>(0x13).value_or(0),
                      length = s.field<std::uint8_t>(0x14).value_or(0);
    id.chassis_sku = s.text(0x15 + elements * length);
  }
}

} // namespace

std::string SmbiosStructure::text(std::size_t offset) const {
  const std::size_t number = field<std::uint8_t>(offset).value_or(0);
  if (number == 0 || number > strings.size())
    return {};
  std::string clean = clean_utf8(strings[number - 1]);
  std::replace_if(
      clean.begin(), clean.end(), [](char c) { return c == '\n' || c == '\t'; }, ' ');
  return std::string(trimmed(clean));
}

std::vector<SmbiosStructure> parse_smbios(ByteSpan table) {
  std::vector<SmbiosStructure> structures;
  for (std::size_t at = 0; at + header_size <= table.size();) {
    SmbiosStructure s;
    s.type = load_le<std::uint8_t>(table, at);
    const std::size_t length = load_le<std::uint8_t>(table, at + 1);
    s.handle = load_le<std::uint16_t>(table, at + 2);
    if (length < header_size || length > table.size() - at)
      break;
    s.formatted = table.subspan(at, length);
    const auto next = read_strings(table, at + length, s.strings);
    if (s.type == 127 || !next)
      break;
    at = *next;
    structures.push_back(std::move(s));
  }
  return structures;
}

SmbiosSummary summarize_smbios(ByteSpan entry_point, ByteSpan table) {
  const auto structures = parse_smbios(table);
  const bool little_endian = !before_2_6(entry_point);
  SmbiosSummary summary;
  bool seen[4] = {};
  for (const SmbiosStructure& s : structures)
    if (s.type < 4 && !seen[s.type]) { // the first one is the machine's own; blades list others behind it
      seen[s.type] = true;
      add_identity(s, little_endian, summary);
    }
  add_memory(structures, summary);
  return summary;
}

} // namespace kvmport
