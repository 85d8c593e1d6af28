// SPDX-License-Identifier: Apache-2.0
#include "formats/vhdx_header.h"

#include "formats/chain.h"
#include "formats/probe.h"

#include <algorithm>
#include <cctype>
#include <fmt/format.h>

namespace kvmport::vhdx {
namespace {

constexpr std::uint64_t kib = 1024, mib = kib * kib;
constexpr std::uint64_t max_table_entries = 2047;

std::string guid_text(ByteSpan guid) {
  const auto at = [&](std::size_t i) { return std::to_integer<unsigned>(guid[i]); };
  return fmt::format("{{{:08x}-{:04x}-{:04x}-{:02x}{:02x}-{:02x}{:02x}{:02x}{:02x}{:02x}{:02x}}}",
                     load_le<std::uint32_t>(guid, 0), load_le<std::uint16_t>(guid, 4), load_le<std::uint16_t>(guid, 6),
                     at(8), at(9), at(10), at(11), at(12), at(13), at(14), at(15));
}

constexpr std::string_view region_table = "{2dc27766-f623-4200-9d64-115e9bfd4a08}",
                           region_metadata = "{8b7ca206-4790-4b9a-b8fe-575f050f886e}",
                           item_parameters = "{caa16737-fa36-4d43-b3b6-33f0aa44e76b}",
                           item_size = "{2fa54224-cd1b-4876-b211-5dbed83bf4b8}",
                           item_page83 = "{beca12ab-b2e6-4523-93ef-c309e000c746}",
                           item_logical_sector = "{8141bf1d-a96f-4709-ba47-f233a8faab5f}",
                           item_physical_sector = "{cda348c7-445d-4471-9cc9-e9885251c556}",
                           item_parent = "{a8d35f2d-b30b-454d-abf7-d3d84834ab0c}",
                           locator_vhdx = "{b04aefb7-d19e-4a81-b789-25b8e9445913}";

struct Reader {
  PatchedFile& file;
  Layout result;

  const SourceFile& source() const { return file.file(); }

  /// One of the two headers; nothing when it is not valid.
  std::optional<Bytes> header_at(std::uint64_t offset) const {
    if (!source().contains(offset, 4 * kib))
      return std::nullopt;
    Bytes header = source().read_bytes(offset, 4 * kib);
    if (as_text(ByteSpan(header).first(4)) != "head" || crc32c(header, 4) != load_le<std::uint32_t>(header, 4))
      return std::nullopt;
    return header;
  }

  LogPlace read_headers() {
    if (as_text(source().read_bytes(0, 8)) != "vhdxfile")
      throw corrupt(source(), "is not a VHDX", "the file identifier is missing");
    const auto first = header_at(64 * kib), second = header_at(128 * kib);
    if (!first && !second)
      throw corrupt(source(), "both VHDX headers are damaged", "at file offsets 65536 and 131072");
    if (!first || !second)
      result.notes.push_back(fmt::format("header {} is damaged; the other one was used", first ? 2 : 1));
    const auto sequence = [](const Bytes& header) { return load_le<std::uint64_t>(header, 8); };
    const Bytes& header = first && (!second || sequence(*first) >= sequence(*second)) ? *first : *second;
    const auto version = load_le<std::uint16_t>(header, 66), log_version = load_le<std::uint16_t>(header, 64);
    LogPlace log;
    std::copy_n(header.begin() + 48, 16, log.id.begin());
    log.length = load_le<std::uint32_t>(header, 68);
    log.offset = load_le<std::uint64_t>(header, 72);
    if (version != 1 || (log_version != 0 && log.id != Guid{}))
      throw unsupported_format(source(), fmt::format("VHDX version {}, log version {}", version, log_version));
    result.data_write_guid = guid_text(ByteSpan(header).subspan(32, 16));
    if (log.length != 0)
      result.used.push_back({log.offset, log.length});
    return log;
  }

  std::optional<Bytes> region_table_at(std::uint64_t offset) const {
    if (offset + 64 * kib > file.size())
      return std::nullopt;
    Bytes table = file.read_bytes(offset, 64 * kib);
    if (as_text(ByteSpan(table).first(4)) != "regi" || crc32c(table, 4) != load_le<std::uint32_t>(table, 4) ||
        load_le<std::uint32_t>(table, 8) > max_table_entries)
      return std::nullopt;
    return table;
  }

  /// Finds the block allocation table and returns where the metadata lies.
  Range read_regions() {
    auto table = region_table_at(192 * kib);
    if (!table) {
      table = region_table_at(256 * kib);
      if (!table)
        throw corrupt(source(), "both VHDX region tables are damaged", "at file offsets 196608 and 262144");
      result.notes.push_back("region table 1 is damaged; the other one was used");
    }
    Range metadata;
    const auto count = load_le<std::uint32_t>(*table, 8);
    for (std::uint32_t i = 0; i < count; i++) {
      const ByteSpan entry = ByteSpan(*table).subspan(16 + std::size_t{i} * 32, 32);
      const std::string id = guid_text(entry.first(16));
      const Range place{load_le<std::uint64_t>(entry, 16), load_le<std::uint32_t>(entry, 24)};
      const bool required = (load_le<std::uint32_t>(entry, 28) & 1) != 0;
      if (id != region_table && id != region_metadata) {
        if (required)
          throw unsupported_format(source(), "VHDX with the required region " + id);
        continue;
      }
      if (place.offset < mib || place.offset % mib != 0 || place.length == 0 || place.length % mib != 0)
        throw corrupt(source(), "the VHDX region table places a region badly",
                      fmt::format("{} bytes {}", place.length, at_offset(place.offset)));
      file.require(place.offset, place.length, id == region_table ? "the VHDX block table" : "the VHDX metadata");
      Range& known = id == region_table ? result.table : metadata;
      if (known.length != 0)
        throw corrupt(source(), "the VHDX region table lists a region twice", id);
      known = place;
      result.used.push_back(place);
    }
    if (result.table.length == 0 || metadata.length == 0)
      throw corrupt(source(), "the VHDX region table lacks the block table or the metadata");
    return metadata;
  }

