// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/fat_free.h"

#include <algorithm>
#include <bit>
#include <fmt/format.h>

namespace kvmport {
namespace {

constexpr std::uint64_t piece = 1U << 20;
constexpr std::uint32_t most_clusters12 = 4085, most_clusters16 = 65525, most_clusters32 = 0x0ffffff5;
constexpr std::uint32_t border = 16; ///< drivers disagree about the kind of a filesystem whose size is that near

struct Geometry {
  unsigned bits = 0; ///< 12, 16 or 32
  std::uint32_t sector = 0, cluster = 0;
  std::uint64_t table = 0, table_length = 0, tables = 0; ///< bytes from the beginning, bytes of each
  std::uint64_t data = 0, clusters = 0;                  ///< where cluster 2 lies, how many there are
  std::uint32_t root = 0, info = 0;                      ///< FAT32: the root's first cluster, FSInfo's sector
  std::uint8_t media = 0;
};

/// FAT32 keeps a second boot sector; what says where things lie must be the same in it.
void check_backup(ByteSpan boot, const Geometry& g, const Part& part) {
  constexpr std::size_t from = 11, length = 37; // to the end of BPB_RootClus
  const std::uint64_t sector = load_le<std::uint16_t>(boot, 50);
  if (g.bits != 32 || sector == 0 || sector == 0xffff)
    return;
  const Bytes backup = part.read(sector * g.sector, 512);
  require(std::ranges::equal(boot.subspan(from, length), ByteSpan(backup).subspan(from, length)),
          "its boot sector and the backup differ");
}

/// A jump, a sensible sector size and a number of tables: other boot sectors (NTFS) are not of interest.
bool looks_like_fat(ByteSpan boot) {
  const auto jump = std::to_integer<unsigned>(boot[0]);
  const auto sector = load_le<std::uint16_t>(boot, 11);
  return load_le<std::uint16_t>(boot, 510) == 0xaa55 && (jump == 0xeb || jump == 0xe9) && std::has_single_bit(sector) &&
         sector >= 512 && sector <= 4096 && boot[13] != std::byte{0} && boot[16] != std::byte{0} &&
         load_le<std::uint16_t>(boot, 14) != 0 && as_text(boot.subspan(3, 8)) != "NTFS    " &&
         as_text(boot.subspan(3, 8)) != "EXFAT   ";
}

Geometry check_boot_sector(ByteSpan boot, const Part& part) {
  const auto u8 = [&](std::size_t at) { return load_le<std::uint8_t>(boot, at); };
  const auto u16 = [&](std::size_t at) { return load_le<std::uint16_t>(boot, at); };
  const auto u32 = [&](std::size_t at) { return load_le<std::uint32_t>(boot, at); };
  Geometry g;
  g.sector = u16(11);
  const std::uint32_t per_cluster = u8(13), reserved = u16(14), root_entries = u16(17);
  require(std::has_single_bit(per_cluster), "its boot sector is impossible");
  g.cluster = g.sector * per_cluster;
  g.tables = u8(16);
  g.media = u8(21);
  require(g.tables == 1 || g.tables == 2, "its boot sector is impossible");
  require(g.media == 0xf0 || g.media >= 0xf8, "its boot sector is impossible");
  const bool wide = u16(22) == 0;
  const std::uint64_t table_sectors = wide ? u32(36) : u16(22), sectors = u16(19) != 0 ? u16(19) : u32(32);
  require(table_sectors != 0 && sectors != 0, "its boot sector is impossible");
  require(sectors <= part.size() / g.sector, "it is larger than its partition");
  const std::uint64_t root_sectors = div_round_up(std::uint64_t{root_entries} * 32, g.sector);
  const std::uint64_t before = reserved + g.tables * table_sectors + root_sectors;
  require(before < sectors, "its boot sector is impossible");
  g.table = std::uint64_t{reserved} * g.sector;
  g.table_length = table_sectors * g.sector;
  g.data = before * g.sector;
  g.clusters = (sectors - before) / per_cluster;
  require(g.clusters != 0 && g.clusters < most_clusters32, "its boot sector is impossible");
  if (wide) {
    require(root_entries == 0 && u16(42) == 0, "its boot sector is impossible");
    require((u16(40) & 0x80) == 0, "only one of its allocation tables is in use");
    g.bits = 32;
    g.root = u32(44);
    g.info = u16(48);
  } else {
    require(root_entries != 0 && root_entries * 32 % g.sector == 0 && g.clusters < most_clusters16,
            "its boot sector is impossible");
    require(g.clusters + border < most_clusters12 || g.clusters > most_clusters12 + border,
            "its size lies between FAT12 and FAT16");
    g.bits = g.clusters < most_clusters12 ? 12 : 16;
    // The name says nothing by the specification, but a filesystem that contradicts it is not what its maker made.
    const std::string_view name = as_text(boot.subspan(0x36, 5));
    require(!name.starts_with("FAT") || name == "FAT" + std::to_string(g.bits), "its boot sector contradicts itself");
  }
  require(g.table_length * 8 / g.bits >= g.clusters + 2, "its allocation table is too short");
  require((u8(wide ? 0x41 : 0x25) & 3) == 0, "it was not unmounted cleanly");
  return g;
}

class FatReader {
 public:
  FatReader(const Part& part, const Geometry& geometry) : part_(part), g_(geometry) {}

