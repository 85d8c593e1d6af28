// SPDX-License-Identifier: Apache-2.0
// The kernel's tracing directory, and an instance of our own in it: private buffers, so that nothing that others trace
// is disturbed. Linux, Documentation/trace/ftrace.rst (section Instances).
#pragma once

#include "base/file.h"
#include "libconvert/p2v/block_devices.h"

#include <string>
#include <vector>

namespace kvmport {

/// The error of everything that makes live capture impossible on this host.
Error live_not_possible(const std::string& why);

/// tracefs, as it is mounted on this host, or mounted out of everyone's sight for us.
class TraceDirectory {
 public:
  /// Error LIVE_NOT_POSSIBLE when there is none: not in this kernel, locked down, not permitted.
  explicit TraceDirectory(const HostRoots& host);
  const std::filesystem::path& path() const { return path_; }

 private:
  UniqueFd mount_; ///< a mount without a place, when path_ goes through /proc/self/fd
  std::filesystem::path path_;
};

/// A tracing instance named kvmport-PID, removed when this goes. Those that processes left that are gone are removed
/// first. Not safe from several threads.
class TraceInstance {
 public:
  explicit TraceInstance(const TraceDirectory& directory);
  ~TraceInstance();
  TraceInstance(const TraceInstance&) = delete;
  TraceInstance& operator=(const TraceInstance&) = delete;

  std::filesystem::path file(const std::string& name) const { return path_ / name; }
  bool has(const std::string& name) const;
  /// Error LIVE_NOT_POSSIBLE when it can't.
  std::string read(const std::string& name) const;
  void write(const std::string& name, const std::string& text) const;
  /// False when the kernel doesn't take it.
  bool try_write(const std::string& name, const std::string& text) const;
  /// Numbers of the CPUs that have a buffer.
  std::vector<unsigned> cpus() const;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// Removes instances of processes that are gone; returns their names.
std::vector<std::string> remove_stale_instances(const std::filesystem::path& instances);

} // namespace kvmport
