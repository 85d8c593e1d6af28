// SPDX-License-Identifier: Apache-2.0
// Captures disks of a host that goes on running: what is used is sent while writes are tracked, what was written
// meanwhile is sent again, pass by pass, until little is left; then the filesystems stand still for a moment and the
// rest goes over. How bytes travel is the caller's: he gets lists of ranges.
//
// The order that makes it right: tracking starts; the filesystems are frozen briefly and their maps of free blocks are
// read (on disk they are whole only then); from the thaw on each write is seen. Whatever was read too early is written
// once more, in a later pass or in the last one, before which nothing is under way any more.
#pragma once

#include "base/events.h"
#include "libconvert/p2v/change_tracker.h"
#include "libconvert/p2v/freezer.h"

#include <chrono>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace kvmport {

struct LiveDisk {
  dev_t device = 0;             ///< a whole disk at the bottom of any stack
  const Image* image = nullptr; ///< reads it directly (DirectDisk); borrowed
  std::string name;             ///< for messages
};

/// What is to be sent now.
struct LivePass {
  enum class Kind {
    first,   ///< all that is used
    changed, ///< what was written since it was sent
    again,   ///< all that is used, since writes were missed: what the receiver has already need not travel
    last,    ///< as changed, while the filesystems stand still
  };
  Kind kind = Kind::first;
  unsigned number = 1;
  /// Of each disk: sorted, merged, whole pieces of the granularity (but for the disk's end).
  std::vector<std::vector<Range>> disks;
  std::uint64_t bytes = 0;
  std::vector<std::string> notes; ///< of the first pass, and of `again`: what of the maps was believed, and why
};

/// Reads these ranges from the disks and sends them; returns when the receiver has them safely. In the pass `last` it
/// must not write to any file, start a program or wait for something that does: that would never end.
using SendPass = std::function<void(const LivePass&)>;

struct LiveOptions {
  std::uint64_t granularity = 64U << 10; ///< bytes, a power of two
  /// What `send` reads for each change in it; a multiple of the granularity. Only estimates depend on it.
  std::uint64_t unit = 64U << 10;
  std::chrono::milliseconds last_pass{2000};     ///< the filesystems are frozen when what is left takes at most that
  std::chrono::milliseconds freeze_limit{10000}; ///< of the watchdog
  unsigned most_passes = 30;
  unsigned most_freezes = 3;  ///< last passes that are tried when one takes too long
  bool freeze_anyway = false; ///< after most_passes, instead of an error; the limit still holds
  bool skip_free = true;
  TrackerOptions tracker; ///< its granularity is replaced
  HostRoots host = {};
};

struct LivePassStats {
  LivePass::Kind kind = LivePass::Kind::first;
  std::uint64_t bytes = 0;
  std::chrono::milliseconds time{0};
};

struct LiveResult {
  std::vector<LivePassStats> passes;
  std::chrono::milliseconds map_freeze{0};         ///< how long the filesystems stood still for their maps, in all
  std::chrono::milliseconds last_freeze{0};        ///< and for the last pass
  std::chrono::steady_clock::time_point frozen_at; ///< the moment whose state was captured
  std::vector<std::vector<Range>> free;            ///< of each disk: held nothing when the maps were read
  std::vector<std::string> notes;                  ///< of the maps, of what couldn't be frozen
  std::uint64_t unsettled = 0; ///< bytes outside of frozen filesystems that were written while the last pass ran
};

/// Errors: LIVE_NOT_POSSIBLE, LIVE_NOT_CONVERGING, FREEZE_FAILED, FREEZE_EXPIRED, what `send` throws, INTERRUPTED.
/// However it ends, nothing stays frozen. `sink` hears nothing while something is frozen.
LiveResult capture_live(const LiveOptions& options, std::span<const LiveDisk> disks, const SendPass& send,
                        EventSink& sink, const StopToken& stop);

} // namespace kvmport
