// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/btrfs_free.h"

#include "libconvert/copy/btrfs_tree.h"

#include <algorithm>

namespace kvmport {
namespace {

using namespace btrfs;

constexpr std::uint64_t super_at = 64U << 10, super_size = 4096;
constexpr std::uint64_t reserved = 1U << 20; // BTRFS_DEVICE_RANGE_RESERVED
constexpr std::uint64_t super_room = 64U << 10;
constexpr std::array<std::uint64_t, 3> super_copies{super_at, 64U << 20, std::uint64_t{1} << 38};
constexpr const char* damaged = "its extent tree is damaged";

/// Ranges of the device in any order, at the end sorted.
struct Places {
  std::vector<Range> list;
  void add(Range range) {
    if (range.length == 0)
      return;
    require(list.size() < most_free_ranges * 2, "it has too many free extents");
    list.push_back(range);
  }
};

/// Block groups and the extents in them, which come in the order of their addresses.
class Usage {
 public:
  Usage(const Superblock& super, const std::map<std::uint64_t, Chunk>& chunks, Places& free)
      : super_(super), chunks_(chunks), free_(free), chunk_(chunks.begin()),
        at_(chunks.empty() ? 0 : chunks.begin()->first) {}

  void add_group(const Key& key, ByteSpan item) {
    require(item.size() == 24, damaged);
    const auto chunk = chunks_.find(key.objectid);
    require(chunk != chunks_.end() && chunk->second.length == key.offset &&
                chunk->second.type == load_le<std::uint64_t>(item, 16),
            "a block group and its chunk differ");
    require(groups_.emplace(key.objectid, load_le<std::uint64_t>(item, 0)).second, damaged);
  }
  void add_extent(std::uint64_t start, std::uint64_t length) {
    require(length != 0 && start % super_.sector == 0 && length % super_.sector == 0, damaged);
    while (chunk_ != chunks_.end() && start >= chunk_->first + chunk_->second.length)
      end_chunk();
    require(chunk_ != chunks_.end() && start >= at_, damaged);
    const std::uint64_t end = chunk_->first + chunk_->second.length;
    require(length <= end - start, damaged);
    add_free(start);
    at_ = start + length;
    used_ += length;
  }
  void finish() {
    while (chunk_ != chunks_.end())
      end_chunk();
    require(found_.size() == groups_.size() && found_ == groups_, "a block group's count of used bytes is wrong");
    std::uint64_t sum = 0;
    for (const auto& [start, used] : found_)
      sum += used;
    require(sum == super_.used, "its count of used bytes is wrong");
  }

 private:
  /// Free from where the last extent ended up to `end`, in every copy of the chunk.
  void add_free(std::uint64_t end) {
    if (end - at_ >= shortest_free_range)
      for (const std::uint64_t place : chunk_->second.places)
        free_.add({place + (at_ - chunk_->first), end - at_});
  }
  void end_chunk() {
    add_free(chunk_->first + chunk_->second.length);
    found_[chunk_->first] = used_;
    used_ = 0;
    ++chunk_;
    if (chunk_ != chunks_.end())
      at_ = chunk_->first;
  }

  const Superblock& super_;
  const std::map<std::uint64_t, Chunk>& chunks_;
  Places& free_;
  std::map<std::uint64_t, Chunk>::const_iterator chunk_;
  std::uint64_t at_ = 0, used_ = 0;
  std::map<std::uint64_t, std::uint64_t> groups_, found_; ///< start → used bytes, as recorded and as summed
};

bool before(const Range& a, const Range& b) {
  return a.offset < b.offset;
}

/// What no chunk covers; chunks must not overlap on the device.
void add_unallocated(const std::map<std::uint64_t, Chunk>& chunks, std::uint64_t total, Places& free) {
  std::vector<Range> taken;
  for (const auto& [start, chunk] : chunks)
    for (const std::uint64_t place : chunk.places)
      taken.push_back({place, chunk.length});
  std::sort(taken.begin(), taken.end(), before);
  std::uint64_t at = 0;
  for (const Range& range : taken) {
    require(range.offset >= at, "its chunks overlap");
    free.add({at, range.offset - at});
    at = range.end();
  }
  free.add({at, total - at});
}

/// Without the first mebibyte and where superblocks are.
std::vector<Range> without_superblocks(std::vector<Range> places, std::uint64_t from) {
  std::sort(places.begin(), places.end(), before);
  FreeRanges free;
  const auto add = [&](std::uint64_t begin, std::uint64_t end) {
    if (begin < end)
      free.add({from + begin, end - begin});
  };
  for (const Range& range : places) {
    std::uint64_t at = std::max(range.offset, reserved);
    for (const std::uint64_t copy : super_copies)
      if (copy + super_room > at && copy < range.end()) {
        add(at, copy);
        at = copy + super_room;
      }
    add(at, range.end());
  }
  return free.take();
}

std::vector<Range> read(const Part& part, ByteSpan super_bytes) {
  part.require_content("btrfs");
  const Superblock super = check_superblock(super_bytes, part);
  Trees trees(part, super);
  Places free;
  Usage usage(super, trees.chunks(), free);
  trees.walk(trees.find_root(extent_tree), [&](const Key& key, ByteSpan item) {
    if (key.type == extent_item) {
      require(item.size() >= 24, damaged);
      usage.add_extent(key.objectid, key.offset);
    } else if (key.type == metadata_item) {
      require(super.skinny && item.size() >= 24, damaged);
      usage.add_extent(key.objectid, super.node);
    } else if (key.type == group_item) {
      require(!super.has_group_tree, damaged);
      usage.add_group(key, item);
    }
  });
  if (super.has_group_tree)
    trees.walk(trees.find_root(block_group_tree), [&](const Key& key, ByteSpan item) {
      if (key.type == group_item)
        usage.add_group(key, item);
    });
  usage.finish();
  add_unallocated(trees.chunks(), super.total, free);
  return without_superblocks(std::move(free.list), part.range().offset);
}

} // namespace

FreeBlocks read_btrfs_free(const Image& image, Range range) {
  const Part part(image, range);
  if (range.length < super_at + super_size)
    return {};
  const Bytes super = part.read(super_at, super_size);
  if (as_text(ByteSpan(super).subspan(64, 8)) != "_BHRfS_M")
    return {};
  return judge_free_blocks("btrfs", [&] { return read(part, super); });
}

} // namespace kvmport
