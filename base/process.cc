// SPDX-License-Identifier: Apache-2.0
#include "base/process.h"

#include <array>
#include <csignal>
#include <cstdio>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

namespace kvmport {
namespace {

constexpr std::size_t output_limit = 16U << 20;

struct Pipe {
  UniqueFd read_end, write_end;
  Pipe() {
    std::array<int, 2> fds{};
    if (::pipe2(fds.data(), O_CLOEXEC) != 0)
      throw system_error(errno, "can't make a pipe");
    read_end = UniqueFd(fds[0]);
    write_end = UniqueFd(fds[1]);
  }
};

int decode_status(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + (WIFSIGNALED(status) ? WTERMSIG(status) : 0);
}

/// What runs between fork and exec: async-signal-safe calls only.
[[noreturn]] void become(const char* program, char* const* argv, const std::vector<std::pair<int, int>>& fds,
                         const char* directory) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGPIPE, SIG_DFL);
  // First move every source out of the way of the target numbers, then put each in its place.
  std::array<int, 64> moved{};
  for (std::size_t i = 0; i < fds.size() && i < moved.size(); i++)
    moved[i] = ::fcntl(fds[i].first, F_DUPFD_CLOEXEC, 100);
  int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  ::dup2(null, 0);
  for (std::size_t i = 0; i < fds.size() && i < moved.size(); i++)
    ::dup2(moved[i], fds[i].second);
  if (directory != nullptr && ::chdir(directory) != 0)
    ::_exit(126);
  ::execv(program, argv);
  ::_exit(127);
}

pid_t spawn(const std::vector<std::string>& argv, const std::vector<std::pair<int, int>>& fds,
            const fs::path& directory) {
  auto program = find_program(argv.at(0));
  if (!program)
    throw Error("PROGRAM_MISSING", "the program " + argv[0] + " is not installed", {},
                "install the package that holds it");
  std::vector<char*> args;
  for (const auto& a : argv)
    args.push_back(const_cast<char*>(a.c_str()));
  args.push_back(nullptr);
  pid_t pid = ::fork();
  if (pid < 0)
    throw system_error(errno, "can't start " + argv[0]);
  if (pid == 0)
    become(program->c_str(), args.data(), fds, directory.empty() ? nullptr : directory.c_str());
  return pid;
}

void drain(int fd, std::string& into, bool& open) {
  std::array<char, 65536> buffer;
  ssize_t n = ::read(fd, buffer.data(), buffer.size());
  if (n > 0 && into.size() < output_limit)
    into.append(buffer.data(), static_cast<std::size_t>(n));
  if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
    open = false;
}

} // namespace

std::optional<std::string> find_program(const std::string& name) {
  if (name.find('/') != std::string::npos)
    return ::access(name.c_str(), X_OK) == 0 ? std::optional(name) : std::nullopt;
  const char* env = ::getenv("PATH");
  std::string path = std::string(env != nullptr ? env : "/usr/bin:/bin") + ":/usr/sbin:/sbin";
  for (std::size_t from = 0; from <= path.size();) {
    std::size_t to = std::min(path.find(':', from), path.size());
    std::string full = path.substr(from, to - from) + "/" + name;
    if (::access(full.c_str(), X_OK) == 0)
      return full;
    from = to + 1;
  }
  return std::nullopt;
}

Child::Child(const std::vector<std::string>& argv, const std::vector<std::pair<int, int>>& inherit)
    : pid_(spawn(argv, inherit, {})) {}

Child::~Child() {
  if (pid_ > 0 && !status_) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
}

void Child::kill() {
  if (pid_ > 0 && !status_)
    ::kill(pid_, SIGKILL);
}

std::optional<int> Child::poll() {
  int status = 0;
  if (!status_ && ::waitpid(pid_, &status, WNOHANG) == pid_)
    status_ = decode_status(status);
  return status_;
}

std::optional<int> Child::wait(std::chrono::milliseconds timeout) {
  const auto end = Clock::now() + timeout;
  while (!poll() && Clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  return status_;
}

/// proc_pid_stat(5), fields 14 and 15.
std::chrono::milliseconds Child::cpu_time() const {
  try {
    const std::string stat = read_file("/proc/" + std::to_string(pid_) + "/stat");
    const char* at = stat.c_str() + stat.rfind(')') + 1;
    unsigned long long user = 0, system = 0;
    if (std::sscanf(at, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &system) == 2)
      return std::chrono::milliseconds((user + system) * 1000 /
                                       static_cast<unsigned long long>(::sysconf(_SC_CLK_TCK)));
  } catch (const Error&) { // it is gone
  }
  return {};
}

ProcessResult run_process(const std::vector<std::string>& argv, std::chrono::milliseconds timeout,
                          const fs::path& directory) {
  Pipe out, err;
  const pid_t pid = spawn(argv, {{out.write_end.get(), 1}, {err.write_end.get(), 2}}, directory);
  out.write_end.reset();
  err.write_end.reset();
  ProcessResult result;
  const auto end = Clock::now() + timeout;
  bool out_open = true, err_open = true;
  while (out_open || err_open) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
    if (left <= 0) {
      result.timed_out = true;
      ::kill(pid, SIGKILL);
      break;
    }
    std::array<pollfd, 2> polled{pollfd{out_open ? out.read_end.get() : -1, POLLIN, 0},
                                 pollfd{err_open ? err.read_end.get() : -1, POLLIN, 0}};
    ::poll(polled.data(), polled.size(), static_cast<int>(std::min<long long>(left, 1000)));
    if (polled[0].revents != 0)
      drain(polled[0].fd, result.out, out_open);
    if (polled[1].revents != 0)
      drain(polled[1].fd, result.err, err_open);
  }
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  result.exit_code = decode_status(status);
  return result;
}

} // namespace kvmport
