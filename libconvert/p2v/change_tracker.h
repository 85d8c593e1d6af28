// SPDX-License-Identifier: Apache-2.0
// Tells which parts of this host's disks were written while it runs, from tracepoints of the kernel's block layer, in a
// tracing instance of its own. No module, no snapshot, nothing of the disks' setup is changed.
//
// Which events, and why (Linux, include/trace/events/block.h, block/blk-core.c, block/blk-mq.c):
// - block_rq_complete: a request is done, and what it wrote can be read. Writes that were under way when tracking began
//   or when changes were taken are seen again here, so a block that was read too early is always sent again. All
//   kernels name the whole disk and its own sectors there, and only the bottom of a stack of dm and md has requests.
// - block_bio_queue: discards that were joined into one request are seen one by one only here. It, too, comes after
//   partitions were resolved (blk_partition_remap), with the disk's number; should one name a partition, both readings
//   of its sector are marked.
// - block_bio_complete: for disks whose driver takes no requests (pmem).
// Everything that is not a read is a change: writes, discards, write zeroes ("N" in the event's letters), zone
// operations. Commands that programs send past the block layer (SG_IO, NVMe passthrough) are not seen.
#pragma once

#include "libconvert/p2v/block_devices.h"

#include <chrono>
#include <memory>
#include <span>
#include <vector>

namespace kvmport {

struct TrackedDisk {
  dev_t device = 0;       ///< a whole disk at the bottom of any stack
  std::uint64_t size = 0; ///< bytes
};

struct TrackerOptions {
  std::uint64_t granularity = 64U << 10;        ///< bytes, a power of two
  std::uint64_t buffer = 4U << 20;              ///< bytes of one CPU's buffer
  std::uint64_t all_buffers = 256U << 20;       ///< bytes of all; many CPUs get smaller ones, at least 256 KiB
  std::chrono::milliseconds drain_interval{20}; ///< how often buffers are emptied
  HostRoots host = {};
};

struct Changes {
  std::vector<std::vector<Range>> disks; ///< of each tracked disk: sorted, merged, whole pieces of the granularity
  /// The kernel lost events, or somebody switched them off for a while: any block may have changed since the last take.
  bool overrun = false;
};

/// Its methods are safe from several threads.
class ChangeTracker {
 public:
  /// Prepares all. Error LIVE_NOT_POSSIBLE with the reason.
  ChangeTracker(std::vector<TrackedDisk> disks, const TrackerOptions& options = {});
  /// Removes the instance.
  ~ChangeTracker();
  ChangeTracker(const ChangeTracker&) = delete;
  ChangeTracker& operator=(const ChangeTracker&) = delete;

  /// From here on each write is seen.
  void start();
  /// What was written since start() or the last take; every write whose completion its writer knows of is in it.
  Changes take();
  /// Bytes that take() would return now, roughly: for progress.
  std::uint64_t pending() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Is this `rwbs` text of a block event anything but a read? Linux, kernel/trace/blktrace.c (blk_fill_rwbs).
bool changes_disk(std::string_view rwbs);

} // namespace kvmport
