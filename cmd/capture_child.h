// SPDX-License-Identifier: Apache-2.0
// `kvm-p2v capture --json` as a child of the dialogue: its events, pause, cancel.
#pragma once

#include "base/process.h"
#include "libconvert/p2v/capture_progress.h"

#include <optional>
#include <string>
#include <vector>

namespace kvmport {

class CaptureChild {
 public:
  /// What it says on standard error goes to `log`.
  CaptureChild(const std::vector<std::string>& argv, const std::filesystem::path& log);

  /// Takes the events that have come, waiting at most `timeout` for the first. False once the child has ended and all
  /// was read.
  bool take(std::chrono::milliseconds timeout);
  const CaptureProgress& progress() const { return progress_; }

  void pause();
  void go_on();
  bool paused() const { return paused_; }
  /// Asks it to stop in good order; take() goes on until it has.
  void cancel();
  /// After take() returned false: 0 proven, 2 failed, 3 not proven; 128+signal.
  int exit_code() const { return exit_code_; }

 private:
  struct Pipe {
    UniqueFd read, write;
  };
  static Pipe make_pipe();
  CaptureChild(const std::vector<std::string>& argv, Pipe out, UniqueFd log);

  UniqueFd out_;
  Child child_;
  CaptureProgress progress_;
  std::string rest_; ///< a line that has not ended yet
  bool paused_ = false;
  int exit_code_ = -1;
};

} // namespace kvmport
