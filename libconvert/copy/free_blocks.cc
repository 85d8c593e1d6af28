// SPDX-License-Identifier: Apache-2.0
#include "formats/partitions.h"
#include "libconvert/copy/copy.h"
#include "libconvert/copy/ext_free.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace kvmport {
namespace {

/// By its type the partition may be a filesystem of Linux, and not a part of something larger (LVM, RAID, LUKS, swap).
bool may_hold_filesystem(const std::string& kind, const std::string& type) {
  if (kind == "dos")
    return type == "0x83";
  static constexpr std::array<std::string_view, 4> others{
      "a19d880f-05fc-4d3b-a006-743f0f84911e", "e6d6d379-f507-44c2-a23c-238f2a3df928",
      "ca7d7ccb-63ed-4c53-861c-1742536059cc", "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"};
  return std::find(others.begin(), others.end(), type) == others.end();
}

void add_filesystem(const Image& image, Range range, const std::string& name, FreeMap& map) {
  try {
    const ExtFree found = read_ext_free(image, range);
    if (found.recognised)
      map.notes.push_back(name + ": " + found.note);
    map.free.insert(map.free.end(), found.free.begin(), found.free.end());
  } catch (const Error& error) {
    map.notes.push_back(name + ": can't be read, copied whole: " + error.summary());
  }
}

} // namespace

FreeMap find_free_blocks(const Image& image) {
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
  if (table.kind.empty())
    add_filesystem(image, {0, image.size()}, "the whole disk", map);
  for (const DiskPartition& one : table.partitions) {
    const std::string name = "partition " + std::to_string(one.number);
    const bool overlaps =
        std::any_of(table.partitions.begin(), table.partitions.end(), [&](const DiskPartition& other) {
          return &other != &one && other.range.offset < one.range.end() && one.range.offset < other.range.end();
        });
    if (overlaps)
      map.notes.push_back(name + ": overlaps another partition, copied whole");
    else if (may_hold_filesystem(table.kind, one.type))
      add_filesystem(image, one.range, name, map);
  }
  std::sort(map.free.begin(), map.free.end(), [](const Range& a, const Range& b) { return a.offset < b.offset; });
  return map;
}

} // namespace kvmport
