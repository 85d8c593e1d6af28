// SPDX-License-Identifier: Apache-2.0
// Any bytes as a disk whose free blocks are looked for: whatever is found lies inside, in order, in pieces that are not
// too many, and took no more reading than a few times the disk. Byte 0 of the input chooses the reader. Checksums count
// as right in this build, see libconvert/copy/free_map.h.
#include "libconvert/copy/btrfs_free.h"
#include "libconvert/copy/copy.h"
#include "libconvert/copy/ext_free.h"
#include "libconvert/copy/fat_free.h"
#include "libconvert/copy/ntfs_free.h"
#include "libconvert/copy/swap_free.h"
#include "libconvert/copy/xfs_free.h"
#include "tests/fuzz/pieces_disk.h"

namespace {

using namespace kvmport;

void check(const std::vector<Range>& free, Range inside, std::size_t most) {
  fuzz::must(free.size() <= most);
  std::uint64_t end = inside.offset;
  for (const Range& range : free) {
    fuzz::must(range.offset >= end && range.length >= shortest_free_range && range.length <= inside.end());
    end = range.end();
    fuzz::must(end <= inside.end());
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvmport::fuzz;
  constexpr std::uint64_t largest = 512U << 20, kept_free = 4096;
  constexpr std::array readers{read_ext_free,  read_xfs_free, read_btrfs_free,
                               read_ntfs_free, read_fat_free, read_swap_free};
  Input in(data, size);
  const std::size_t choice = in.number(1) % (readers.size() + 1);
  const PiecesDisk disk(in, largest);
  try {
    if (choice == readers.size()) {
      check(find_free_blocks(disk).free, {0, disk.size()}, 64 * most_free_ranges);
    } else if (disk.size() > 2 * kept_free) {
      // Not at the disk's beginning: offsets must be of the disk.
      const Range range{choice % 2 == 0 ? 0 : kept_free, disk.size() - (choice % 2 == 0 ? 0 : kept_free)};
      const FreeBlocks found = readers[choice](disk, range);
      check(found.free, range, most_free_ranges * 2);
      must(found.recognised ? !found.note.empty() : found.free.empty());
    }
  } catch (const Error&) { // a refusal is an answer
  }
  must(disk.bytes_read() <= 16 * disk.size() + (256U << 20));
  return 0;
}
