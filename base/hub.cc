// SPDX-License-Identifier: Apache-2.0
#include "base/hub.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <memory>
#include <poll.h>
#include <random>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <tuple>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

constexpr std::string_view port_prefix = "port-";
constexpr std::size_t max_name = 64;
constexpr int most_tries = 100; // to enter a directory that others remove at the same time

using Frame = std::array<std::byte, max_frame + 1>; // one byte more, so that a longer one shows

/// The directory, made when it was not there, and only when nobody else can put anything into it.
UniqueFd open_private(const fs::path& directory) {
  if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST)
    throw system_error(errno, "can't make " + directory.string());
  UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat info {};
  if (!fd || ::fstat(fd.get(), &info) != 0 || info.st_uid != ::geteuid() || (info.st_mode & 077) != 0)
    throw Error("HUB_NOT_PRIVATE", directory.string() + " can't be a hub's directory",
                "it must be a directory of this user that is closed to all others (mode 0700)",
                "remove it, or name another hub");
  return fd;
}

bool is_own_directory(const char* path) {
  struct stat info {};
  return path != nullptr && *path == '/' && ::stat(path, &info) == 0 && S_ISDIR(info.st_mode) &&
         info.st_uid == ::geteuid();
}

/// Reads one frame; nothing when none is there or its size is wrong.
ByteSpan read_frame(int fd, Frame& buffer) {
  const ssize_t size = ::read(fd, buffer.data(), buffer.size());
  if (size < static_cast<ssize_t>(min_frame) || size > static_cast<ssize_t>(max_frame))
    return {};
  return {buffer.data(), static_cast<std::size_t>(size)};
}

} // namespace

fs::path hub_directory(const std::string& name) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("-_.").find(c) != std::string_view::npos;
  };
  if (name.empty() || name.size() > max_name || name.front() == '.' || !std::all_of(name.begin(), name.end(), allowed))
    throw Error("USAGE", "\"" + name + "\" can't be the name of a hub", {},
                "take up to 64 letters, digits, '-', '_' and '.', not '.' first");
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  const fs::path parent =
      fs::path(is_own_directory(runtime) ? runtime : "/tmp") / fmt::format("kvmport-hub-{}", ::geteuid());
  open_private(parent);
  return parent / name;
}

std::string hub_mac(const fs::path& hub, const std::string& guest) {
  const std::size_t hash = std::hash<std::string>()(hub.string() + '\0' + guest);
  return fmt::format("52:54:00:{:02x}:{:02x}:{:02x}", hash >> 16 & 0xff, hash >> 8 & 0xff, hash & 0xff);
}

HubPort::HubPort(const fs::path& directory) : path_(directory) {
  std::tie(relayed_, guest_) = socket_pair(SOCK_DGRAM | SOCK_NONBLOCK);
  socket_ = UniqueFd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  stop_ = UniqueFd(::eventfd(0, EFD_CLOEXEC));
  if (!socket_ || !stop_)
    throw system_error(errno, "can't make a socket");
  for (int tries = 1; !bind_in(directory); tries++)
    if (tries == most_tries)
      throw Error("IO_ERROR", "the hub's directory " + directory.string() + " vanishes again and again");
  thread_ = std::thread([this] { relay(); });
}

HubPort::~HubPort() {
  const std::uint64_t one = 1;
  (void)!::write(stop_.get(), &one, sizeof one);
  thread_.join();
  ::unlinkat(directory_.get(), name_.c_str(), 0);
  ::rmdir(path_.c_str()); // fails as long as others are in it
}

/// The path of a socket in the directory that was checked, whatever its own path means by now and however long it is.
std::string HubPort::address(const std::string& name) const {
  return fmt::format("/proc/self/fd/{}/{}", directory_.get(), name);
}

/// False when the last of the others removed the directory meanwhile.
bool HubPort::bind_in(const fs::path& directory) {
  directory_ = open_private(directory);
  std::random_device random;
  const std::string id = fmt::format("{:08x}{:08x}", random(), random()), unready = "new-" + id;
  name_ = std::string(port_prefix) + id;
  sockaddr_un at{};
  at.sun_family = AF_UNIX;
  address(unready).copy(at.sun_path, sizeof at.sun_path - 1);
  if (::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) != 0) {
    if (errno == ENOENT)
      return false;
    throw system_error(errno, "can't make a port in " + directory.string());
  }
  // Others take a socket that does not answer for a dead one, so it gets its name when it does.
  if (::renameat(directory_.get(), unready.c_str(), directory_.get(), name_.c_str()) != 0)
    throw system_error(errno, "can't make a port in " + directory.string());
  return true;
}

void HubPort::relay() {
  std::array<pollfd, 3> polled{{{stop_.get(), POLLIN, 0}, {relayed_.get(), POLLIN, 0}, {socket_.get(), POLLIN, 0}}};
  Frame buffer;
  for (;;) {
    if (::poll(polled.data(), polled.size(), -1) < 0 && errno != EINTR)
      return;
    if (polled[0].revents != 0)
      return;
    if (const ByteSpan frame = read_frame(relayed_.get(), buffer); !frame.empty())
      send_to_others(frame);
    if (const ByteSpan frame = read_frame(socket_.get(), buffer); !frame.empty())
      (void)!::write(relayed_.get(), frame.data(), frame.size());
  }
}

/// The directory is read for each frame: it is small, and so nobody is ever missed.
void HubPort::send_to_others(ByteSpan frame) const {
  const std::unique_ptr<DIR, int (*)(DIR*)> list(::fdopendir(::openat(directory_.get(), ".", O_RDONLY | O_CLOEXEC)),
                                                 ::closedir);
  while (list) {
    const dirent* const entry = ::readdir(list.get());
    if (entry == nullptr)
      return;
    const std::string name = entry->d_name;
    if (!name.starts_with(port_prefix) || name == name_)
      continue;
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    address(name).copy(to.sun_path, sizeof to.sun_path - 1);
    const ssize_t sent = ::sendto(socket_.get(), frame.data(), frame.size(), MSG_NOSIGNAL,
                                  reinterpret_cast<const sockaddr*>(&to), sizeof to);
    if (sent < 0 && errno == ECONNREFUSED) // left behind by a process that was killed
      ::unlinkat(directory_.get(), name.c_str(), 0);
  }
}

void HubPort::send(ByteSpan frame) {
  (void)!::write(guest_.get(), frame.data(), frame.size());
}

std::optional<Bytes> HubPort::receive() {
  Frame buffer;
  const ByteSpan frame = read_frame(guest_.get(), buffer);
  return frame.empty() ? std::nullopt : std::optional(Bytes(frame.begin(), frame.end()));
}

} // namespace kvmport
