// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/freezer.h"

#include "libconvert/machine/text.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <linux/fs.h>
#include <new>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace kvmport {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

/// Who thaws: decided once, in memory that both processes share.
enum Turn : int { armed, thawing, expired_turn, done };

struct Shared {
  std::atomic<int> turn{armed};
};
static_assert(std::atomic<int>::is_always_lock_free);

/// The mount's number of an open file; nothing before Linux 5.8.
std::optional<std::uint64_t> mount_of(int fd) {
#ifdef STATX_MNT_ID
  struct statx st {};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &st) == 0 && (st.stx_mask & STATX_MNT_ID) != 0)
    return st.stx_mnt_id;
#endif
  return std::nullopt;
}

/// A file on this filesystem. A mount point may be covered by another mount: then another one is tried.
UniqueFd open_filesystem(const MountedFilesystem& filesystem) {
  for (const MountPoint& place : filesystem.places) {
    UniqueFd fd(::open(place.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    struct stat st {};
    if (!fd || ::fstat(fd.get(), &st) != 0 || (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode)))
      continue;
    const auto id = mount_of(fd.get());
    if (id ? *id == place.id : st.st_dev == filesystem.device)
      return fd;
  }
  throw Error("FREEZE_FAILED", "the filesystem on " + printable(filesystem.source) + " can't be frozen",
              "none of its mount points can be opened", "unmount what covers it, or capture from the boot medium");
}

/// What the watchdog does from its fork on. It may only use what is safe after fork() in a program with threads.
class Watchdog {
 public:
  Watchdog(const std::vector<UniqueFd>& files, Shared& shared, int pipe, int parent, milliseconds limit)
      : files_(files), shared_(shared), pipe_(pipe), parent_(parent), end_(Clock::now() + limit) {}

  [[noreturn]] void run() {
    ::setsid(); // keys at the terminal are not for us
    for (const int number : {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGALRM, SIGUSR1, SIGUSR2})
      ::signal(number, SIG_IGN);
    // Under MCL_ONFAULT the pages shared with the parent are not copied.
    ::mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
    survive_memory_shortage();
    const char ready = 'r';
    if (::write(pipe_, &ready, 1) != 1)
      ::_exit(1);
    while (!ended()) {
    }
    if (shared_.turn.load() != done)
      thaw();
    ::_exit(0);
  }

 private:
  static void survive_memory_shortage() {
    const int fd = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
      return;
    [[maybe_unused]] const ssize_t n = ::write(fd, "-1000", 5);
    ::close(fd);
  }

  /// Waits; true when the parent is through, well or not.
  bool ended() {
    struct pollfd watched[] = {{pipe_, POLLIN, 0}, {parent_, POLLIN, 0}};
    const auto left = std::chrono::duration_cast<milliseconds>(end_ - Clock::now()).count();
    const int n = ::poll(watched, parent_ >= 0 ? 2 : 1, over_ ? -1 : static_cast<int>(std::max<long>(left, 0)));
    if (n > 0)
      return true;
    if (n == 0 && !over_) {
      over_ = true;
      int expected = armed;
      if (shared_.turn.compare_exchange_strong(expected, expired_turn))
        thaw();
      // The parent may still be in the middle of freezing: stay until it is gone.
    }
    return false;
  }

  void thaw() const {
    for (std::size_t i = files_.size(); i > 0; i--)
      ::ioctl(files_[i - 1].get(), FITHAW, 0);
  }

  const std::vector<UniqueFd>& files_;
  Shared& shared_;
  const int pipe_, parent_;
  const Clock::time_point end_;
  bool over_ = false;
};

Shared* map_shared() {
  void* place = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (place == MAP_FAILED)
    throw system_error(errno, "no memory for the watchdog");
  return new (place) Shared;
}

} // namespace

struct Freeze::State {
  State(std::span<const MountedFilesystem> filesystems, const FreezeOptions& wanted);
  ~State();
  void start_watchdog();
  void freeze(std::span<const MountedFilesystem> filesystems);
  bool freeze_one(const MountedFilesystem& filesystem, std::size_t i);
  bool thaw();
  void end_watchdog();

