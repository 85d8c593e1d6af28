// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/workers.h"

#include <algorithm>
#include <thread>
#include <utility>
#include <vector>

namespace kvmport {
namespace {

constexpr std::chrono::milliseconds tick_interval{100};

} // namespace

unsigned Workers::count_for(unsigned asked) {
  return std::clamp(asked != 0 ? asked : std::thread::hardware_concurrency(), 1U, 64U);
}

void Workers::fail(std::exception_ptr error) {
  const std::lock_guard lock(mutex_);
  if (!error_)
    error_ = std::move(error);
  stopping_ = true;
  changed_.notify_all();
}

void Workers::loop(unsigned worker, const Step& step) {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (closed_) {
      changed_.wait(lock);
      continue;
    }
    busy_++;
    lock.unlock();
    bool more = false;
    try {
      more = step(worker);
    } catch (...) {
      fail(std::current_exception());
    }
    lock.lock();
    if (--busy_ == 0 && closed_)
      changed_.notify_all();
    if (!more)
      break;
  }
  running_--;
  changed_.notify_all();
}

void Workers::paused(const std::function<void()>& work) {
  {
    std::unique_lock lock(mutex_);
    closed_ = true;
    changed_.wait(lock, [this] { return busy_ == 0; });
  }
  struct Open { // also when `work` throws
    Workers& workers;
    ~Open() {
      const std::lock_guard lock(workers.mutex_);
      workers.closed_ = false;
      workers.changed_.notify_all();
    }
  } const open{*this};
  work();
}

void Workers::run(unsigned count, const Step& step, const std::function<void()>& tick, const StopToken& stop) {
  stop.check();
  running_ = count;
  busy_ = 0;
  stopping_ = false;
  error_ = nullptr;
  {
    std::vector<std::jthread> threads;
    try {
      for (unsigned i = 0; i < count; i++)
        threads.emplace_back([this, i, &step] { loop(i, step); });
      std::unique_lock lock(mutex_);
      while (!changed_.wait_for(lock, tick_interval, [this] { return running_ == 0; })) {
        lock.unlock();
        stop.check();
        tick();
        lock.lock();
      }
    } catch (...) {
      fail(std::current_exception());
    }
  }
  if (error_)
    std::rethrow_exception(error_);
}

} // namespace kvmport
