// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/copy.h"
#include "libconvert/copy/ext_free.h"
#include "libconvert/copy/partition_table.h"

#include <algorithm>

namespace kvmport {

FreeMap find_free_blocks(const Image& image) {
  FreeMap map;
  PartitionTable table;
  try {
    table = read_partition_table(image);
  } catch (const Error& error) {
    map.notes.push_back("the partitions can't be read, the disk is copied whole: " + error.summary());
    return map;
  }
  map.notes = std::move(table.notes);
  for (const Partition& partition : table.partitions) {
    try {
      const ExtFree found = read_ext_free(image, partition.range);
      if (found.recognised)
        map.notes.push_back(partition.name + ": " + found.note);
      map.free.insert(map.free.end(), found.free.begin(), found.free.end());
    } catch (const Error& error) {
      map.notes.push_back(partition.name + ": can't be read, copied whole: " + error.summary());
    }
  }
  std::sort(map.free.begin(), map.free.end(), [](const Range& a, const Range& b) { return a.offset < b.offset; });
  return map;
}

} // namespace kvmport
