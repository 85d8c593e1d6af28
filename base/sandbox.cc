// SPDX-License-Identifier: Apache-2.0
#include "base/sandbox.h"

#include <algorithm>
#include <array>
#include <csignal>
#include <fcntl.h>
#include <filesystem>
#include <linux/landlock.h>
#include <memory>
#include <sched.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <tuple>
#include <unistd.h>

namespace kvmport {
namespace {

/// Memory, time, and what is open already.
constexpr int allowed_calls[] = {
    SCMP_SYS(read),           SCMP_SYS(write),
    SCMP_SYS(pread64),        SCMP_SYS(pwrite64),
    SCMP_SYS(readv),          SCMP_SYS(preadv),
    SCMP_SYS(recvmsg),        SCMP_SYS(recvfrom),
    SCMP_SYS(sendto),         SCMP_SYS(sendmsg),
    SCMP_SYS(poll),           SCMP_SYS(ppoll),
    SCMP_SYS(close),          SCMP_SYS(fstat),
    SCMP_SYS(newfstatat),     SCMP_SYS(lseek),
    SCMP_SYS(fallocate),      SCMP_SYS(ftruncate),
    SCMP_SYS(mmap),           SCMP_SYS(munmap),
    SCMP_SYS(mremap),         SCMP_SYS(mprotect),
    SCMP_SYS(madvise),        SCMP_SYS(brk),
    SCMP_SYS(futex),          SCMP_SYS(sched_yield),
    SCMP_SYS(nanosleep),      SCMP_SYS(clock_nanosleep),
    SCMP_SYS(clock_gettime),  SCMP_SYS(gettimeofday),
    SCMP_SYS(time),           SCMP_SYS(getrandom),
    SCMP_SYS(getpid),         SCMP_SYS(gettid),
    SCMP_SYS(getrusage),      SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack),    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),           SCMP_SYS(exit),
    SCMP_SYS(exit_group),     SCMP_SYS(restart_syscall),
    SCMP_SYS(memfd_create),   SCMP_SYS(sched_getaffinity),
    SCMP_SYS(pipe2), // the sanitizers probe memory by a pipe
};

Error failed(int error, const char* what) {
  return Error("SANDBOX_FAILED", std::string("can't lock the child process down: ") + what, std::strerror(error));
}

/// Whether a child that was taken over could do harm with it.
bool harmful(int fd) {
  struct stat status {};
  if (::fstat(fd, &status) != 0)
    return false;
  if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
    return true;
  const bool writes = (::fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY;
  return writes && (status.st_nlink != 0 || S_ISBLK(status.st_mode)); // files without a name are ours alone
}

void close_descriptors(const std::vector<int>& keep) {
  std::vector<int> open;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
    open.push_back(std::stoi(entry.path().filename()));
  for (const int fd : open)
    if (fd != STDERR_FILENO && std::find(keep.begin(), keep.end(), fd) == keep.end() && harmful(fd))
      ::close(fd);
}

void limit(__rlimit_resource what, std::uint64_t most) {
  const rlimit value{most, most};
  ::setrlimit(what, &value);
}

/// proc(5), /proc/self/statm: the first number is pages of the whole address space.
std::uint64_t mapped_bytes() {
  return std::stoull(read_file("/proc/self/statm")) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

bool enter_namespaces() {
  constexpr int own = CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
  return ::unshare(own) == 0 || ::unshare(CLONE_NEWUSER | own) == 0;
}

/// A ruleset that handles every right and grants none (Linux Documentation/userspace-api/landlock.rst).
bool forbid_paths() {
  const long version = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  if (version < 1)
    return false;
  landlock_ruleset_attr rights{};
  rights.handled_access_fs = (std::uint64_t{LANDLOCK_ACCESS_FS_MAKE_SYM} << 1) - 1; // all of version 1
  const UniqueFd rules(static_cast<int>(::syscall(SYS_landlock_create_ruleset, &rights, sizeof rights, 0)));
  return rules && ::syscall(SYS_landlock_restrict_self, rules.get(), 0) == 0;
}

void allow_only(const SandboxLimits& limits) {
  const std::unique_ptr<void, decltype(&::seccomp_release)> filter(::seccomp_init(SCMP_ACT_KILL_PROCESS),
                                                                   ::seccomp_release);
  if (!filter)
    throw failed(ENOMEM, "seccomp");
  int error = 0;
  const auto add = [&](int result) { error = error != 0 ? error : result; };
  for (const int call : allowed_calls)
    add(::seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, call, 0));
  for (const unsigned long request : limits.ioctls)
    add(::seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, request)));
  // Signals to its own threads only.
  const auto self = static_cast<scmp_datum_t>(::getpid());
  add(::seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, SCMP_A0(SCMP_CMP_EQ, self)));
  if (limits.threads) {
    // clone3's flags lie in memory, where no filter sees them: the C library takes clone when it is not there.
    add(::seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0));
    add(::seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                           SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD | CLONE_VM, CLONE_THREAD | CLONE_VM)));
  }
  if (error == 0)
    error = ::seccomp_load(filter.get());
  if (error != 0)
    throw failed(-error, "seccomp");
}

} // namespace

std::string enter_sandbox(const SandboxLimits& limits) {
  close_descriptors(limits.keep);
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
    throw failed(errno, "no_new_privs");
  ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_CPU, static_cast<std::uint64_t>(limits.cpu.count()));
  if (limits.memory != 0)
    limit(RLIMIT_AS, mapped_bytes() + limits.memory);
  std::string in_force = "seccomp";
  // Each keeps the child from what the filter may have missed; a network namespace costs milliseconds to make.
  if (forbid_paths())
    in_force += ", Landlock";
  else if (enter_namespaces())
    in_force += ", namespaces";
  allow_only(limits);
  return in_force;
}

ForkedChild::ForkedChild(const std::function<int(int socket)>& work) {
  UniqueFd theirs;
  std::tie(socket_, theirs) = socket_pair(SOCK_SEQPACKET);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ < 0)
    throw system_error(errno, "can't start a child process");
  if (pid_ != 0)
    return;
  socket_.reset();
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (const int caught : {SIGINT, SIGTERM, SIGHUP}) // the parent's to answer
    ::signal(caught, SIG_IGN);
  int code = 70; // EX_SOFTWARE
  try {
    if (::getppid() == parent)
      code = work(theirs.get());
  } catch (...) {
  }
  ::_exit(code);
}

ForkedChild::~ForkedChild() {
  finish(true);
}

ForkedChild::End ForkedChild::finish(bool kill) {
  if (pid_ < 0)
    return end_;
  if (kill)
    ::kill(pid_, SIGKILL);
  int status = 0;
  rusage used{};
  while (::wait4(pid_, &status, 0, &used) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  end_.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + (WIFSIGNALED(status) ? WTERMSIG(status) : 0);
  end_.cpu = std::chrono::milliseconds((used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000 +
                                       (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1000);
  return end_;
}

} // namespace kvmport
