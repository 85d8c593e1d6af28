// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/xfs_free.h"

#include "libconvert/copy/xfs_log.h"

#include <algorithm>
#include <bit>
#include <map>
#include <optional>
#include <set>

namespace kvmport {
namespace {

constexpr std::uint32_t super_magic = 0x58465342, agf_magic = 0x58414746, agfl_magic = 0x5841464c; // XFSB XAGF XAFL
constexpr std::uint64_t most_groups = 1U << 20;
constexpr std::size_t most_extents = 1U << 22;       ///< of one group; bounds the memory to 64 MiB
constexpr std::uint64_t most_tree_blocks = 1U << 20; ///< of one filesystem; bounds the time
constexpr unsigned most_levels = 9;                  // XFS_BTREE_MAXLEVELS

// Version 4: attributes, long link counts, quota, alignment, stripe alignment, log version 2, sector size, unwritten
// extents, directories version 2, case insensitive names, and that there are more features.
constexpr std::uint32_t known_version_bits = 0xfdf0 & ~0x0200U;
constexpr std::uint32_t lazy_counters = 0x2, known_features2 = 0x2 | 0x8 | 0x80 | 0x100 | 0x200;
// Version 5: free inode tree, reverse map, reflink, inode tree counts; file types, sparse inodes, metadata UUID, big
// times, many extents, exchanged ranges, parent pointers. NEEDSREPAIR is 0x10.
constexpr std::uint32_t known_ro_compat = 0xf, known_incompat = 0xef, metadata_uuid = 0x4, needs_repair = 0x10;

struct Geometry {
  bool v5 = false, lazy = false;
  std::uint64_t block = 0, sector = 0, blocks = 0, group_blocks = 0, groups = 0, free = 0;
  std::uint64_t log_group = 0, log_block = 0, log_blocks = 0; ///< the log lies in one group
  std::array<std::byte, 16> uuid{};                           ///< that metadata carries
  XfsLog log;
};

void check_features(ByteSpan s, Geometry& g) {
  const auto version = load_be<std::uint16_t>(s, 100);
  const auto u32 = [&](std::size_t at) { return load_be<std::uint32_t>(s, at); };
  const std::uint32_t features2 = u32(200);
  g.v5 = (version & 0xf) == 5;
  require(g.v5 || (version & 0xf) == 4, "its version is unknown");
  require((version & ~0xfU & ~known_version_bits) == 0 && (version & 0x2000) != 0,
          "it has features whose free blocks can't be told");
  const bool more = (version & 0x8000) != 0;
  require(more || features2 == 0, "its superblock is impossible");
  require((features2 & ~known_features2) == 0 && g.v5 == ((features2 & 0x100) != 0),
          "it has features whose free blocks can't be told");
  g.lazy = g.v5 || (features2 & lazy_counters) != 0;
  std::copy_n(s.begin() + 32, 16, g.log.uuid.begin());
  g.uuid = g.log.uuid;
  if (!g.v5)
    return;
  require((u32(216) & needs_repair) == 0, "it is marked as damaged");
  require(u32(208) == 0 && (u32(212) & ~known_ro_compat) == 0 && (u32(216) & ~known_incompat) == 0 && u32(220) == 0,
          "it has features whose free blocks can't be told");
  if ((u32(216) & metadata_uuid) != 0)
    std::copy_n(s.begin() + 248, 16, g.uuid.begin());
}

Geometry check_superblock(const Part& part, ByteSpan start) {
  const auto u8 = [&](std::size_t at) { return load_be<std::uint8_t>(start, at); };
  const auto u32 = [&](std::size_t at) { return load_be<std::uint32_t>(start, at); };
  const auto u64 = [&](std::size_t at) { return load_be<std::uint64_t>(start, at); };
  Geometry g;
  check_features(start, g);
  g.block = u32(4);
  g.sector = load_be<std::uint16_t>(start, 102);
  require(std::has_single_bit(g.sector) && g.sector >= 512 && g.sector <= 32768 &&
              u8(121) == std::countr_zero(g.sector),
          "its superblock is impossible");
  require(std::has_single_bit(g.block) && g.block >= g.sector && g.block <= 65536 &&
              u8(120) == std::countr_zero(g.block),
          "its superblock is impossible");
  if (g.v5)
    require(checksum_agrees(load_le<std::uint32_t>(start, 224), crc32c_with_hole(part.read(0, g.sector), 224)),
            "its superblock's checksum is wrong");
  require(u8(126) == 0, "its making or growing was not finished");
  require(u64(16) == 0 && u64(24) == 0, "it has a realtime device");
  g.blocks = u64(8);
  g.group_blocks = u32(84);
  g.groups = u32(88);
  const unsigned group_log = u8(124);
  require(g.blocks <= part.size() / g.block, "it is larger than its partition");
  require(g.group_blocks >= 64 && g.groups != 0 && g.groups <= most_groups, "its superblock is impossible");
  require(group_log <= 32 && group_log == std::bit_width(g.group_blocks - 1), "its superblock is impossible");
  require(g.groups == div_round_up(g.blocks, g.group_blocks), "its superblock is impossible");
  g.free = u64(144);
  const std::uint64_t log_start = u64(48);
  require(log_start != 0, "its log is on another device");
  g.log_group = log_start >> group_log;
  g.log_block = log_start & ((std::uint64_t{1} << group_log) - 1);
  g.log_blocks = u32(96);
  require(g.log_group < g.groups && g.log_block + g.log_blocks <= g.group_blocks, "its superblock is impossible");
  g.log.offset = (g.log_group * g.group_blocks + g.log_block) * g.block;
  g.log.length = g.log_blocks * g.block;
  return g;
}

using Extents = std::map<std::uint32_t, std::uint32_t>; ///< first block → blocks

/// One allocation group.
class Group {
 public:
  Group(const Part& part, const Geometry& g, std::uint64_t number, std::uint64_t& tree_blocks)
      : part_(part), g_(g), number_(number), start_(number * g.group_blocks),
        length_(std::min(g.group_blocks, g.blocks - start_)), tree_blocks_(tree_blocks) {}

