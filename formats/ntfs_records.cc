// SPDX-License-Identifier: Apache-2.0
#include "formats/ntfs_records.h"

#include <algorithm>
#include <bit>

namespace kvmport::ntfs {
namespace {

constexpr std::size_t stride = 512;      // of fixups, whatever the sector size is
constexpr std::size_t most_runs = 65536; // a record has room for fewer
constexpr std::uint64_t most_clusters = 0xffffffff;
constexpr const char* impossible = "its boot sector is impossible";
constexpr const char* damaged = "its system files are damaged";

/// A size that is a number of clusters, or as a negative number the logarithm of bytes.
std::uint64_t coded_size(std::uint8_t code, std::uint64_t cluster) {
  const auto number = static_cast<std::int8_t>(code);
  if (number > 0)
    return static_cast<std::uint64_t>(number) * cluster;
  require(number >= -31 && number < 0, impossible);
  return std::uint64_t{1} << -number;
}

} // namespace

Volume check_boot_sector(ByteSpan boot, const Part& part) {
  const auto u8 = [&](std::size_t at) { return load_le<std::uint8_t>(boot, at); };
  const auto u16 = [&](std::size_t at) { return load_le<std::uint16_t>(boot, at); };
  const auto u64 = [&](std::size_t at) { return load_le<std::uint64_t>(boot, at); };
  Volume v;
  const std::uint64_t sector = u16(11);
  require(std::has_single_bit(sector) && sector >= 512 && sector <= 4096 && u16(510) == 0xaa55, impossible);
  require(u16(14) == 0 && u8(16) == 0 && u16(17) == 0 && u16(19) == 0 && u16(22) == 0, impossible);
  // Up to 128 sectors are a number; larger clusters are the logarithm, negative.
  const unsigned code = u8(13);
  require(code != 0 && (code <= 128 ? std::has_single_bit(code) : code >= 244), impossible);
  const std::uint64_t per_cluster = code <= 128 ? code : std::uint64_t{1} << (256 - code);
  v.cluster = sector * per_cluster;
  require(v.cluster <= (2U << 20), impossible);
  const std::uint64_t sectors = u64(40);
  require(sectors <= part.size() / sector, "it is larger than its partition");
  v.clusters = sectors / per_cluster;
  require(v.clusters != 0 && v.clusters <= most_clusters, impossible);
  v.mft = u64(48);
  v.mirror = u64(56);
  require(v.mft < v.clusters && v.mirror < v.clusters && v.mft != v.mirror, impossible);
  const std::uint64_t record = coded_size(u8(64), v.cluster);
  require(std::has_single_bit(record) && record >= 1024 && record <= 4096, impossible);
  v.record = static_cast<std::uint32_t>(record);
  return v;
}

void undo_fixup(std::span<std::byte> block) {
  const std::size_t at = load_le<std::uint16_t>(block, 4), count = load_le<std::uint16_t>(block, 6);
  require(count == block.size() / stride + 1 && at % 2 == 0 && at >= 8 && at + 2 * count <= stride - 2, damaged);
  const auto number = load_le<std::uint16_t>(block, at);
  for (std::size_t i = 1; i < count; i++) {
    require(load_le<std::uint16_t>(block, i * stride - 2) == number, damaged);
    store_le<std::uint16_t>(block, i * stride - 2, load_le<std::uint16_t>(block, at + 2 * i));
  }
}

Record::Record(const Volume& volume, Bytes bytes, std::uint64_t number) : volume_(volume), bytes_(std::move(bytes)) {
  require(as_text(ByteSpan(bytes_).first(4)) == "FILE", damaged);
  undo_fixup(bytes_);
  const std::uint32_t used = load_le<std::uint32_t>(bytes_, 24);
  require((load_le<std::uint16_t>(bytes_, 22) & 1) != 0 && used <= bytes_.size() && used >= 56, damaged);
  require(load_le<std::uint64_t>(bytes_, 32) == 0, damaged); // no extension of another record
  // Windows XP and later keep the record's number behind a fixup that starts after it.
  if (load_le<std::uint16_t>(bytes_, 4) >= 48)
    require(load_le<std::uint32_t>(bytes_, 44) == number, damaged);
  bytes_.resize(used);
}

template <typename Visit> void Record::each(Visit visit) const {
  std::size_t at = load_le<std::uint16_t>(bytes_, 20);
  require(at >= 42 && at % 8 == 0, damaged);
  while (load_le<std::uint32_t>(bytes_, at) != 0xffffffff) {
    const std::size_t length = load_le<std::uint32_t>(bytes_, at + 4);
    require(length >= 24 && length % 8 == 0 && length <= bytes_.size() - at, damaged);
    visit(static_cast<Attribute>(load_le<std::uint32_t>(bytes_, at)), ByteSpan(bytes_).subspan(at, length));
    at += length;
  }
}

bool Record::has(Attribute type) const {
  bool found = false;
  each([&](Attribute one, ByteSpan) { found = found || one == type; });
  return found;
}

std::optional<Value> Record::find(Attribute type, std::string_view name) const {
  std::optional<Value> found;
  each([&](Attribute one, ByteSpan attribute) {
    if (one != type)
      return;
    const std::size_t length = load_le<std::uint8_t>(attribute, 9), at = load_le<std::uint16_t>(attribute, 10);
    if (length != name.size())
      return;
    for (std::size_t i = 0; i < length; i++)
      if (load_le<std::uint16_t>(attribute, at + 2 * i) != static_cast<unsigned char>(name[i]))
        return;
    require(!found, damaged);
    found = read_value(attribute);
  });
  return found;
}

Value Record::read_value(ByteSpan attribute) const {
  Value value;
  value.resident = load_le<std::uint8_t>(attribute, 8) == 0;
  require(load_le<std::uint16_t>(attribute, 12) == 0, "its system files are compressed, encrypted or sparse");
  if (value.resident) {
    const std::size_t length = load_le<std::uint32_t>(attribute, 16), at = load_le<std::uint16_t>(attribute, 20);
    require(at <= attribute.size() && length <= attribute.size() - at, damaged);
    value.bytes.assign(attribute.begin() + static_cast<std::ptrdiff_t>(at),
                       attribute.begin() + static_cast<std::ptrdiff_t>(at + length));
    value.size = length;
    return value;
  }
  const auto u64 = [&](std::size_t at) { return load_le<std::uint64_t>(attribute, at); };
  require(u64(16) == 0, damaged);
  const std::uint64_t last = u64(24), allocated = u64(40);
  value.size = u64(48);
  require(value.size <= allocated && u64(56) == value.size, "its system files are not written to their end");
  std::size_t at = load_le<std::uint16_t>(attribute, 32);
  std::uint64_t count = 0, place = 0;
  const auto number = [&](unsigned bytes, bool is_signed) {
    std::uint64_t all = 0;
    for (unsigned i = 0; i < bytes; i++)
      all |= std::uint64_t{load_le<std::uint8_t>(attribute, at + i)} << (8 * i);
    if (is_signed && bytes < 8 && bytes != 0 && (all >> (8 * bytes - 1) & 1) != 0)
      all |= ~std::uint64_t{0} << (8 * bytes);
    at += bytes;
    return all;
  };
  for (unsigned head = load_le<std::uint8_t>(attribute, at); head != 0; head = load_le<std::uint8_t>(attribute, at)) {
    at++;
    require((head & 0xf) != 0 && (head & 0xf) <= 8 && head >> 4 != 0 && head >> 4 <= 8 && value.runs.size() < most_runs,
            damaged);
    const std::uint64_t length = number(head & 0xf, false);
    place += number(head >> 4, true); // wraps as it should for a step back
    require(length != 0 && place < volume_.clusters && length <= volume_.clusters - place, damaged);
    value.runs.push_back({place, length});
    count += length;
    require(count <= volume_.clusters, damaged);
  }
  // An attribute whose runs go on in another record has fewer clusters here than it needs.
  require(count != 0 && last == count - 1 && allocated == count * volume_.cluster,
          "its system files lie in too many pieces");
  return value;
}

Bytes read_value(const Part& part, const Volume& volume, const Value& value, std::uint64_t offset, std::size_t length) {
  require(offset <= value.size && length <= value.size - offset, damaged);
  if (value.resident) {
    const auto from = value.bytes.begin() + static_cast<std::ptrdiff_t>(offset);
    return {from, from + static_cast<std::ptrdiff_t>(length)};
  }
  Bytes bytes(length);
  std::size_t done = 0;
  std::uint64_t run_at = 0;
  for (const Run& run : value.runs) {
    const std::uint64_t run_length = run.count * volume.cluster, at = offset + done;
    if (done < length && at < run_at + run_length) {
      const std::size_t n = std::min<std::uint64_t>(length - done, run_at + run_length - at);
      part.read(run.start * volume.cluster + (at - run_at), std::span(bytes).subspan(done, n));
      done += n;
    }
    run_at += run_length;
  }
  require(done == length, damaged);
  return bytes;
}

Value find_file_table(const Part& part, const Volume& volume) {
  const Record first(volume, part.read(volume.mft * volume.cluster, volume.record), 0);
  // A list of attributes says that the table goes on elsewhere; its beginning is in this record all the same, but not
  // whole.
  require(!first.has(Attribute::list), "its file table lies in too many pieces");
  auto data = first.find(Attribute::data);
  require(data && !data->resident && data->runs[0].start == volume.mft, "its file table is damaged");
  return *data;
}

Record read_record(const Part& part, const Volume& volume, const Value& table, std::uint64_t number) {
  return {volume, read_value(part, volume, table, number * volume.record, volume.record), number};
}

namespace {

using EntryVisitor = std::function<void(std::uint64_t number, const std::string& name)>;
constexpr const char* damaged_root = "its root directory is damaged";

/// UTF-16LE.
std::string lower_name(ByteSpan name) {
  std::string text;
  for (std::size_t at = 0; at < name.size(); at += 2) {
    const auto unit = load_le<std::uint16_t>(name, at);
    text += unit >= 'A' && unit <= 'Z' ? static_cast<char>(unit + 32) : unit < 0x80 ? static_cast<char>(unit) : '?';
  }
  return text;
}

/// `entries`: from the index header on.
void each_index_entry(ByteSpan entries, const EntryVisitor& visit) {
  std::size_t at = load_le<std::uint32_t>(entries, 0);
  const std::size_t end = load_le<std::uint32_t>(entries, 4);
  require(at >= 16 && at % 8 == 0 && end <= entries.size(), damaged_root);
  for (;;) {
    require(at + 16 <= end, damaged_root);
    const std::size_t length = load_le<std::uint16_t>(entries, at + 8), key = load_le<std::uint16_t>(entries, at + 10);
    const auto flags = load_le<std::uint16_t>(entries, at + 12);
    require(length >= 16 && length % 8 == 0 && length <= end - at, damaged_root);
    if ((flags & 2) != 0) // the end
      return;
    require(key >= 66 && key + 16 <= length, damaged_root);
    const std::size_t name = std::size_t{2} * load_le<std::uint8_t>(entries, at + 16 + 64);
    require(66 + name <= key, damaged_root);
    visit(load_le<std::uint64_t>(entries, at) & 0xffffffffffff, lower_name(entries.subspan(at + 16 + 66, name)));
    at += length;
  }
}

} // namespace

void each_root_entry(const Part& part, const Volume& volume, const Value& table, const EntryVisitor& visit) {
  constexpr std::uint64_t root_file = 5, longest_index = 64U << 20;
  const Record root = read_record(part, volume, table, root_file);
  require(!root.has(Attribute::list), "its root directory lies in too many pieces");
  const auto index = root.find(Attribute::index_root, "$I30");
  require(index && index->resident && index->size >= 32, damaged_root);
  const auto block = load_le<std::uint32_t>(index->bytes, 8);
  require(std::has_single_bit(block) && block >= 512 && block <= 65536, damaged_root);
  each_index_entry(ByteSpan(index->bytes).subspan(16), visit);
  // Every block that the directory's own map calls used.
  const auto blocks = root.find(Attribute::index_allocation, "$I30");
  const auto map = root.find(Attribute::bitmap, "$I30");
  if (!blocks)
    return;
  require(map && !blocks->resident && blocks->size <= longest_index && blocks->size % block == 0, damaged_root);
  const std::uint64_t count = blocks->size / block;
  require(map->size <= longest_index && map->size >= div_round_up(count, 8), damaged_root);
  const Bytes used = read_value(part, volume, *map, 0, div_round_up(count, 8));
  for (std::uint64_t i = find_bit(used, 0, count, true); i < count; i = find_bit(used, i + 1, count, true)) {
    Bytes bytes = read_value(part, volume, *blocks, i * block, block);
    require(as_text(ByteSpan(bytes).first(4)) == "INDX", damaged_root);
    undo_fixup(bytes);
    each_index_entry(ByteSpan(bytes).subspan(24), visit);
  }
}

} // namespace kvmport::ntfs

namespace kvmport {

bool ntfs_holds_windows(const Image& image, Range range) {
  const Part part(image, range);
  const ntfs::Volume volume = ntfs::check_boot_sector(part.read(0, 512), part);
  bool found = false;
  ntfs::each_root_entry(part, volume, ntfs::find_file_table(part, volume),
                        [&](std::uint64_t, const std::string& name) { found = found || name == "windows"; });
  return found;
}

} // namespace kvmport
