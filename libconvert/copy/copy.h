// SPDX-License-Identifier: Apache-2.0
// Moves the bytes of one disk from an Image to an ImageWriter: workers over chunks, zero detection, a journal beside
// the partial file so that a killed run goes on, digests of all that was written. Free blocks of clean filesystems are
// skipped.
#pragma once

#include "base/events.h"
#include "formats/image.h"
#include "formats/overlay.h"

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace kvmport {

struct CopyOptions {
  unsigned workers = 0;           ///< 0: one per CPU
  std::uint64_t chunk = 2U << 20; ///< bytes; a multiple of the writer's block size
  /// Ranges that need not be copied (free blocks of filesystems); they become zeros. Sorted, not overlapping.
  std::vector<Range> skip;
  /// How often the journal learns what is done: after so much time or so many bytes written.
  std::chrono::milliseconds checkpoint_interval{2000};
  std::uint64_t checkpoint_bytes = 512U << 20;
};

struct CopyStats {
  std::uint64_t total = 0;   ///< virtual size
  std::uint64_t data = 0;    ///< bytes read and written in this run
  std::uint64_t zero = 0;    ///< bytes that were zero (by format or by content)
  std::uint64_t skipped = 0; ///< free blocks that were not read
  std::uint64_t reused = 0;  ///< bytes taken over from a run that was stopped, verified by digest
};

/// Names the files of `image` and their state (path, inode, size, time of change), for PartialDisk's source_id and to
/// see whether a source was changed while it was read. A block device has no such state: its identity is a new one each
/// time.
std::string image_identity(const Image& image);

/// A disk that grows as `FINAL.partial` (+ `FINAL.partial.journal`) beside its final name.
class PartialDisk {
 public:
  /// Opens the partial file of an earlier run when its journal belongs to the same source and settings, else starts
  /// new. `source_id`: any text that names the source and its state (files, sizes, mtimes, what is skipped). Takes a
  /// lock that dies with the process (Error OUTPUT_BUSY when another run holds it).
  PartialDisk(const std::filesystem::path& final_path, const CreateOptions& create, const std::string& source_id);
  ~PartialDisk();
  PartialDisk(const PartialDisk&) = delete;
  PartialDisk& operator=(const PartialDisk&) = delete;

  ImageWriter& writer();
  const std::filesystem::path& partial_path() const;
  /// Copies all of `image`; chunks in the journal whose digest still matches what lies in the partial file are not
  /// copied again.
  CopyStats copy(const Image& image, const CopyOptions& options, EventSink& sink, const StopToken& stop);
  /// After copy(): puts the overlay's changed blocks over the copy.
  void merge(const Overlay& overlay, EventSink& sink, const StopToken& stop);
  /// writer().finish(), so that the partial file is a whole image under its partial name.
  void finish();
  /// Renames to the final name (atomic, durable), removes the journal. `replace`: an existing file may be replaced.
  void publish(bool replace);
  /// Removes partial file and journal.
  void discard();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Free blocks of the clean filesystems (ext2/3/4, XFS, btrfs, NTFS, FAT) and swap areas in `image` (whole disk, MBR or
/// GPT partitions) and large gaps between partitions, sorted and merged. A filesystem whose log needs recovery, or that
/// looks damaged, contributes nothing: its free map can't be trusted.
struct FreeMap {
  std::vector<Range> free;
  std::vector<std::string> notes; ///< per partition: what was recognised and why it was or wasn't used
};
/// What the running kernel holds still (FIFREEZE) while the map of its own disk is read: a log that looks open is no
/// reason for doubt there, what is on the disk is all that there is.
struct FrozenParts {
  std::vector<std::uint64_t> starts; ///< where on the disk these filesystems begin, in bytes
  std::vector<std::string> volumes;  ///< logical volumes that hold one, as "group/volume"
};
FreeMap find_free_blocks(const Image& image, const FrozenParts& frozen = {});

/// Throws DISK_FULL when `directory` can't take `needed` bytes.
void check_space(const std::filesystem::path& directory, std::uint64_t needed);
/// Estimate of the bytes that a copy of `image` without `skip` will take as `create` says.
std::uint64_t estimate_size(const Image& image, const std::vector<Range>& skip, const CreateOptions& create);

} // namespace kvmport
