// SPDX-License-Identifier: Apache-2.0
// What a guest does to its disks, as evidence of how far it boots, also when it has no console at all. Looks at
// ext2/3/4 on whole disks and partitions that hold an init program; everything else is silently no evidence: root: its
// superblock says that it is in use since a new mount time (fsck sets neither); init: init's program was read (boot
// loaders don't read it), or systemd changed machine-id, random-seed or the journal; login: the program that asks for
// names was read, or wtmp, read through the filesystem's journal, says that it waits.
#pragma once

#include "kvmboot/engine.h"

#include <atomic>
#include <mutex>

namespace kvmport {

/// Made before power-on; afterwards it opens no file, reads the overlays, and works in its own unnamed ones. read() and
/// written() from any thread, after the overlay was used; the others from one. What can't be understood, or
/// costs too much to look at, is no evidence and no error.
class DiskEvidence {
 public:
  /// The overlays are borrowed. In `scratch` lies one unnamed file of at most 1 GiB for each filesystem that is
  /// watched.
  DiskEvidence(const std::vector<BootDisk>& disks, const std::filesystem::path& scratch);
  ~DiskEvidence();
  DiskEvidence(const DiskEvidence&) = delete;
  DiskEvidence& operator=(const DiskEvidence&) = delete;

  void read(std::size_t disk, Range range);
  void written(std::size_t disk, Range range);
  /// What is new: texts of Evidence::Kind::disk. Cheap, but every 5 seconds, when the guest wrote, it looks into the
  /// filesystem.
  std::vector<std::string> take();
  /// What the guest wrote since the last call, the first few of it: texts of Evidence::Kind::disk_write.
  std::vector<std::string> take_writes();
  /// Whether the guest used a disk since the last call.
  bool take_used() { return used_.exchange(false); }
  /// The machine starts anew: what it did before counts no more.
  void restart();

 private:
  class System;
  std::mutex mutex_; ///< guards what read() and written() note
  std::vector<std::string> writes_;
  std::atomic<bool> used_ = false;
  std::vector<std::unique_ptr<System>> systems_;
};

} // namespace kvmport
