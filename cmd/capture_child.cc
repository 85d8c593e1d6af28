// SPDX-License-Identifier: Apache-2.0
#include "cmd/capture_child.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

namespace kvmport {
namespace {

constexpr std::size_t longest_line = 1U << 20;

UniqueFd open_log(const std::filesystem::path& path) {
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!fd)
    throw system_error(errno, path.string());
  return fd;
}

} // namespace

CaptureChild::Pipe CaptureChild::make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0)
    throw system_error(errno, "pipe");
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

CaptureChild::CaptureChild(const std::vector<std::string>& argv, const std::filesystem::path& log)
    : CaptureChild(argv, make_pipe(), open_log(log)) {}

CaptureChild::CaptureChild(const std::vector<std::string>& argv, Pipe out, UniqueFd log)
    : out_(std::move(out.read)), child_(argv, {{out.write.get(), STDOUT_FILENO}, {log.get(), STDERR_FILENO}}) {}

bool CaptureChild::take(std::chrono::milliseconds timeout) {
  if (!out_)
    return false;
  pollfd p{out_.get(), POLLIN, 0};
  if (::poll(&p, 1, static_cast<int>(timeout.count())) <= 0)
    return true;
  std::array<char, 65536> buffer{};
  const ssize_t n = ::read(out_.get(), buffer.data(), buffer.size());
  if (n < 0 && errno == EINTR)
    return true;
  if (n <= 0) {
    out_.reset();
    exit_code_ = child_.wait(std::chrono::seconds(30)).value_or(-1);
    return false;
  }
  rest_.append(buffer.data(), static_cast<std::size_t>(n));
  std::size_t begin = 0;
  for (auto end = rest_.find('\n'); end != std::string::npos; end = rest_.find('\n', begin)) {
    progress_.take(std::string_view(rest_).substr(begin, end - begin), std::chrono::steady_clock::now());
    begin = end + 1;
  }
  rest_.erase(0, begin);
  if (rest_.size() > longest_line)
    rest_.clear();
  return true;
}

void CaptureChild::pause() {
  ::kill(child_.pid(), SIGSTOP);
  paused_ = true;
}

void CaptureChild::go_on() {
  progress_.paused();
  ::kill(child_.pid(), SIGCONT);
  paused_ = false;
}

void CaptureChild::cancel() {
  ::kill(child_.pid(), SIGTERM);
  go_on(); // a stopped process gets no other signal
}

} // namespace kvmport