  const milliseconds limit;
  std::vector<UniqueFd> files;
  std::vector<std::size_t> frozen, not_frozen;
  Shared* shared = nullptr;
  UniqueFd pipe; ///< our end: when it closes, the watchdog ends
  pid_t child = -1;
  bool thawed = false, in_time = false, locked = false;
  Clock::time_point began, still, end;
};

Freeze::State::State(std::span<const MountedFilesystem> filesystems, const FreezeOptions& wanted)
    : limit(wanted.limit) {
  for (const MountedFilesystem& one : filesystems)
    files.push_back(open_filesystem(one));
  shared = map_shared();
  try {
    // Most of what waits is written before anything stands still.
    for (const UniqueFd& file : files)
      ::syncfs(file.get());
    locked = ::mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0;
    start_watchdog();
    freeze(filesystems);
  } catch (...) {
    thaw();
    ::munmap(shared, sizeof *shared);
    throw;
  }
}

Freeze::State::~State() {
  thaw();
  ::munmap(shared, sizeof *shared);
}

void Freeze::State::start_watchdog() {
  auto [ours, theirs] = socket_pair(SOCK_SEQPACKET);
  UniqueFd parent(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0))); // none before Linux 5.3
  began = Clock::now();
  child = ::fork();
  if (child < 0)
    throw system_error(errno, "can't start the watchdog");
  if (child == 0) {
    ::close(ours.get());
    Watchdog(files, *shared, theirs.get(), parent.get(), limit).run();
  }
  theirs.reset();
  pipe = std::move(ours);
  char ready = 0;
  if (::read(pipe.get(), &ready, 1) != 1)
    throw Error("FREEZE_FAILED", "the watchdog that would thaw the filesystems did not start");
}

bool Freeze::State::freeze_one(const MountedFilesystem& filesystem, std::size_t i) {
  if (::ioctl(files[i].get(), FIFREEZE, 0) == 0)
    return true;
  if (errno == EOPNOTSUPP || errno == ENOTTY)
    return false;
  const int problem = errno;
  throw Error("FREEZE_FAILED", "the filesystem on " + printable(filesystem.source) + " can't be frozen",
              problem == EBUSY ? "something else has frozen it" : std::strerror(problem),
              problem == EBUSY ? "thaw it (fsfreeze -u), or wait for the other program" : "");
}

void Freeze::State::freeze(std::span<const MountedFilesystem> filesystems) {
  for (std::size_t i = 0; i < filesystems.size(); i++) {
    (freeze_one(filesystems[i], i) ? frozen : not_frozen).push_back(i);
    if (shared->turn.load() == expired_turn)
      throw Error("FREEZE_EXPIRED", "the filesystems did not stand still within the limit",
                  std::to_string(limit.count()) + " ms", "wait until this machine writes less");
  }
  still = Clock::now();
}

bool Freeze::State::thaw() {
  if (thawed)
    return in_time;
  int expected = armed;
  in_time = shared->turn.compare_exchange_strong(expected, thawing);
  for (std::size_t i = frozen.size(); i > 0; i--)
    ::ioctl(files[frozen[i - 1]].get(), FITHAW, 0); // EINVAL: the watchdog did
  end = Clock::now();
  shared->turn.store(done);
  thawed = true;
  end_watchdog();
  if (locked)
    ::munlockall();
  return in_time;
}

void Freeze::State::end_watchdog() {
  pipe.reset();
  if (child > 0)
    while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
}

Freeze::Freeze(std::span<const MountedFilesystem> filesystems, const FreezeOptions& options)
    : state_(std::make_unique<State>(filesystems, options)) {}

Freeze::~Freeze() = default;

bool Freeze::thaw() {
  return state_->thaw();
}

bool Freeze::expired() const {
  return state_->thawed ? !state_->in_time : state_->shared->turn.load() == expired_turn;
}

milliseconds Freeze::duration() const {
  return std::chrono::duration_cast<milliseconds>((state_->thawed ? state_->end : Clock::now()) - state_->began);
}

Clock::time_point Freeze::frozen_at() const {
  return state_->still;
}

const std::vector<std::size_t>& Freeze::frozen() const {
  return state_->frozen;
}

const std::vector<std::size_t>& Freeze::not_frozen() const {
  return state_->not_frozen;
}

pid_t Freeze::watchdog() const {
  return state_->child;
}

} // namespace kvmport
