// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/partition_table.h"

#include <algorithm>
#include <array>
#include <optional>
#include <zlib.h>

namespace kvmport {
namespace {

constexpr std::uint32_t most_gpt_entries = 1024;
constexpr unsigned most_logical = 128;

struct Found {
  std::string name;
  Range range;
  bool linux_type = false; ///< by its type it may hold a filesystem of Linux
};

/// What a table says, or why it says nothing that can be trusted.
struct Table {
  std::vector<Found> found;
  std::string doubt;
};

struct MbrEntry {
  std::uint8_t type = 0;
  std::uint64_t start = 0, sectors = 0;
};

std::array<MbrEntry, 4> mbr_entries(ByteSpan sector) {
  std::array<MbrEntry, 4> entries;
  for (std::size_t i = 0; i < entries.size(); i++) {
    const std::size_t at = 446 + i * 16;
    entries[i] = {load_le<std::uint8_t>(sector, at + 4), load_le<std::uint32_t>(sector, at + 8),
                  load_le<std::uint32_t>(sector, at + 12)};
  }
  return entries;
}

bool is_extended(std::uint8_t type) {
  return type == 0x05 || type == 0x0f || type == 0x85;
}

class TableReader {
 public:
  TableReader(const Image& image, std::uint64_t sector) : image_(image), sector_(sector) {}

  /// Nothing when there is no boot record, or one of a filesystem that lists no partition.
  std::optional<Table> mbr();
  std::optional<Table> gpt();

 private:
  bool read(std::uint64_t at, std::span<std::byte> out) const;
  /// Adds a partition; false when it does not fit on the disk.
  bool add(Table& table, const std::string& name, std::uint64_t first, std::uint64_t sectors, bool linux_type) const;
  void logical(Table& table, const MbrEntry& extended) const;

