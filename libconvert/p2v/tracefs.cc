// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/tracefs.h"

#include "libconvert/machine/text.h"
#include "libconvert/p2v/mounts.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <linux/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

constexpr std::string_view prefix = "kvmport-";

/// A mount of tracefs that only its descriptor leads to; needs Linux 5.2.
UniqueFd mount_unseen() {
  const UniqueFd context(static_cast<int>(::syscall(SYS_fsopen, "tracefs", FSOPEN_CLOEXEC)));
  if (!context || ::syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return UniqueFd();
  return UniqueFd(static_cast<int>(::syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC,
                                             MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)));
}

bool usable(const fs::path& path) {
  std::error_code failed;
  return fs::is_directory(path / "instances", failed);
}

fs::path mounted(const HostRoots& host) {
  for (const MountPoint& one : read_mountinfo(host.proc / "self" / "mountinfo")) {
    if (one.type == "tracefs" && usable(one.path))
      return one.path;
    if (one.type == "debugfs" && usable(one.path / "tracing"))
      return one.path / "tracing";
  }
  return {};
}

void refuse_lockdown(const HostRoots& host) {
  const fs::path path = host.sys / "kernel" / "security" / "lockdown";
  std::error_code failed;
  if (fs::exists(path, failed) && read_file(path, 4096).find("[confidentiality]") != std::string::npos)
    throw live_not_possible("the kernel is locked down (confidentiality): it lets nobody trace");
}

/// A process of this id exists, even if it isn't ours.
bool alive(std::string_view name) {
  const auto pid = parse_number(name.substr(prefix.size()));
  if (!pid || *pid == 0 || *pid > (1U << 30))
    return true; // not a name of ours
  return ::kill(static_cast<pid_t>(*pid), 0) == 0 || errno != ESRCH;
}

} // namespace

Error live_not_possible(const std::string& why) {
  return Error("LIVE_NOT_POSSIBLE", "this machine can't be captured while it runs", why,
               "start it from the boot medium (kvm-p2v media) and capture it from there");
}

TraceDirectory::TraceDirectory(const HostRoots& host) {
  refuse_lockdown(host);
  if (::geteuid() != 0)
    throw live_not_possible("only root can see what is written to its disks");
  path_ = mounted(host);
  if (!path_.empty())
    return;
  mount_ = mount_unseen();
  const int problem = errno;
  if (!mount_)
    throw live_not_possible(problem == ENODEV ? "its kernel has no tracefs"
                                              : std::string("tracefs can't be mounted: ") + std::strerror(problem));
  path_ = "/proc/self/fd/" + std::to_string(mount_.get());
  if (!usable(path_))
    throw live_not_possible("its kernel has no tracing instances");
}

std::vector<std::string> remove_stale_instances(const fs::path& instances) {
  std::vector<std::string> removed;
  std::error_code failed;
  for (fs::directory_iterator at(instances, failed), end; !failed && at != end; at.increment(failed)) {
    const std::string name = at->path().filename().string();
    // One whose buffers are open can't be removed, so an id that means another process to others does no harm.
    if (name.starts_with(prefix) && !alive(name) && ::rmdir(at->path().c_str()) == 0)
      removed.push_back(name);
  }
  return removed;
}

TraceInstance::TraceInstance(const TraceDirectory& directory) {
  const fs::path instances = directory.path() / "instances";
  remove_stale_instances(instances);
  // Several of one process are numbered.
  for (unsigned number = 0; number < 100; number++) {
    path_ = instances / (std::string(prefix) + std::to_string(::getpid()) +
                         (number == 0 ? std::string() : "." + std::to_string(number)));
    if (::mkdir(path_.c_str(), 0700) == 0)
      return;
    if (errno != EEXIST)
      break;
  }
  throw live_not_possible(std::string("a tracing instance can't be made: ") + std::strerror(errno));
}

TraceInstance::~TraceInstance() {
  ::rmdir(path_.c_str());
}

bool TraceInstance::has(const std::string& name) const {
  std::error_code failed;
  return fs::exists(file(name), failed);
}

std::string TraceInstance::read(const std::string& name) const {
  const UniqueFd fd(::open(file(name).c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  if (!fd)
    throw live_not_possible("can't open " + file(name).string() + ": " + std::strerror(errno));
  // Not by pread: these files are made as they are read.
  for (char piece[4096];;) {
    const ssize_t n = ::read(fd.get(), piece, sizeof piece);
    if (n < 0)
      throw live_not_possible("can't read " + file(name).string() + ": " + std::strerror(errno));
    if (n == 0 || text.size() > (1U << 20))
      return text;
    text.append(piece, static_cast<std::size_t>(n));
  }
}

bool TraceInstance::try_write(const std::string& name, const std::string& text) const {
  const UniqueFd fd(::open(file(name).c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC));
  return fd && ::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

void TraceInstance::write(const std::string& name, const std::string& text) const {
  if (!try_write(name, text))
    throw live_not_possible("can't write " + file(name).string() + ": " + std::strerror(errno));
}

std::vector<unsigned> TraceInstance::cpus() const {
  std::vector<unsigned> list;
  std::error_code failed;
  for (fs::directory_iterator at(path_ / "per_cpu", failed), end; !failed && at != end; at.increment(failed)) {
    const std::string name = at->path().filename().string();
    if (const auto number = name.starts_with("cpu") ? parse_number(std::string_view(name).substr(3)) : std::nullopt)
      list.push_back(static_cast<unsigned>(*number));
  }
  if (list.empty())
    throw live_not_possible("its trace buffers can't be found");
  return list;
}

} // namespace kvmport
