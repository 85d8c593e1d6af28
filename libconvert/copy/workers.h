// SPDX-License-Identifier: Apache-2.0
// Threads that take units of work until there are none. The first error of any stops all and is thrown to the caller,
// who meanwhile gets a call about ten times a second and can make the threads pause between two units.
#pragma once

#include "base/events.h"

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>

namespace kvmport {

class Workers {
 public:
  /// Does one unit of work on thread number `worker`; false when nothing is left for it.
  using Step = std::function<bool(unsigned worker)>;

  /// How many threads `asked` means: 0 is one a CPU; at most 64.
  static unsigned count_for(unsigned asked);

  /// Runs `step` on `count` threads to the end. `tick` is called on the calling thread. Throws what a step or tick
  /// threw, or INTERRUPTED when `stop` was requested; then no thread runs any more.
  void run(unsigned count, const Step& step, const std::function<void()>& tick, const StopToken& stop);

  /// Called by `tick`: waits until no thread is inside a step, calls `work`, lets them go on.
  void paused(const std::function<void()>& work);

 private:
  void loop(unsigned worker, const Step& step);
  void fail(std::exception_ptr error);

  std::mutex mutex_;
  std::condition_variable changed_;
  unsigned running_ = 0, busy_ = 0;
  bool closed_ = false, stopping_ = false;
  std::exception_ptr error_;
};

} // namespace kvmport