  std::vector<Range> read() {
    // A FAT12 table is at most 6 KiB; of the others whole entries lie in a piece.
    const std::uint64_t length = std::min(g_.table_length, div_round_up((g_.clusters + 2) * g_.bits, 8));
    for (std::uint64_t at = 0; at < length; at += piece) {
      const Bytes table = part_.read(g_.table + at, std::min(piece, length - at));
      if (g_.tables == 2)
        require(part_.read(g_.table + g_.table_length + at, table.size()) == table, "its allocation tables differ");
      read_entries(table, at * 8 / g_.bits);
    }
    require(g_.bits != 32 || root_used_, "its root directory lies in a free cluster");
    return free_.take();
  }
  /// FSInfo only says how many there were when it was last written: some systems leave it old.
  bool count_differs() const {
    if (g_.bits != 32 || g_.info == 0 || g_.info == 0xffff)
      return false;
    const Bytes info = part_.read(std::uint64_t{g_.info} * g_.sector, 512);
    const auto count = load_le<std::uint32_t>(info, 488);
    return load_le<std::uint32_t>(info, 0) == 0x41615252 && load_le<std::uint32_t>(info, 484) == 0x61417272 &&
           count != 0xffffffff && count != found_;
  }

 private:
  std::uint32_t entry(ByteSpan table, std::uint64_t i) const {
    if (g_.bits == 32)
      return load_le<std::uint32_t>(table, i * 4) & 0x0fffffff; // the upper four bits are reserved
    if (g_.bits == 16)
      return load_le<std::uint16_t>(table, i * 2);
    const std::size_t at = i * 3 / 2;
    const std::uint32_t low = std::to_integer<std::uint32_t>(table[at]);
    const std::uint32_t high = at + 1 < table.size() ? std::to_integer<std::uint32_t>(table[at + 1]) : 0xff;
    return (i % 2 == 0 ? (high & 0xf) << 8 | low : high << 4 | low >> 4) & 0xfff;
  }
  void check_first(ByteSpan table) const {
    require((entry(table, 0) & 0xff) == g_.media, "its allocation table is damaged");
    if (g_.bits == 12)
      return;
    const std::uint32_t state = entry(table, 1), clean = g_.bits == 16 ? 0x8000 : 0x08000000, fine = clean >> 1;
    require((state & clean) != 0, "it was not unmounted cleanly");
    require((state & fine) != 0, "it recorded errors");
  }
  void read_entries(ByteSpan table, std::uint64_t first) {
    if (first == 0)
      check_first(table);
    const std::uint64_t end = std::min(first + table.size() * 8 / g_.bits, g_.clusters + 2);
    for (std::uint64_t i = std::max<std::uint64_t>(first, 2); i < end; i++) {
      const bool free = entry(table, i - first) == 0;
      if (i == g_.root)
        root_used_ = !free;
      if (free) {
        found_++;
        free_.add({part_.range().offset + g_.data + (i - 2) * g_.cluster, g_.cluster});
      }
    }
  }

  const Part& part_;
  const Geometry g_;
  bool root_used_ = false;
  std::uint64_t found_ = 0;
  FreeRanges free_;
};

} // namespace

FreeBlocks read_fat_free(const Image& image, Range range) {
  const Part part(image, range);
  if (range.length < 512)
    return {};
  const Bytes boot = part.read(0, 512);
  if (!looks_like_fat(boot))
    return {};
  std::string kind = "FAT";
  bool stale = false;
  FreeBlocks result = judge_free_blocks(kind, [&] {
    part.require_content("vfat");
    const Geometry geometry = check_boot_sector(boot, part);
    kind += std::to_string(geometry.bits);
    check_backup(boot, geometry, part);
    FatReader reader(part, geometry);
    auto free = reader.read();
    stale = reader.count_differs();
    return free;
  });
  if (stale)
    add_remark(result, "its own count of free clusters is old");
  return result;
}

} // namespace kvmport