  void read_metadata(Range place) {
    const Bytes table = file.read_bytes(place.offset, 64 * kib);
    const auto count = load_le<std::uint16_t>(table, 10);
    if (as_text(ByteSpan(table).first(8)) != "metadata" || count > max_table_entries)
      throw corrupt(source(), "the VHDX metadata table is damaged", at_offset(place.offset));
    std::map<std::string, Bytes, std::less<>> items;
    for (std::uint16_t i = 0; i < count; i++) {
      const ByteSpan entry = ByteSpan(table).subspan(32 + std::size_t{i} * 32, 32);
      const std::string id = guid_text(entry.first(16));
      const auto offset = load_le<std::uint32_t>(entry, 16), length = load_le<std::uint32_t>(entry, 20),
                 flags = load_le<std::uint32_t>(entry, 24);
      const bool user = (flags & 1) != 0, required = (flags & 4) != 0;
      const bool known = id == item_parameters || id == item_size || id == item_page83 || id == item_logical_sector ||
                         id == item_physical_sector || id == item_parent;
      if (!known && required && !user)
        throw unsupported_format(source(), "VHDX with the required metadata " + id);
      if (!known || user)
        continue;
      if (offset < 64 * kib || length == 0 || length > mib || std::uint64_t{offset} + length > place.length)
        throw corrupt(source(), "a VHDX metadata item lies badly", fmt::format("{} bytes at {}", length, offset));
      if (!items.emplace(id, file.read_bytes(place.offset + offset, length)).second)
        throw corrupt(source(), "the VHDX metadata has an item twice", id);
    }
    take_items(items);
  }

  void take_items(const std::map<std::string, Bytes, std::less<>>& items) {
    const auto item = [&](std::string_view id, const char* what) -> ByteSpan {
      const auto found = items.find(id);
      if (found == items.end())
        throw corrupt(source(), std::string("the VHDX metadata lacks the ") + what);
      return found->second;
    };
    const ByteSpan parameters = item(item_parameters, "file parameters");
    result.block_size = load_le<std::uint32_t>(parameters, 0);
    result.fixed = (load_le<std::uint32_t>(parameters, 4) & 1) != 0;
    result.has_parent = (load_le<std::uint32_t>(parameters, 4) & 2) != 0;
    require_power_of_two(source(), result.block_size, mib, 256 * mib, "the VHDX block size");
    result.logical_sector = load_le<std::uint32_t>(item(item_logical_sector, "logical sector size"), 0);
    if (result.logical_sector != 512 && result.logical_sector != 4096)
      throw corrupt(source(), "the VHDX logical sector size is neither 512 nor 4096",
                    std::to_string(result.logical_sector));
    result.disk_size = load_le<std::uint64_t>(item(item_size, "disk size"), 0);
    if (result.disk_size == 0 || result.disk_size > std::uint64_t{64} << 40 ||
        result.disk_size % result.logical_sector != 0)
      throw corrupt(source(), "the VHDX has a bad disk size", std::to_string(result.disk_size));
    const std::uint64_t ratio = result.chunk_ratio(), blocks = result.blocks();
    const std::uint64_t entries =
        result.has_parent ? div_round_up(blocks, ratio) * (ratio + 1) : blocks + (blocks - 1) / ratio;
    if (result.table.length / 8 < entries)
      throw corrupt(source(), "the VHDX block table is too short for the disk",
                    fmt::format("{} entries, needs {}", result.table.length / 8, entries));
    if (result.has_parent)
      read_parent_locator(item(item_parent, "parent locator"));
  }

  void read_parent_locator(ByteSpan locator) {
    if (locator.size() < 20 || guid_text(locator.first(16)) != locator_vhdx)
      throw unsupported_format(source(), "VHDX with an unknown kind of parent");
    const auto count = load_le<std::uint16_t>(locator, 18);
    for (std::uint16_t i = 0; i < count; i++) {
      const std::size_t entry = 20 + std::size_t{i} * 12;
      const auto text = [&](std::size_t offset_at, std::size_t length_at) {
        const auto offset = load_le<std::uint32_t>(locator, offset_at);
        const auto length = load_le<std::uint16_t>(locator, length_at);
        detail::check_bounds(locator.size(), offset, length);
        return utf16_text(locator.subspan(offset, length), false);
      };
      std::string key = text(entry, entry + 8);
      result.parent[std::move(key)] = text(entry + 4, entry + 10);
    }
  }
};

} // namespace

Layout read_layout(PatchedFile& file) {
  Reader reader{file, {}};
  const LogPlace log = reader.read_headers();
  const std::string note = replay_log(file, log);
  if (!note.empty())
    reader.result.notes.push_back(note);
  reader.read_metadata(reader.read_regions());
  return std::move(reader.result);
}

} // namespace kvmport::vhdx
