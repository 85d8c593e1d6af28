// SPDX-License-Identifier: Apache-2.0
// What a capture that runs as a child says about itself (`kvm-p2v capture --json`, kvmport-report(5)), kept as the
// state that a person wants to see: the stage, how much of how much, how fast, how long still.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace kvmport {

class CaptureProgress {
 public:
  using Time = std::chrono::steady_clock::time_point;

  /// Takes one line of output; one that is no event is kept as a message. `now`: when it came.
  void take(std::string_view line, Time now);
  /// Times of a pause don't count.
  void paused() { samples_.clear(); }

  const std::string& stage() const { return stage_; }     ///< for people: "copy: 2 disks"
  const std::string& message() const { return message_; } ///< the last one
  std::uint64_t done() const { return done_; }
  std::uint64_t total() const { return total_; }
  /// Bytes a second over the last half minute; 0: not known yet.
  double rate() const;
  /// "12.5 GiB of 80.0 GiB, 98.3 MiB/s, 11 min left".
  std::string text() const;
  /// The event "error", code first; empty: none.
  std::string error() const;
  const std::optional<nlohmann::json>& result() const { return result_; }

 private:
  struct Sample {
    Time at;
    std::uint64_t done;
  };
  std::string stage_, message_, meter_;
  std::uint64_t done_ = 0, total_ = 0;
  std::deque<Sample> samples_;
  std::optional<nlohmann::json> error_, result_;
};

/// "45 s", "11 min", "3 h 05 min".
std::string human_time(std::chrono::seconds time);

} // namespace kvmport
