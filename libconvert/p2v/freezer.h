// SPDX-License-Identifier: Apache-2.0
// Holds filesystems of this host still for a moment (FIFREEZE), and lets them go in any case: a forked watchdog thaws
// them when this process dies, and when a limit has passed. A frozen root stops whoever writes, this process too: while
// a Freeze lives, nothing may be written to a file, no event be sent to a sink, no program be started.
// ioctl_fsfreeze: Linux, fs/ioctl.c, fs/super.c (freeze_super).
#pragma once

#include "base/file.h"
#include "libconvert/p2v/mounts.h"

#include <chrono>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace kvmport {

struct FreezeOptions {
  std::chrono::milliseconds limit{10000}; ///< the watchdog thaws after that
};

/// One thread at a time.
class Freeze {
 public:
  /// Writes back what waits (syncfs), then freezes in the order given (filesystems_on). Those that can't be frozen
  /// (vfat) were only written back. Errors: FREEZE_FAILED, and what was frozen is thawed again; FREEZE_EXPIRED when
  /// the limit passed meanwhile.
  Freeze(std::span<const MountedFilesystem> filesystems, const FreezeOptions& options = {});
  /// Thaws.
  ~Freeze();
  Freeze(const Freeze&) = delete;
  Freeze& operator=(const Freeze&) = delete;

  /// False: the watchdog had to thaw before, so what was read since the freeze may be of different moments.
  bool thaw();
  /// The watchdog has thawed.
  bool expired() const;
  /// From before the first filesystem was frozen to after the last was thawed, or to now.
  std::chrono::milliseconds duration() const;
  /// When all of them stood still.
  std::chrono::steady_clock::time_point frozen_at() const;
  /// Those that stand still, and those that couldn't be frozen: indexes into the list.
  const std::vector<std::size_t>& frozen() const;
  const std::vector<std::size_t>& not_frozen() const;
  pid_t watchdog() const; ///< its process, for tests

 private:
  struct State;
  std::unique_ptr<State> state_;
};

} // namespace kvmport
