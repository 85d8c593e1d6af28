// SPDX-License-Identifier: Apache-2.0
// How long work tells what it is doing. Libraries never print: they report here, and the command decides whether that
// becomes a progress bar, plain lines or JSON. Also carries the user's wish to stop.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

namespace kvmport {

/// Receives events, from any thread, possibly at the same time. Every call returns quickly and throws nothing.
class EventSink {
 public:
  enum class Level { info, warning };

  virtual ~EventSink() = default;
  /// `stage` (a stable word: "open", "inspect", "copy", "convert", "merge", "prove", "publish") begins; `text` is for
  /// people.
  virtual void stage(std::string_view stage, std::string_view text) = 0;
  /// `done` of `total` bytes (or steps) of `stage`.
  virtual void progress(std::string_view stage, std::uint64_t done, std::uint64_t total) = 0;
  /// `code` is stable and may be empty.
  virtual void message(Level level, std::string_view code, std::string_view text) = 0;
};

/// Drops everything.
class NullSink final : public EventSink {
 public:
  void stage(std::string_view, std::string_view) override {}
  void progress(std::string_view, std::uint64_t, std::uint64_t) override {}
  void message(Level, std::string_view, std::string_view) override {}
};

/// Set by a signal handler or another thread; long work asks it often and throws Error INTERRUPTED.
class StopToken {
 public:
  void request() noexcept { stop_.store(true, std::memory_order_relaxed); }
  bool requested() const noexcept { return stop_.load(std::memory_order_relaxed); }
  /// Throws Error INTERRUPTED when a stop was asked for.
  void check() const;

 private:
  std::atomic<bool> stop_{false};
};

} // namespace kvmport
