// SPDX-License-Identifier: Apache-2.0
// Child processes, always started with an argument vector, never through a shell. A child is killed and reaped when its
// object goes, so nothing outlives an exception.
#pragma once

#include "base/file.h"

#include <chrono>
#include <optional>
#include <string>
#include <sys/types.h>
#include <utility>
#include <vector>

namespace kvmport {

struct ProcessResult {
  int exit_code = -1;   ///< 128+signal when killed by a signal
  std::string out, err; ///< at most 16 MiB each; the rest is read and dropped
  bool timed_out = false;
};

/// Runs `argv` to its end with stdin from /dev/null, in `directory` when not empty. Error PROGRAM_MISSING when argv[0]
/// is not there. A non-zero exit is not an error here.
ProcessResult run_process(const std::vector<std::string>& argv, std::chrono::milliseconds timeout,
                          const std::filesystem::path& directory = {});

/// A child that runs beside us. `inherit` lists descriptors that the child gets, as pairs {ours, number in the child}.
class Child {
 public:
  Child(const std::vector<std::string>& argv, const std::vector<std::pair<int, int>>& inherit);
  Child(Child&& other) noexcept : pid_(std::exchange(other.pid_, -1)), status_(other.status_) {}
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  Child& operator=(Child&&) = delete;
  /// Kills the child (SIGKILL) and reaps it.
  ~Child();

  pid_t pid() const noexcept { return pid_; }
  /// The exit code (128+signal) once it has ended; reaps it. Never blocks.
  std::optional<int> poll();
  /// Waits until it ends or `timeout` passes.
  std::optional<int> wait(std::chrono::milliseconds timeout);
  void kill();
  /// User and system time so far, of a child that was not reaped yet; 0 when it can't be told.
  std::chrono::milliseconds cpu_time() const;

 private:
  pid_t pid_ = -1;
  std::optional<int> status_;
};

/// The full path of a program on PATH (and /usr/sbin:/sbin), if there.
std::optional<std::string> find_program(const std::string& name);

} // namespace kvmport
