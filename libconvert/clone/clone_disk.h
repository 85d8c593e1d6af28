// SPDX-License-Identifier: Apache-2.0
// One disk of a clone: how it is made of the source's, and the changes put into it. It grows as TARGET.partial.
#pragma once

#include "base/events.h"
#include "formats/overlay.h"
#include "libconvert/copy/copy.h"
#include "libconvert/machine/machine.h"

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace kvmport {

enum class CloneMode {
  automatic, ///< share blocks where the file system can, else copy
  full,      ///< the same: a disk that needs no other
  linked,    ///< a qcow2 over the source's disk
  flatten,   ///< written anew: one file, without free blocks and snapshots
};

/// What became of a disk.
enum class CloneWay { reflink, copy, linked, flatten };
std::string to_string(CloneWay way);

/// One thread at a time; several disks may be made of one source at once.
class CloneDisk {
 public:
  /// `image` is the opened disk of `described`. `stem`: the path without its ending, which follows the format. Touches
  /// nothing yet. Error CLONE_UNSUPPORTED for a linked clone of a disk that is not one whole file.
  CloneDisk(const Image& image, const MachineDisk& described, const std::filesystem::path& stem, CloneMode mode);
  ~CloneDisk();
  CloneDisk(const CloneDisk&) = delete;
  CloneDisk& operator=(const CloneDisk&) = delete;

  /// "qcow2" or "raw".
  const std::string& format() const { return format_; }
  /// What it will be, as far as is known: whether a reflink succeeds shows when it is made.
  CloneWay way() const { return way_; }
  /// What people should know of it.
  const std::vector<std::string>& notes() const { return notes_; }
  /// The final name.
  const std::filesystem::path& target() const { return target_; }
  const std::filesystem::path& partial() const { return partial_; }
  /// Makes the partial file with what the source's disk holds. Errors: DISK_FULL, OUTPUT_BUSY, those of the source.
  void make(EventSink& sink, const StopToken& stop);
  /// Puts what `changes` (over `image`) holds into it, when there are any; the partial file is complete and durable.
  void complete(const Overlay* changes, EventSink& sink, const StopToken& stop);
  /// Removes the partial file.
  void discard();
  /// Working files beside the partial one.
  std::vector<std::string> leftovers() const;

 private:
  void choose_way(CloneMode mode);
  bool reflink();
  void copy_file(EventSink& sink, const StopToken& stop);
  void flatten(EventSink& sink, const StopToken& stop);
  void link() const;
  void edit(const Overlay& changes) const;

  const Image& image_;
  const MachineDisk& described_;
  std::filesystem::path target_, partial_;
  std::string format_;
  CloneWay way_ = CloneWay::reflink;
  std::vector<std::string> notes_;
  std::unique_ptr<Image> bytes_; ///< the source's file as it is
  std::unique_ptr<PartialDisk> copy_;
};

} // namespace kvmport