  /// Its free extents; `counted`: how many free blocks the superblock counts here.
  Extents read(std::uint64_t& counted);

 private:
  Bytes header(std::uint64_t sector) const { return part_.read(start_ * g_.block + sector * g_.sector, g_.sector); }
  bool is_ours(ByteSpan uuid) const { return std::ranges::equal(uuid, ByteSpan(g_.uuid)); }
  void read_free_list(ByteSpan agf);
  Extents read_tree(std::uint32_t root, std::uint32_t levels, std::string_view magic);
  void read_node(std::uint32_t at, unsigned level, std::string_view magic, Extents& extents);
  void require_used(const Extents& extents, std::uint64_t first, std::uint64_t count) const;

  const Part& part_;
  const Geometry& g_;
  const std::uint64_t number_, start_, length_;
  std::uint64_t& tree_blocks_;
  std::set<std::uint32_t> used_; ///< blocks of the trees and of the free list
};

void Group::read_free_list(ByteSpan agf) {
  const std::uint64_t first = load_be<std::uint32_t>(agf, 40), last = load_be<std::uint32_t>(agf, 44);
  const std::uint64_t count = load_be<std::uint32_t>(agf, 48);
  const Bytes list = header(3);
  const std::size_t base = g_.v5 ? 36 : 0;
  if (g_.v5) {
    require(load_be<std::uint32_t>(list, 0) == agfl_magic && load_be<std::uint32_t>(list, 4) == number_ &&
                is_ours(ByteSpan(list).subspan(8, 16)),
            "a free list is damaged");
    require(checksum_agrees(load_le<std::uint32_t>(list, 32), crc32c_with_hole(list, 32)),
            "a free list's checksum is wrong");
  }
  const std::uint64_t places = (list.size() - base) / 4;
  require(first < places && last < places && count <= places, "a free list is damaged");
  const std::uint64_t active = last >= first ? last - first + 1 : places - first + last + 1;
  require(count == 0 || active == count, "a free list is damaged");
  for (std::uint64_t i = 0; i < count; i++) {
    const auto block = load_be<std::uint32_t>(list, base + (first + i) % places * 4);
    require(block < length_ && used_.insert(block).second, "a free list is damaged");
  }
}

/// Deep as the levels say, at most nine; no block is read twice.
void Group::read_node(std::uint32_t at, unsigned level, std::string_view magic, Extents& extents) {
  require(at < length_ && used_.insert(at).second && ++tree_blocks_ <= most_tree_blocks,
          "a tree of free blocks is damaged");
  const std::uint64_t place = (start_ + at) * g_.block;
  const Bytes node = part_.read(place, g_.block);
  require(as_text(ByteSpan(node).first(4)) == magic && load_be<std::uint16_t>(node, 4) == level,
          "a tree of free blocks is damaged");
  if (g_.v5) {
    require(load_be<std::uint64_t>(node, 16) == place / 512 && load_be<std::uint32_t>(node, 48) == number_ &&
                is_ours(ByteSpan(node).subspan(32, 16)),
            "a tree of free blocks is damaged");
    require(checksum_agrees(load_le<std::uint32_t>(node, 52), crc32c_with_hole(node, 52)),
            "the checksum of a tree of free blocks is wrong");
  }
  const std::size_t base = g_.v5 ? 56 : 16, room = node.size() - base;
  const std::size_t records = load_be<std::uint16_t>(node, 6), most = level == 0 ? room / 8 : room / 12;
  require(records <= most && (level == 0 || records != 0), "a tree of free blocks is damaged");
  for (std::size_t i = 0; i < records; i++) {
    if (level != 0) {
      read_node(load_be<std::uint32_t>(node, base + most * 8 + i * 4), level - 1, magic, extents);
      continue;
    }
    const auto first = load_be<std::uint32_t>(node, base + i * 8),
               count = load_be<std::uint32_t>(node, base + i * 8 + 4);
    require(count != 0 && first < length_ && count <= length_ - first, "a tree of free blocks is damaged");
    require(extents.emplace(first, count).second && extents.size() <= most_extents, "it has too many free extents");
  }
}

Extents Group::read_tree(std::uint32_t root, std::uint32_t levels, std::string_view magic) {
  require(levels != 0 && levels <= most_levels, "a tree of free blocks is damaged");
  Extents extents;
  read_node(root, levels - 1, magic, extents);
  return extents;
}

void Group::require_used(const Extents& extents, std::uint64_t first, std::uint64_t count) const {
  auto next = extents.lower_bound(static_cast<std::uint32_t>(first));
  require(next == extents.end() || next->first >= first + count, "a tree calls a table free");
  if (next != extents.begin()) {
    --next;
    require(std::uint64_t{next->first} + next->second <= first, "a tree calls a table free");
  }
}

Extents Group::read(std::uint64_t& counted) {
  const Bytes agf = header(1);
  const auto u32 = [&](std::size_t at) { return load_be<std::uint32_t>(agf, at); };
  require(u32(0) == agf_magic && u32(4) == 1 && u32(8) == number_ && u32(12) == length_,
          "an allocation group's header is damaged");
  if (g_.v5) {
    require(is_ours(ByteSpan(agf).subspan(64, 16)), "an allocation group's header is damaged");
    require(checksum_agrees(load_le<std::uint32_t>(agf, 216), crc32c_with_hole(agf, 216)),
            "the checksum of an allocation group's header is wrong");
  }
  read_free_list(agf);
  Extents extents = read_tree(u32(16), u32(28), g_.v5 ? "AB3B" : "ABTB");
  require(extents == read_tree(u32(20), u32(32), g_.v5 ? "AB3C" : "ABTC"), "its trees of free blocks differ");

  std::uint64_t free = 0, longest = 0, end = 0;
  for (const auto& [first, count] : extents) {
    require(first >= end, "its free blocks overlap");
    end = std::uint64_t{first} + count;
    free += count;
    longest = std::max<std::uint64_t>(longest, count);
  }
  require(free == u32(52) && longest == u32(56), "a group's count of free blocks is wrong");
  require_used(extents, 0, div_round_up(4 * g_.sector, g_.block));
  if (number_ == g_.log_group)
    require_used(extents, g_.log_block, g_.log_blocks);
  for (const std::uint32_t block : used_)
    require_used(extents, block, 1);
  counted += free + u32(48) + (g_.lazy ? u32(60) : 0);
  return extents;
}

std::vector<Range> read(const Part& part, ByteSpan start, bool frozen) {
  part.require_content("xfs");
  const Geometry g = check_superblock(part, start);
  if (!frozen)
    require_clean_xfs_log(part, g.log);
  FreeRanges free;
  std::uint64_t counted = 0, tree_blocks = 0;
  for (std::uint64_t number = 0; number < g.groups; number++) {
    const Extents extents = Group(part, g, number, tree_blocks).read(counted);
    for (const auto& [first, count] : extents)
      free.add({part.range().offset + (number * g.group_blocks + first) * g.block, count * g.block});
  }
  require(counted == g.free || (frozen && g.lazy && g.free <= counted), "its count of free blocks is wrong");
  return free.take();
}

FreeBlocks judge(const Image& image, Range range, bool frozen) {
  const Part part(image, range);
  if (range.length < 4096)
    return {};
  const Bytes start = part.read(0, 512);
  if (load_be<std::uint32_t>(start, 0) != super_magic)
    return {};
  return judge_free_blocks("xfs", [&] { return read(part, start, frozen); });
}

} // namespace

FreeBlocks read_xfs_free(const Image& image, Range range) {
  return judge(image, range, false);
}

FreeBlocks read_frozen_xfs_free(const Image& image, Range range) {
  return judge(image, range, true);
}

} // namespace kvmport
