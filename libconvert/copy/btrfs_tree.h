// SPDX-License-Identifier: Apache-2.0
// Reads the trees of a btrfs filesystem on one device. btrfs documentation, "On-disk Format": Superblock, Chunk, Node
// header, Item. What is damaged is a Doubt: every node's checksum, place, level, generation, owner and order of keys is
// checked.
#pragma once

#include "libconvert/copy/free_map.h"

#include <array>
#include <compare>
#include <map>

namespace kvmport::btrfs {

using Uuid = std::array<std::byte, 16>;

struct Key {
  std::uint64_t objectid = 0;
  std::uint8_t type = 0;
  std::uint64_t offset = 0;
  auto operator<=>(const Key&) const = default;
};

enum ItemType : std::uint8_t {
  root_item = 132,
  extent_item = 168,
  metadata_item = 169,
  group_item = 192,
  chunk_item = 228
};
enum TreeId : std::uint64_t { root_tree = 1, extent_tree = 2, chunk_tree = 3, block_group_tree = 11 };

struct Root {
  std::uint64_t bytenr = 0, generation = 0, owner = 0;
  unsigned level = 0;
};

struct Superblock {
  std::uint64_t total = 0, used = 0;
  std::uint32_t sector = 0, node = 0;
  bool skinny = false, has_group_tree = false;
  std::uint64_t device = 0;
  Uuid fsid{}; ///< that nodes carry
  Root root, chunk_root;
  Bytes system_chunks;
};

/// Doubt when it is not of one device, of an unknown kind or has a log tree.
Superblock check_superblock(ByteSpan bytes, const Part& part);

struct Chunk {
  std::uint64_t length = 0, type = 0;
  std::vector<std::uint64_t> places; ///< bytes of the device: one, or two for DUP
};

class Trees {
 public:
  Trees(const Part& part, const Superblock& super);

  /// By logical address, complete.
  const std::map<std::uint64_t, Chunk>& chunks() const { return chunks_; }
  /// Where the tree `id` begins.
  Root find_root(std::uint64_t id);
  using Visit = std::function<void(const Key&, ByteSpan)>;
  /// Every item of a tree in the order of keys.
  void walk(const Root& root, const Visit& visit);

 private:
  struct Order {
    bool any = false;
    Key last;
  };
  void add_chunk(const Key& key, ByteSpan item);
  void read_system_chunks();
  Bytes read_node(const Root& at);
  void walk_node(const Root& at, Order& order, const Visit& visit);
  std::uint64_t physical(std::uint64_t logical) const;

  const Part& part_;
  const Superblock& super_;
  std::map<std::uint64_t, Chunk> chunks_;
  Uuid chunk_tree_uuid_{};
  bool has_uuid_ = false;
  std::uint64_t nodes_ = 0;
};

} // namespace kvmport::btrfs
