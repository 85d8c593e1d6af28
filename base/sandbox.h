// SPDX-License-Identifier: Apache-2.0
// Work on hostile input in a child process that has given up nearly everything first: a forked child locks itself down
// and talks to its parent through one socket. What the child needs is opened before the fork; it can open nothing
// after.
#pragma once

#include "base/file.h"

#include <chrono>
#include <functional>
#include <optional>
#include <span>
#include <sys/types.h>

namespace kvmport {

struct SandboxLimits {
  std::chrono::seconds cpu{3600};    ///< RLIMIT_CPU
  std::uint64_t memory = 0;          ///< bytes that it may map besides what it has already (RLIMIT_AS); 0: no limit
  std::vector<unsigned long> ioctls; ///< the only requests that ioctl(2) may make
  bool threads = false;              ///< may it start threads?
  std::vector<int> keep;             ///< descriptors that stay open whatever they are
};

/// Locks the calling process down for good. Needs the only thread of the process. No file can be opened, no program
/// started, no socket made, no other process signalled; a forbidden system call ends the process with SIGSYS.
///
/// Closed: every descriptor that is a socket, a pipe or a terminal, or that writes to a file with a name, unless kept.
/// In force always: no_new_privs, a seccomp allow-list, no core dumps, limits. Where the kernel lets us: Landlock
/// without any path, and network, IPC and UTS namespaces of its own. Returns what of these is in force ("seccomp,
/// Landlock, …"). Error SANDBOX_FAILED.
std::string enter_sandbox(const SandboxLimits& limits);

/// A child that runs a function of ours and nothing else. Killed and reaped when this goes.
class ForkedChild {
 public:
  /// `work` runs in the child with the child's end of a SOCK_SEQPACKET socket; its return value is the exit code. An
  /// exception ends the child with code 70. The child dies with this thread's process.
  explicit ForkedChild(const std::function<int(int socket)>& work);
  ~ForkedChild();
  ForkedChild(const ForkedChild&) = delete;
  ForkedChild& operator=(const ForkedChild&) = delete;

  int socket() const noexcept { return socket_.get(); }
  struct End {
    int exit_code = 0; ///< 128+signal when killed by a signal
    std::chrono::milliseconds cpu{};
  };
  /// Kills it if it still runs, and reaps it.
  End finish(bool kill);

 private:
  UniqueFd socket_;
  pid_t pid_ = -1;
  End end_;
};

} // namespace kvmport
