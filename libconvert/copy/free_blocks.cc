// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/free_blocks.h"

#include "formats/block_stack.h"
#include "libconvert/copy/btrfs_free.h"
#include "libconvert/copy/ext_free.h"
#include "libconvert/copy/fat_free.h"
#include "libconvert/copy/free_gaps.h"
#include "libconvert/copy/ntfs_free.h"
#include "libconvert/copy/swap_free.h"
#include "libconvert/copy/xfs_free.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace kvmport {
namespace {

constexpr std::array readers{read_ext_free,  read_btrfs_free, read_fat_free,
                             read_ntfs_free, read_swap_free,  read_xfs_free};
constexpr std::array frozen_readers{read_frozen_ext_free, read_btrfs_free, read_fat_free,
                                    read_ntfs_free,       read_swap_free,  read_frozen_xfs_free};
static_assert(readers.size() == frozen_readers.size());

bool contains(const auto& list, const auto& one) {
  return std::find(list.begin(), list.end(), one) != list.end();
}

/// By its type the partition may be a filesystem or swap, and not a part of something larger (LVM, RAID, LUKS, dynamic
/// disks, storage spaces).
bool may_hold_filesystem(const std::string& kind, const std::string& type) {
  // FAT and NTFS, also hidden ones and Windows' recovery; Linux and its swap; the EFI system partition.
  static constexpr std::array<std::string_view, 19> dos_types{"0x01", "0x04", "0x06", "0x07", "0x0b", "0x0c", "0x0e",
                                                              "0x11", "0x14", "0x16", "0x17", "0x1b", "0x1c", "0x1e",
                                                              "0x27", "0x82", "0x83", "0xef", "0x12"};
  static constexpr std::array<std::string_view, 6> other_gpt_types{
      "a19d880f-05fc-4d3b-a006-743f0f84911e", "e6d6d379-f507-44c2-a23c-238f2a3df928",
      "ca7d7ccb-63ed-4c53-861c-1742536059cc", "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3",
      "af9b60a0-1431-4f62-bc68-3311714a69ad", "e75caf8f-f680-4cee-afa3-b001e56efc2d"};
  if (kind == "dos")
    return std::find(dos_types.begin(), dos_types.end(), type) != dos_types.end();
  return std::find(other_gpt_types.begin(), other_gpt_types.end(), type) == other_gpt_types.end();
}

void add_gaps(const Image& image, const DiskPartitions& table, FreeMap& map) {
  try {
    const FreeBlocks gaps = read_free_gaps(image, table);
    if (gaps.recognised)
      map.notes.push_back(gaps.note);
    map.free.insert(map.free.end(), gaps.free.begin(), gaps.free.end());
  } catch (const Error& error) {
    map.notes.push_back("space outside of partitions can't be read, copied whole: " + error.summary());
  }
}

/// Logical volumes that lie on this disk alone, and the free extents of such groups.
bool add_volumes(const Image& image, const FrozenParts& frozen, FreeMap& map) {
  const BlockStack stack({{&image, nullptr, image.info().logical_sector}});
  bool awake = true;
  for (const StackDevice& device : stack.devices()) {
    if (device.kind != StackDevice::Kind::volume)
      continue;
    if (!device.unsupported.empty()) {
      map.notes.push_back(describe(device) + ": copied whole: " + device.unsupported);
      continue;
    }
    FreeMap own;
    const bool still = contains(frozen.volumes, device.name);
    awake = add_filesystem(*device.place.image, device.range(), describe(device), own, still) && awake;
    map.notes.insert(map.notes.end(), own.notes.begin(), own.notes.end());
    const auto& volume = dynamic_cast<const MappedImage&>(*device.place.image);
    for (const Range& range : own.free)
      volume.walk(range, [&](const MappedImage::Part& part) {
        if (part.targets.front().image == &image && part.length >= shortest_free_range &&
            map.free.size() < most_free_ranges)
          map.free.push_back({part.targets.front().offset, part.length});
      });
  }
  for (const StackFree& free : stack.free())
    if (const MapTarget& place = stack.devices()[free.device].place; place.image == &image)
      map.free.push_back({place.offset + free.range.offset, free.range.length});
  return awake;
}

} // namespace

bool add_filesystem(const Image& image, Range range, const std::string& name, FreeMap& map, bool frozen) {
  std::vector<FreeBlocks> found;
  for (const auto& reader : frozen ? frozen_readers : readers) {
    try {
      FreeBlocks one = reader(image, range);
      if (one.recognised)
        found.push_back(std::move(one));
    } catch (const Error& error) {
      map.notes.push_back(name + ": can't be read, copied whole: " + error.summary());
      return true;
    }
  }
  for (const FreeBlocks& one : found) {
    const bool alone = found.size() == 1 || one.free.empty();
    map.notes.push_back(name + ": " + (alone ? one.note : "signatures of two things, copied whole"));
    if (alone)
      map.free.insert(map.free.end(), one.free.begin(), one.free.end());
  }
  return std::none_of(found.begin(), found.end(), [](const FreeBlocks& one) { return one.hibernated; });
}

FreeMap find_free_blocks(const Image& image, const FrozenParts& frozen) {
  FreeMap map;
  DiskPartitions table;
  try {
    table = read_partitions(image, image.info().logical_sector);
  } catch (const Error& error) {
    map.notes.push_back("the partitions can't be read, the disk is copied whole: " + error.summary());
    return map;
  }
  for (const auto& note : table.notes)
    map.notes.push_back(note + ": the disk is copied whole");
  if (!table.notes.empty())
    return map;
  bool awake = true;
  if (table.kind.empty())
    awake = add_filesystem(image, {0, image.size()}, "the whole disk", map, contains(frozen.starts, 0U)) && awake;
  for (const DiskPartition& one : table.partitions) {
    const std::string name = "partition " + std::to_string(one.number);
    const bool overlaps =
        std::any_of(table.partitions.begin(), table.partitions.end(), [&](const DiskPartition& other) {
          return &other != &one && other.range.offset < one.range.end() && one.range.offset < other.range.end();
        });
    if (overlaps)
      map.notes.push_back(name + ": overlaps another partition, copied whole");
    else if (may_hold_filesystem(table.kind, one.type))
      awake = add_filesystem(image, one.range, name, map, contains(frozen.starts, one.range.offset)) && awake;
  }
  try {
    awake = add_volumes(image, frozen, map) && awake;
  } catch (const Error& error) {
    map.notes.push_back("logical volumes can't be read, copied whole: " + error.summary());
  }
  add_gaps(image, table, map);
  if (!awake) {
    map.free.clear();
    map.notes.emplace_back("a system is hibernated on it: the disk is copied whole");
  }
  std::sort(map.free.begin(), map.free.end(), [](const Range& a, const Range& b) { return a.offset < b.offset; });
  return map;
}

} // namespace kvmport
