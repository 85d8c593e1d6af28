// SPDX-License-Identifier: Apache-2.0
// The agent's side of a capture: reads the disks of this machine, sends what is used of them to a receiver, and goes on
// by itself after a lost connection. Disks are only read.
#pragma once

#include "libconvert/p2v/link.h"
#include "libconvert/p2v/messages.h"

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <sys/types.h>

namespace kvmport {

/// A disk to send; one per machine.disks.
struct CaptureDisk {
  std::unique_ptr<Image> image;
  dev_t device = 0; ///< of a whole disk of this host; needed for a live capture
  /// Ranges that could not be read and stand as zeros, as far as is known now; may be empty (no rescue).
  std::function<std::vector<Range>()> unreadable;
};

struct CaptureOptions {
  LinkTarget target;
  std::string name; ///< a safe_name()
  Machine machine;
  CaptureWishes wishes;
  unsigned streams = 4;                  ///< connections that carry chunks, 1 to 16
  std::uint64_t bandwidth = 0;           ///< bytes a second over all; 0: no limit
  bool compress = true;                  ///< zstd, for chunks that become smaller
  bool everything = false;               ///< free blocks too
  bool live = false;                     ///< the machine goes on running, its filesystems stand still for the last pass
  std::chrono::seconds freeze_limit{10}; ///< live: the longest that they may stand still
  bool interactive = false;              ///< ssh may ask on the terminal
  /// How long to try again after a connection was lost, without any chunk getting through.
  std::chrono::seconds patience{1800};
};

/// What a capture cost.
struct CaptureStats {
  std::uint64_t total = 0;   ///< bytes of the disks
  std::uint64_t used = 0;    ///< of these, what is not known to be free
  std::uint64_t payload = 0; ///< bytes of disks that were sent, before compression; zeros of whole chunks don't count
  std::uint64_t wire = 0;    ///< bytes that went to the receiver, all of the protocol included
  std::uint64_t chunks = 0;  ///< that were sent and acknowledged
  unsigned reconnects = 0;
  unsigned passes = 0;                             ///< live: over the disks, the last one included
  std::chrono::milliseconds frozen{0};             ///< live: how long the filesystems stood still for the last pass
  std::chrono::system_clock::time_point frozen_at; ///< live: the moment whose state was captured
};

struct CaptureResult {
  CaptureStats stats;
  std::vector<ManifestDisk> disks;
  nlohmann::json result; ///< what the receiver says: "files", "converted", "proven", …
};

/// Captures. Blocking; events come from several threads: stages "plan", "capture", then the receiver's. Errors: those
/// of the receiver, CONNECTION_LOST when patience ends, and at once when the first connection can't be made;
/// HOST_KEY_MISMATCH, INTERRUPTED.
CaptureResult capture_machine(const CaptureOptions& options, const std::vector<CaptureDisk>& disks, EventSink& sink,
                              const StopToken& stop);

} // namespace kvmport
