// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/rendezvous.h"

#include <array>
#include <cerrno>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

constexpr const char* socket_name = "socket";
constexpr std::size_t most_hello = 64U << 10;

/// Paths of sockets are short: the directory is named by its descriptor.
sockaddr_un address_in(int directory) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = "/proc/self/fd/" + std::to_string(directory) + "/" + socket_name;
  path.copy(static_cast<char*>(address.sun_path), sizeof address.sun_path - 1);
  return address;
}

UniqueFd open_directory(const fs::path& path) {
  UniqueFd fd(::open(path.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd)
    throw system_error(errno, "can't open " + path.string());
  return fd;
}

UniqueFd new_socket() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd)
    throw system_error(errno, "can't make a socket");
  return fd;
}

union ControlBuffer {
  cmsghdr align;
  std::array<char, CMSG_SPACE(2 * sizeof(int))> bytes;
};

/// The two descriptors that came with `message`, if there are just these.
bool take_descriptors(msghdr& message, HandedConnection& handed) {
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(2 * sizeof(int)))
      continue;
    std::array<int, 2> fds{};
    std::memcpy(fds.data(), CMSG_DATA(c), sizeof fds);
    handed.in = UniqueFd(fds[0]);
    handed.out = UniqueFd(fds[1]);
    return true;
  }
  return false;
}

} // namespace

Rendezvous::Rendezvous(const fs::path& directory)
    : directory_(open_directory(directory)), socket_(new_socket()), stopped_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  ::unlinkat(directory_.get(), socket_name, 0); // of a leader that was killed
  const sockaddr_un address = address_in(directory_.get());
  if (::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(socket_.get(), 64) != 0)
    throw system_error(errno, "can't listen in " + directory.string());
}

Rendezvous::~Rendezvous() {
  ::unlinkat(directory_.get(), socket_name, 0);
}

void Rendezvous::stop() {
  const std::uint64_t one = 1;
  (void)!::write(stopped_.get(), &one, sizeof one);
}

std::optional<HandedConnection> Rendezvous::accept() {
  std::array<pollfd, 2> both{pollfd{socket_.get(), POLLIN, 0}, pollfd{stopped_.get(), POLLIN, 0}};
  if (::poll(both.data(), both.size(), -1) <= 0 || both[1].revents != 0)
    return std::nullopt;
  pollfd polled{-1, POLLIN, 0};
  HandedConnection handed;
  handed.waiting = UniqueFd(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  polled.fd = handed.waiting.get();
  if (!handed.waiting || ::poll(&polled, 1, 1000) <= 0)
    return std::nullopt;
  handed.hello.resize(most_hello);
  iovec part{handed.hello.data(), handed.hello.size()};
  ControlBuffer control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes.data();
  message.msg_controllen = sizeof control;
  const ssize_t n = ::recvmsg(handed.waiting.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (n <= 0 || !take_descriptors(message, handed))
    return std::nullopt;
  handed.hello.resize(static_cast<std::size_t>(n));
  return handed;
}

bool hand_over(const fs::path& directory, int in, int out, const std::string& hello) {
  const UniqueFd place(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  const UniqueFd fd = new_socket();
  const sockaddr_un address = address_in(place.get());
  if (!place || ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return false;
  const std::array<int, 2> fds{in, out};
  ControlBuffer control{};
  iovec part{const_cast<char*>(hello.data()), hello.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes.data();
  message.msg_controllen = sizeof control;
  cmsghdr* c = CMSG_FIRSTHDR(&message);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof fds);
  std::memcpy(CMSG_DATA(c), fds.data(), sizeof fds);
  if (::sendmsg(fd.get(), &message, MSG_NOSIGNAL) < 0)
    return false;
  // Nothing is ever sent back: the end of the connection is the answer.
  char byte = 0;
  while (::read(fd.get(), &byte, 1) < 0 && errno == EINTR) {
  }
  return true;
}

} // namespace kvmport
