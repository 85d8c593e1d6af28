// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/connection.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <thread>
#include <unistd.h>

namespace kvmport {
namespace {

using Clock = std::chrono::steady_clock;

// A frame: payload length 4, type 2, zero 2, payload. Little-endian.
constexpr std::size_t header_size = 8;
constexpr std::uint32_t text_limit = 4U << 20;
constexpr std::size_t piece_size = 64U << 10;

Error lost(const std::string& why) {
  return {"CONNECTION_LOST", "the connection to the other side is lost", why};
}

void make_nonblocking(int fd) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
    throw system_error(errno, "can't prepare a connection");
}

} // namespace

std::uint32_t most_payload(FrameType type) {
  switch (type) {
  case FrameType::hello:
  case FrameType::welcome:
  case FrameType::ready:
  case FrameType::ack:
  case FrameType::error:
    return 64U << 10;
  case FrameType::manifest:
  case FrameType::done:
  case FrameType::event:
  case FrameType::result:
    return text_limit;
  case FrameType::have:
    return 1U << 20;
  case FrameType::chunk:
    return 3U << 20;
  case FrameType::ping:
    return 1;
  }
  return 0;
}

Clock::time_point RateLimit::reserve(std::size_t bytes) {
  if (rate_ == 0)
    return {};
  const std::lock_guard lock(mutex_);
  const auto now = Clock::now();
  const auto start = std::max(now, free_at_);
  free_at_ = start + std::chrono::nanoseconds(bytes * 1'000'000'000ULL / rate_);
  return start;
}

Connection::Connection(UniqueFd in, UniqueFd out, const StopToken& stop)
    : in_(std::move(in)), out_(std::move(out)), stop_(stop) {
  make_nonblocking(in_.get());
  make_nonblocking(out_.get());
}

void Connection::check() const {
  stop_.check();
  if (aborted_)
    throw Error("INTERRUPTED", "the connection was given up");
}

void Connection::wait(int fd, short events, Clock::time_point until) {
  for (;;) {
    check();
    pollfd polled{fd, events, 0};
    if (::poll(&polled, 1, 100) > 0)
      return;
    if (Clock::now() >= until)
      throw lost(fmt::format("nothing was heard for {} s",
                             std::chrono::duration_cast<std::chrono::seconds>(patience_).count()));
  }
}

/// False when the other side closed before the first byte and `may_end`.
bool Connection::fill(std::span<std::byte> into, bool may_end) {
  std::size_t at = 0;
  auto until = Clock::now() + patience_;
  while (at < into.size()) {
    check();
    const ssize_t n = ::read(in_.get(), into.data() + at, into.size() - at);
    if (n > 0) {
      at += static_cast<std::size_t>(n);
      until = Clock::now() + patience_;
    } else if (n == 0) {
      if (at == 0 && may_end)
        return false;
      throw lost("it ended in the middle of a frame");
    } else if (errno == EAGAIN) {
      wait(in_.get(), POLLIN, until);
    } else if (errno != EINTR) {
      throw lost(std::generic_category().message(errno));
    }
  }
  return true;
}

void Connection::drain(ByteSpan bytes) {
  auto until = Clock::now() + patience_;
  while (!bytes.empty()) {
    check();
    const std::size_t piece = std::min(bytes.size(), piece_size);
    const ssize_t n = ::write(out_.get(), bytes.data(), piece);
    if (n > 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(n));
      sent_ += static_cast<std::uint64_t>(n);
      until = Clock::now() + patience_;
      if (limit_ == nullptr)
        continue;
      for (const auto free = limit_->reserve(static_cast<std::size_t>(n)); Clock::now() < free; check())
        std::this_thread::sleep_for(std::min<Clock::duration>(free - Clock::now(), std::chrono::milliseconds(100)));
    } else if (n < 0 && errno == EAGAIN) {
      wait(out_.get(), POLLOUT, until);
    } else if (n < 0 && errno != EINTR) {
      throw lost(std::generic_category().message(errno));
    }
  }
}

void Connection::send(FrameType type, std::initializer_list<ByteSpan> parts) {
  std::size_t length = 0;
  for (const ByteSpan part : parts)
    length += part.size();
  if (length > most_payload(type))
    throw Error("PROTOCOL_ERROR", fmt::format("a frame of {} bytes can't be sent", length),
                fmt::format("type {} takes {}", static_cast<unsigned>(type), most_payload(type)));
  std::array<std::byte, header_size> header{};
  store_le<std::uint32_t>(header, 0, static_cast<std::uint32_t>(length));
  store_le<std::uint16_t>(header, 4, static_cast<std::uint16_t>(type));
  const std::lock_guard lock(send_mutex_);
  if (!out_)
    throw lost("it was closed");
  drain(header);
  for (const ByteSpan part : parts)
    drain(part);
}

void Connection::close() {
  aborted_ = true; // a send that waits ends
  const std::lock_guard lock(send_mutex_);
  in_.reset();
  out_.reset();
}

std::optional<Frame> Connection::receive() {
  for (;;) {
    std::array<std::byte, header_size> header{};
    if (!fill(header, true))
      return std::nullopt;
    const auto length = load_le<std::uint32_t>(header, 0);
    const auto type = static_cast<FrameType>(load_le<std::uint16_t>(header, 4));
    const std::uint32_t most = most_payload(type);
    if (most == 0 || length > most || load_le<std::uint16_t>(header, 6) != 0)
      throw Error("PROTOCOL_ERROR", "the other side sends what is no frame of the protocol",
                  fmt::format("type {}, {} bytes", static_cast<unsigned>(type), length),
                  "is the same version of kvm-p2v on both sides, and does the server's shell print nothing at login?");
    Frame frame{type, Bytes(length)};
    fill(frame.payload, false);
    if (frame.type != FrameType::ping)
      return frame;
  }
}

} // namespace kvmport