  const Image& image_;
  const std::uint64_t sector_;
};

bool TableReader::read(std::uint64_t at, std::span<std::byte> out) const {
  if (at > image_.size() || out.size() > image_.size() - at)
    return false;
  image_.read(at, out);
  return true;
}

bool TableReader::add(Table& table, const std::string& name, std::uint64_t first, std::uint64_t sectors,
                      bool linux_type) const {
  const std::uint64_t disk = image_.size() / sector_;
  if (first == 0 || sectors == 0 || first > disk || sectors > disk - first)
    return false;
  table.found.push_back({name, {first * sector_, sectors * sector_}, linux_type});
  return true;
}

void TableReader::logical(Table& table, const MbrEntry& extended) const {
  Bytes sector(512);
  std::uint64_t at = extended.start;
  for (unsigned number = 5; number < 5 + most_logical; number++) {
    if (!read(at * sector_, sector) || load_le<std::uint16_t>(sector, 510) != 0xaa55) {
      table.doubt = "the chain of logical partitions is broken";
      return;
    }
    const auto entries = mbr_entries(sector);
    if (entries[0].type != 0 && entries[0].sectors != 0) {
      const std::uint64_t first = at + entries[0].start;
      if (first < extended.start || first + entries[0].sectors > extended.start + extended.sectors ||
          !add(table, "partition " + std::to_string(number), first, entries[0].sectors, entries[0].type == 0x83)) {
        table.doubt = "a logical partition lies outside of its extended one";
        return;
      }
    }
    if (!is_extended(entries[1].type) || entries[1].sectors == 0)
      return;
    const std::uint64_t next = extended.start + entries[1].start;
    if (next <= at || next >= extended.start + extended.sectors) {
      table.doubt = "the chain of logical partitions does not go forward";
      return;
    }
    at = next;
  }
  table.doubt = "too many logical partitions";
}

std::optional<Table> TableReader::mbr() {
  Bytes sector(512);
  if (!read(0, sector) || load_le<std::uint16_t>(sector, 510) != 0xaa55)
    return std::nullopt;
  const auto entries = mbr_entries(sector);
  Table table;
  bool any = false;
  unsigned extended = 0;
  for (std::size_t i = 0; i < entries.size() && table.doubt.empty(); i++) {
    const MbrEntry& entry = entries[i];
    const auto flag = load_le<std::uint8_t>(sector, 446 + i * 16);
    if (entry.type == 0 && entry.sectors == 0)
      continue;
    if (flag != 0 && flag != 0x80) // boot code of a filesystem, not a table
      return std::nullopt;
    any = true;
    const std::string name = "partition " + std::to_string(i + 1);
    if (is_extended(entry.type)) {
      if (++extended > 1 || entry.start == 0)
        table.doubt = "there are several extended partitions";
      else
        logical(table, entry);
    } else if (!add(table, name, entry.start, entry.sectors, entry.type == 0x83)) {
      table.doubt = name + " lies outside of the disk";
    }
  }
  if (!any)
    return std::nullopt;
  return table;
}

/// GPT types, as they lie on disk, of what is a part of something else and not a filesystem by itself.
bool holds_no_filesystem(ByteSpan type) {
  static constexpr std::array<std::string_view, 4> others{
      std::string_view("\x0f\x88\x9d\xa1\xfc\x05\x3b\x4d\xa0\x06\x74\x3f\x0f\x84\x91\x1e", 16), // RAID
      std::string_view("\x79\xd3\xd6\xe6\x07\xf5\xc2\x44\xa2\x3c\x23\x8f\x2a\x3d\xf9\x28", 16), // LVM
      std::string_view("\x6d\xfd\x57\x06\xab\xa4\xc4\x43\x84\xe5\x09\x33\xc8\x4b\x4f\x4f", 16), // swap
      std::string_view("\xcb\x7c\x7d\xca\xed\x63\x53\x4c\x86\x1c\x17\x42\x53\x60\x59\xcc", 16), // LUKS
  };
  return std::any_of(others.begin(), others.end(), [&](std::string_view other) { return as_text(type) == other; });
}

std::optional<Table> TableReader::gpt() {
  Bytes header(512);
  if (!read(sector_, header) || as_text(ByteSpan(header).first(8)) != "EFI PART")
    return std::nullopt;
  Table table;
  const auto header_size = load_le<std::uint32_t>(header, 12);
  const auto entries = load_le<std::uint32_t>(header, 80), entry_size = load_le<std::uint32_t>(header, 84);
  const auto first = load_le<std::uint64_t>(header, 72);
  table.doubt = "the GPT is damaged";
  if (header_size < 92 || header_size > header.size() || entry_size < 128 || entry_size > 4096 ||
      entries > most_gpt_entries || first > image_.size() / sector_ || load_le<std::uint64_t>(header, 24) != 1)
    return table;
  const auto header_crc = load_le<std::uint32_t>(header, 16);
  store_le<std::uint32_t>(header, 16, 0);
  if (::crc32(0, reinterpret_cast<const Bytef*>(header.data()), header_size) != header_crc)
    return table;
  Bytes list(std::size_t{entries} * entry_size);
  if (!read(first * sector_, list) || ::crc32(0, reinterpret_cast<const Bytef*>(list.data()),
                                              static_cast<uInt>(list.size())) != load_le<std::uint32_t>(header, 88))
    return table;
  table.doubt.clear();
  for (std::uint32_t i = 0; i < entries; i++) {
    const ByteSpan entry = ByteSpan(list).subspan(std::size_t{i} * entry_size, entry_size);
    if (is_zero(entry.first(16)))
      continue;
    const auto begin = load_le<std::uint64_t>(entry, 32), last = load_le<std::uint64_t>(entry, 40);
    const std::string name = "partition " + std::to_string(i + 1);
    if (last < begin || last - begin == UINT64_MAX ||
        !add(table, name, begin, last - begin + 1, !holds_no_filesystem(entry.first(16)))) {
      table.doubt = name + " lies outside of the disk";
      return table;
    }
  }
  return table;
}

/// The protective record of a GPT lists nothing else, or partitions that the GPT lists too.
bool agrees(const Image& image, std::uint64_t sector, const Table& gpt) {
  Bytes record(512);
  image.read(0, record);
  for (const MbrEntry& entry : mbr_entries(record)) {
    if (entry.type == 0 || entry.type == 0xee || entry.sectors == 0)
      continue;
    const Range range{entry.start * sector, entry.sectors * sector};
    if (std::none_of(gpt.found.begin(), gpt.found.end(), [&](const Found& f) { return f.range == range; }))
      return false;
  }
  return true;
}

void keep_sound(const Table& table, PartitionTable& result) {
  for (const Found& one : table.found) {
    const bool overlaps = std::any_of(table.found.begin(), table.found.end(), [&](const Found& other) {
      return &other != &one && other.range.offset < one.range.end() && one.range.offset < other.range.end();
    });
    if (overlaps)
      result.notes.push_back(one.name + ": overlaps another partition, copied whole");
    else if (one.linux_type)
      result.partitions.push_back({one.name, one.range});
  }
}

} // namespace

PartitionTable read_partition_table(const Image& image) {
  PartitionTable result;
  const std::uint64_t own = image.info().logical_sector == 4096 ? 4096 : 512;
  for (const std::uint64_t sector : {own, own == 512 ? std::uint64_t{4096} : std::uint64_t{512}}) {
    if (auto gpt = TableReader(image, sector).gpt()) {
      if (gpt->doubt.empty() && !agrees(image, sector, *gpt))
        gpt->doubt = "the GPT and the MBR disagree";
      if (gpt->doubt.empty())
        keep_sound(*gpt, result);
      else
        result.notes.push_back(gpt->doubt + ": the disk is copied whole");
      return result;
    }
  }
  if (const auto mbr = TableReader(image, own).mbr()) {
    if (mbr->doubt.empty())
      keep_sound(*mbr, result);
    else
      result.notes.push_back(mbr->doubt + ": the disk is copied whole");
    return result;
  }
  result.partitions.push_back({"the whole disk", {0, image.size()}});
  return result;
}

} // namespace kvmport
