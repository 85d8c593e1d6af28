// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/btrfs_tree.h"

#include <algorithm>
#include <bit>

namespace kvmport::btrfs {
namespace {

constexpr std::size_t super_size = 4096, device_item = 201, system_array = 811, most_system_bytes = 2048;
constexpr std::size_t node_header = 101, key_size = 17, item_size = 25, pointer_size = 33, chunk_head = 48,
                      stripe_size = 32;
constexpr unsigned most_levels = 8;            // BTRFS_MAX_LEVEL
constexpr std::uint64_t most_nodes = 1U << 22; // 64 GiB of nodes; bounds the time
constexpr std::size_t most_chunks = 1U << 20;
constexpr std::uint64_t stripe_unit = 64U << 10;

// Mixed backreferences, default subvolume, mixed groups, LZO, Zstandard, big metadata, extended references, skinny
// metadata, no holes, metadata UUID. Not: RAID56, RAID1C34, zoned, extent tree v2, stripe tree, simple quotas.
constexpr std::uint64_t known_incompat = 0x77f, skinny_metadata = 0x100, metadata_uuid = 0x400;
// Free space tree and that it is valid, verity, block group tree.
constexpr std::uint64_t known_compat_ro = 0xf, group_tree = 0x8;
constexpr std::uint64_t known_super_flags = 0x3; // written, relocation; not: errors, seeding, a change of UUID, dumps
constexpr std::uint64_t chunk_kinds = 0x7, duplicated = 0x20;
constexpr const char* damaged = "its trees are damaged";
constexpr const char* impossible = "its superblock is impossible";

Key load_key(ByteSpan bytes, std::size_t at) {
  return {load_le<std::uint64_t>(bytes, at), load_le<std::uint8_t>(bytes, at + 8),
          load_le<std::uint64_t>(bytes, at + 9)};
}

Uuid load_uuid(ByteSpan bytes, std::size_t at) {
  Uuid uuid;
  std::copy_n(bytes.subspan(at, uuid.size()).begin(), uuid.size(), uuid.begin());
  return uuid;
}

/// The checksum is of all behind its 32 bytes.
bool checksum_fits(ByteSpan bytes) {
  return checksum_agrees(load_le<std::uint32_t>(bytes, 0), crc32c(bytes.subspan(32)));
}

} // namespace

Superblock check_superblock(ByteSpan s, const Part& part) {
  const auto u8 = [&](std::size_t at) { return load_le<std::uint8_t>(s, at); };
  const auto u32 = [&](std::size_t at) { return load_le<std::uint32_t>(s, at); };
  const auto u64 = [&](std::size_t at) { return load_le<std::uint64_t>(s, at); };
  Superblock b;
  require(load_le<std::uint16_t>(s, 196) == 0, "its checksums are of another kind than CRC-32C");
  require(checksum_fits(s.first(super_size)), "its superblock's checksum is wrong");
  require(u64(48) == stripe_unit && (u64(56) & ~known_super_flags) == 0, "its superblock is marked as special");
  require(u64(96) == 0, "its log needs to be replayed, so its map may be old");
  require(u64(136) == 1, "it lies on several devices");
  require(u64(172) == 0 && (u64(180) & ~known_compat_ro) == 0 && (u64(188) & ~known_incompat) == 0,
          "it has features whose free blocks can't be told");
  b.skinny = (u64(188) & skinny_metadata) != 0;
  b.has_group_tree = (u64(180) & group_tree) != 0;
  b.sector = u32(144);
  b.node = u32(148);
  require(std::has_single_bit(b.sector) && b.sector >= 4096 && b.sector <= 65536, impossible);
  require(std::has_single_bit(b.node) && b.node >= b.sector && b.node <= 65536, impossible);
  b.total = u64(device_item + 8);
  b.device = u64(device_item);
  require(b.total <= part.size(), "it is larger than its partition");
  require(b.total == u64(112) && b.total % b.sector == 0 && u64(120) <= b.total, impossible);
  b.used = u64(120);
  require(load_uuid(s, device_item + 82) == load_uuid(s, (u64(188) & metadata_uuid) != 0 ? 571 : 32), impossible);
  b.fsid = load_uuid(s, (u64(188) & metadata_uuid) != 0 ? 571 : 32);
  b.root = {u64(80), u64(72), root_tree, u8(198)};
  b.chunk_root = {u64(88), u64(164), chunk_tree, u8(199)};
  const std::uint32_t length = u32(160);
  require(length <= most_system_bytes, impossible);
  b.system_chunks.assign(s.begin() + system_array, s.begin() + system_array + length);
  return b;
}

Trees::Trees(const Part& part, const Superblock& super) : part_(part), super_(super) {
  read_system_chunks();
  walk(super.chunk_root, [&](const Key& key, ByteSpan item) {
    if (key.type == chunk_item)
      add_chunk(key, item);
  });
}

/// Twice the same chunk is allowed: the system's stand in the superblock and in their tree.
void Trees::add_chunk(const Key& key, ByteSpan item) {
  require(item.size() >= chunk_head + stripe_size && key.objectid == 256 && chunks_.size() < most_chunks, damaged);
  Chunk chunk;
  chunk.length = load_le<std::uint64_t>(item, 0);
  chunk.type = load_le<std::uint64_t>(item, 24);
  const std::size_t stripes = load_le<std::uint16_t>(item, 44);
  require((chunk.type & ~(chunk_kinds | duplicated)) == 0 && (chunk.type & chunk_kinds) != 0,
          "its profile is neither single nor DUP");
  require(stripes == ((chunk.type & duplicated) != 0 ? 2U : 1U) && item.size() == chunk_head + stripes * stripe_size,
          damaged);
  require(chunk.length != 0 && chunk.length % super_.sector == 0 && key.offset % super_.sector == 0 &&
              key.offset <= ~std::uint64_t{0} - chunk.length,
          damaged);
  for (std::size_t i = 0; i < stripes; i++) {
    const auto place = load_le<std::uint64_t>(item, chunk_head + i * stripe_size + 8);
    require(load_le<std::uint64_t>(item, chunk_head + i * stripe_size) == super_.device, "it lies on several devices");
    require(place <= super_.total && chunk.length <= super_.total - place && place % super_.sector == 0, damaged);
    chunk.places.push_back(place);
  }
  const auto next = chunks_.lower_bound(key.offset);
  if (next != chunks_.end() && next->first == key.offset) {
    require(next->second.length == chunk.length && next->second.places == chunk.places &&
                next->second.type == chunk.type,
            damaged);
    return;
  }
  require(next == chunks_.end() || key.offset + chunk.length <= next->first, damaged);
  require(next == chunks_.begin() || std::prev(next)->first + std::prev(next)->second.length <= key.offset, damaged);
  chunks_.emplace(key.offset, std::move(chunk));
}

void Trees::read_system_chunks() {
  const ByteSpan all = super_.system_chunks;
  for (std::size_t at = 0; at < all.size();) {
    require(all.size() - at >= key_size + chunk_head, impossible);
    const Key key = load_key(all, at);
    const std::size_t length = chunk_head + load_le<std::uint16_t>(all, at + key_size + 44) * stripe_size;
    require(key.type == chunk_item && length <= all.size() - at - key_size, impossible);
    add_chunk(key, all.subspan(at + key_size, length));
    at += key_size + length;
  }
}

std::uint64_t Trees::physical(std::uint64_t logical) const {
  auto chunk = chunks_.upper_bound(logical);
  require(chunk != chunks_.begin(), damaged);
  --chunk;
  const std::uint64_t within = logical - chunk->first;
  require(within < chunk->second.length && super_.node <= chunk->second.length - within, damaged);
  return chunk->second.places[0] + within;
}

Bytes Trees::read_node(const Root& at) {
  require(++nodes_ <= most_nodes, "its trees are too large");
  require(at.bytenr % super_.sector == 0, damaged);
  Bytes node = part_.read(physical(at.bytenr), super_.node);
  require(checksum_fits(node), "a tree node's checksum is wrong");
  const Uuid uuid = load_uuid(node, 64);
  require(load_uuid(node, 32) == super_.fsid && load_le<std::uint64_t>(node, 48) == at.bytenr &&
              (load_le<std::uint64_t>(node, 56) & 1) != 0 && load_le<std::uint64_t>(node, 80) == at.generation &&
              load_le<std::uint64_t>(node, 88) == at.owner && load_le<std::uint8_t>(node, 100) == at.level,
          damaged);
  require(!has_uuid_ || uuid == chunk_tree_uuid_, damaged);
  chunk_tree_uuid_ = uuid;
  has_uuid_ = true;
  return node;
}

/// Deep as the levels say. Keys that only ascend keep a node from being visited twice.
void Trees::walk_node(const Root& at, Order& order, const Visit& visit) {
  const Bytes node = read_node(at);
  const std::size_t count = load_le<std::uint32_t>(node, 96), each = at.level == 0 ? item_size : pointer_size;
  require(count <= (node.size() - node_header) / each, damaged);
  for (std::size_t i = 0; i < count; i++) {
    const std::size_t entry = node_header + i * each;
    const Key key = load_key(node, entry);
    require(!order.any || key > order.last, damaged);
    if (at.level == 0) {
      order = {true, key};
      const std::size_t from = load_le<std::uint32_t>(node, entry + 17),
                        length = load_le<std::uint32_t>(node, entry + 21);
      const std::size_t room = node.size() - node_header;
      require(from <= room && length <= room - from && from >= count * item_size, damaged);
      visit(key, ByteSpan(node).subspan(node_header + from, length));
      continue;
    }
    const Root child{load_le<std::uint64_t>(node, entry + 17), load_le<std::uint64_t>(node, entry + 25), at.owner,
                     at.level - 1};
    const Order before = order;
    walk_node(child, order, visit);
    require(order.any && (!before.any || order.last > before.last) && order.last >= key, damaged); // none is empty
  }
}

void Trees::walk(const Root& root, const Visit& visit) {
  require(root.level < most_levels, damaged);
  Order order;
  walk_node(root, order, visit);
}

Root Trees::find_root(std::uint64_t id) {
  Root found;
  walk(super_.root, [&](const Key& key, ByteSpan item) {
    if (key.objectid != id || key.type != root_item)
      return;
    require(found.bytenr == 0 && key.offset == 0, damaged);
    found = {load_le<std::uint64_t>(item, 176), load_le<std::uint64_t>(item, 160), id,
             load_le<std::uint8_t>(item, 238)};
    require(found.bytenr != 0, damaged);
  });
  require(found.bytenr != 0, damaged);
  return found;
}

} // namespace kvmport::btrfs
