// SPDX-License-Identifier: Apache-2.0
// The network half of enrol.h.
#include "libconvert/p2v/enrol.h"

#include "libconvert/machine/text.h"

#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <cerrno>
#include <fmt/format.h>
#include <memory>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace kvmport {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds patience_with_caller{5000}, turn{200};

[[noreturn]] void lost(const std::string& why) {
  throw Error("CONNECTION_LOST", "the connection for the enrolment failed", why);
}

/// Waits for `events`; false when `until` has come.
bool wait_for(int fd, short events, Clock::time_point until, const StopToken& stop) {
  for (;;) {
    stop.check();
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now());
    if (left.count() <= 0)
      return false;
    pollfd p{fd, events, 0};
    const int n = ::poll(&p, 1, static_cast<int>(std::min(left, turn).count()));
    if (n < 0 && errno != EINTR)
      throw system_error(errno, "poll");
    if (n > 0)
      return true;
  }
}

void receive_exact(int socket, std::span<char> out, Clock::time_point until, const StopToken& stop) {
  while (!out.empty()) {
    if (!wait_for(socket, POLLIN, until, stop))
      lost("no answer in time");
    const ssize_t n = ::recv(socket, out.data(), out.size(), MSG_DONTWAIT);
    if (n == 0)
      lost("the other end closed it");
    if (n < 0 && errno != EAGAIN && errno != EINTR)
      lost(system_error(errno, "recv").what());
    if (n > 0)
      out = out.subspan(static_cast<std::size_t>(n));
  }
}

struct FreeAddresses {
  void operator()(addrinfo* a) const { ::freeaddrinfo(a); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

Addresses resolve(const std::string& host, std::uint16_t port, int flags) {
  addrinfo wanted{};
  wanted.ai_socktype = SOCK_STREAM;
  wanted.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int rc = ::getaddrinfo(host.empty() ? nullptr : host.c_str(), fmt::format("{}", port).c_str(), &wanted, &found);
  if (rc != 0)
    throw Error("CONNECTION_LOST", fmt::format("{}: no such address", printable(host)), ::gai_strerror(rc));
  return Addresses(found);
}

std::string text_of(const sockaddr_storage& address, socklen_t size) {
  std::array<char, NI_MAXHOST> host{};
  if (::getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, host.data(), host.size(), nullptr, 0,
                    NI_NUMERICHOST) != 0)
    return "?";
  return host.data();
}

} // namespace

void send_message(int socket, std::string_view text) {
  if (text.size() > largest_enrol_message)
    throw Error("ENROL_INVALID", "a message is too long to be sent");
  std::string out;
  out += static_cast<char>(text.size() >> 8);
  out += static_cast<char>(text.size() & 0xff);
  out += text;
  // It fits into any socket's buffer.
  if (::send(socket, out.data(), out.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(out.size()))
    lost("it could not be sent");
}

std::string receive_message(int socket, std::chrono::milliseconds timeout, const StopToken& stop) {
  const auto until = Clock::now() + timeout;
  std::array<char, 2> length{};
  receive_exact(socket, length, until, stop);
  const std::size_t size = static_cast<unsigned char>(length[0]) * 256U + static_cast<unsigned char>(length[1]);
  if (size > largest_enrol_message)
    throw Error("ENROL_INVALID", "a message is too long", fmt::format("{} bytes", size));
  std::string text(size, '\0');
  receive_exact(socket, text, until, stop);
  return text;
}

UniqueFd connect_tcp(const std::string& host, std::uint16_t port, std::chrono::milliseconds timeout) {
  const Addresses addresses = resolve(host, port, 0);
  std::string why;
  for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
    UniqueFd socket(::socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    int error = 0;
    socklen_t size = sizeof error;
    if (socket && (::connect(socket.get(), a->ai_addr, a->ai_addrlen) == 0 || errno == EINPROGRESS) &&
        wait_for(socket.get(), POLLOUT, Clock::now() + timeout, {}) &&
        ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0)
      return socket;
    why = error != 0 ? system_error(error, host).what() : host + ": no answer";
  }
  lost(fmt::format("{} (port {})", why, port));
}

EnrolListener::EnrolListener(const std::string& address, std::uint16_t port) {
  const Addresses addresses = resolve(address.empty() ? "::" : address, port, AI_PASSIVE | AI_NUMERICHOST);
  socket_ = UniqueFd(::socket(addresses->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int on = 1, off = 0;
  if (!socket_)
    throw system_error(errno, "can't listen");
  ::setsockopt(socket_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (addresses->ai_family == AF_INET6 && address.empty())
    ::setsockopt(socket_.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  sockaddr_storage own{};
  socklen_t size = sizeof own;
  if (::bind(socket_.get(), addresses->ai_addr, addresses->ai_addrlen) != 0 || ::listen(socket_.get(), 16) != 0 ||
      ::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&own), &size) != 0)
    throw system_error(errno, fmt::format("can't listen on port {}", port));
  port_ = ntohs(own.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(own).sin6_port
                                          : reinterpret_cast<sockaddr_in&>(own).sin_port);
}

std::optional<EnrolListener::Caller> EnrolListener::next(Clock::time_point until, EventSink& events,
                                                         const StopToken& stop) {
  while (wait_for(socket_.get(), POLLIN, until, stop)) {
    sockaddr_storage from{};
    socklen_t size = sizeof from;
    Caller caller;
    caller.socket = UniqueFd(::accept4(socket_.get(), reinterpret_cast<sockaddr*>(&from), &size, SOCK_CLOEXEC));
    if (!caller.socket)
      continue;
    caller.address = text_of(from, size);
    try {
      caller.request = decode_request(receive_message(caller.socket.get(), patience_with_caller, stop));
      return caller;
    } catch (const Error& e) {
      if (e.code() == "INTERRUPTED")
        throw;
      events.message(EventSink::Level::warning, e.code(), fmt::format("{}: {}", caller.address, e.what()));
    }
  }
  return std::nullopt;
}

} // namespace kvmport
