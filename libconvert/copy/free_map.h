// SPDX-License-Identifier: Apache-2.0
// What the readers of free maps share. Each looks at the part `range` of a disk and says which bytes of it hold
// nothing. A map is used only when its filesystem was unmounted cleanly and everything in it agrees: a wrong map loses
// files without a trace, a filesystem that is copied whole only costs time. Images are hostile: every number is checked
// before it is used, time and memory are bounded.
#pragma once

#include "formats/part.h"

#include <functional>
#include <string>
#include <vector>

namespace kvmport {

struct FreeBlocks {
  bool recognised = false; ///< its signature is there
  std::vector<Range> free; ///< bytes of the disk, sorted, merged; empty when the map can't be trusted
  std::string note;        ///< what it is, and why its map is or isn't used
  bool hibernated = false; ///< a system sleeps in it, whose memory may know of more than is on any of its disks
};

/// Ranges shorter than this are not worth skipping.
inline constexpr std::uint64_t shortest_free_range = 64U << 10;
/// More fragments than that are copied.
inline constexpr std::size_t most_free_ranges = 1U << 20;

/// Collects free ranges that come in ascending order.
class FreeRanges {
 public:
  /// Neighbours become one. A range that lies before the last one is a Doubt.
  void add(Range range);
  std::vector<Range> take();

 private:
  void end_run();
  Range run_;
  std::vector<Range> list_;
};

/// CRC-32C (Castagnoli).
std::uint32_t crc32c(ByteSpan bytes);
/// The same of `bytes`, in which the four bytes at `hole` count as zeros.
std::uint32_t crc32c_with_hole(ByteSpan bytes, std::size_t hole);

/// The answer for a filesystem of this kind: what `read` finds, or, when it throws a Doubt, nothing and the reason.
/// `read` may make `kind` more exact.
FreeBlocks judge_free_blocks(const std::string& kind, const std::function<std::vector<Range>()>& read);

/// " (and so on)" at the end of the note.
void add_remark(FreeBlocks& blocks, const std::string& remark);

} // namespace kvmport
