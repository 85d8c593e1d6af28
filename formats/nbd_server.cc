// SPDX-License-Identifier: Apache-2.0
#include "formats/nbd_server.h"
#include "formats/nbd_protocol.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <list>
#include <mutex>
#include <poll.h>
#include <shared_mutex>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

/// The client went away or broke the protocol; the connection ends, nobody else is told.
struct Disconnect {};

class Wire {
 public:
  explicit Wire(int fd) : fd_(fd) {}

  void receive(std::span<std::byte> out) {
    while (!out.empty()) {
      const ssize_t n = ::recv(fd_, out.data(), out.size(), 0);
      if (n < 0 && errno == EINTR)
        continue;
      if (n <= 0)
        throw Disconnect{};
      out = out.subspan(static_cast<std::size_t>(n));
    }
  }

  void send(ByteSpan in, bool more = false) {
    while (!in.empty()) {
      const ssize_t n = ::send(fd_, in.data(), in.size(), MSG_NOSIGNAL | (more ? MSG_MORE : 0));
      if (n < 0 && errno == EINTR)
        continue;
      if (n <= 0)
        throw Disconnect{};
      in = in.subspan(static_cast<std::size_t>(n));
    }
  }

  template <std::unsigned_integral T> T receive_be() {
    std::array<std::byte, sizeof(T)> raw{};
    receive(raw);
    return load_be<T>(raw, 0);
  }

 private:
  int fd_;
};

/// Builds big-endian messages.
class Message {
 public:
  template <std::unsigned_integral T> Message& add(T value) {
    bytes_.resize(bytes_.size() + sizeof(T));
    store_be<T>(bytes_, bytes_.size() - sizeof(T), value);
    return *this;
  }
  Message& add_zeros(std::size_t count) {
    bytes_.resize(bytes_.size() + count);
    return *this;
  }
  const Bytes& bytes() const { return bytes_; }

 private:
  Bytes bytes_;
};

struct Request {
  std::uint16_t flags = 0;
  nbd::Command command{};
  std::uint64_t cookie = 0, offset = 0;
  std::uint32_t length = 0;
};

constexpr std::uint16_t export_flags =
    nbd::has_flags | nbd::send_flush | nbd::send_fua | nbd::send_trim | nbd::send_write_zeroes | nbd::can_multi_conn;

std::string percent_encoded(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("/-._~").find(c) != std::string_view::npos;
    std::array<char, 4> code{};
    std::snprintf(code.data(), code.size(), "%%%02X", static_cast<unsigned char>(c));
    out += plain ? std::string(1, c) : code.data();
  }
  return out;
}

} // namespace

struct NbdServer::State {
  State(Overlay& overlay, fs::path path) : size(overlay.size()), socket_path(std::move(path)), current(&overlay) {}

  const std::uint64_t size;
  const fs::path socket_path;
  std::shared_mutex current_mutex; ///< held shared by each request, alone by switch_to
  Overlay* current;
  Observer read_observer, write_observer;

  std::atomic<std::uint64_t> bytes_read{0}, bytes_written{0};
  mutable std::mutex failure_mutex;
  std::string failure;

  struct Connection {
    UniqueFd fd;
    std::thread thread;
    std::atomic<bool> done{false};
  };
  UniqueFd listener, stop;
  std::thread acceptor;
  std::list<Connection> connections; ///< only the acceptor touches it until it has ended

  void accept_loop();
  void serve(int fd);
  bool handshake(Wire& wire);
  bool answer_go(Wire& wire, std::uint32_t option, ByteSpan data);
  void transmission(Wire& wire);
  std::uint32_t perform(const Request& request, std::span<std::byte> payload);
  void note_failure(const Error& error);
};

void NbdServer::State::accept_loop() {
  constexpr std::size_t most_connections = 128;
  for (;;) {
    std::array<pollfd, 2> wait{{{listener.get(), POLLIN, 0}, {stop.get(), POLLIN, 0}}};
    if (::poll(wait.data(), wait.size(), -1) < 0 && errno != EINTR)
      return;
    if (wait[1].revents != 0)
      return;
    std::erase_if(connections, [](Connection& connection) {
      if (!connection.done)
        return false;
      connection.thread.join();
      return true;
    });
    if (wait[0].revents == 0)
      continue;
    UniqueFd fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd || connections.size() >= most_connections)
      continue;
    Connection& connection = connections.emplace_back();
    connection.fd = std::move(fd);
    connection.thread = std::thread([this, &connection] {
      serve(connection.fd.get());
      ::shutdown(connection.fd.get(), SHUT_RDWR);
      connection.done = true;
    });
  }
}

void NbdServer::State::serve(int fd) {
  try {
    Wire wire(fd);
    if (handshake(wire))
      transmission(wire);
  } catch (const Disconnect&) { // the usual end
  } catch (const Error& error) {
    note_failure(error);
  } catch (const std::exception& error) {
    note_failure(Error("INTERNAL", error.what()));
  }
}

void NbdServer::State::note_failure(const Error& error) {
  const std::lock_guard lock(failure_mutex);
  if (failure.empty())
    failure = error.code() + ": " + error.summary() + (error.why().empty() ? "" : " (" + error.why() + ")");
}

/// True when the client enters transmission.
bool NbdServer::State::handshake(Wire& wire) {
  wire.send(Message()
                .add(nbd::init_magic)
                .add(nbd::option_magic)
                .add(static_cast<std::uint16_t>(nbd::flag_fixed_newstyle | nbd::flag_no_zeroes))
                .bytes());
  const auto client_flags = wire.receive_be<std::uint32_t>();
  if ((client_flags & ~(nbd::flag_fixed_newstyle | nbd::flag_no_zeroes)) != 0)
    return false;
  for (;;) {
    if (wire.receive_be<std::uint64_t>() != nbd::option_magic)
      return false;
    const auto option = wire.receive_be<std::uint32_t>();
    const auto length = wire.receive_be<std::uint32_t>();
    if (length > nbd::max_option)
      return false;
    Bytes data(length);
    wire.receive(data);
    const auto reply = [&](std::uint32_t type) {
      wire.send(Message().add(nbd::option_reply_magic).add(option).add(type).add(std::uint32_t{0}).bytes());
    };
    switch (static_cast<nbd::Option>(option)) {
    case nbd::Option::export_name:
      if (length != 0)
        return false;
      wire.send(
          Message().add(size).add(export_flags).add_zeros((client_flags & nbd::flag_no_zeroes) != 0 ? 0 : 124).bytes());
      return true;
    case nbd::Option::abort:
      reply(nbd::rep_ack);
      return false;
    case nbd::Option::list:
      if (length != 0) {
        reply(nbd::rep_err_invalid);
        break;
      }
      wire.send(Message()
                    .add(nbd::option_reply_magic)
                    .add(option)
                    .add(nbd::rep_server)
                    .add(std::uint32_t{4})
                    .add(std::uint32_t{0}) // the name: empty
                    .bytes());
      reply(nbd::rep_ack);
      break;
    case nbd::Option::info:
    case nbd::Option::go:
      if (answer_go(wire, option, data) && option == static_cast<std::uint32_t>(nbd::Option::go))
        return true;
      break;
    default:
      reply(nbd::rep_err_unsup);
    }
  }
}

/// Answers INFO and GO; true when the answer was yes.
bool NbdServer::State::answer_go(Wire& wire, std::uint32_t option, ByteSpan data) {
  const auto reply = [&](std::uint32_t type, const Bytes& payload) {
    wire.send(Message()
                  .add(nbd::option_reply_magic)
                  .add(option)
                  .add(type)
                  .add(static_cast<std::uint32_t>(payload.size()))
                  .bytes(),
              !payload.empty());
    wire.send(payload);
  };
  // u32 length, name, u16 count, count times u16 information type
  if (data.size() < 6 || load_be<std::uint32_t>(data, 0) > data.size() - 6) {
    reply(nbd::rep_err_invalid, {});
    return false;
  }
  const auto name_length = load_be<std::uint32_t>(data, 0);
  const auto count = load_be<std::uint16_t>(data, 4 + name_length);
  if (data.size() != 6 + std::size_t{name_length} + std::size_t{count} * 2) {
    reply(nbd::rep_err_invalid, {});
    return false;
  }
  if (name_length != 0) {
    reply(nbd::rep_err_unknown, {});
    return false;
  }
  reply(nbd::rep_info, Message().add(nbd::info_export).add(size).add(export_flags).bytes());
  reply(nbd::rep_info, Message()
                           .add(nbd::info_block_size)
                           .add(std::uint32_t{1})
                           .add(static_cast<std::uint32_t>(Overlay::granule))
                           .add(nbd::max_payload)
                           .bytes());
  reply(nbd::rep_ack, {});
  return true;
}

void NbdServer::State::transmission(Wire& wire) {
  Bytes buffer;
  for (;;) {
    std::array<std::byte, 28> header{};
    wire.receive(header);
    if (load_be<std::uint32_t>(header, 0) != nbd::request_magic)
      return;
    const Request request{
        load_be<std::uint16_t>(header, 4), static_cast<nbd::Command>(load_be<std::uint16_t>(header, 6)),
        load_be<std::uint64_t>(header, 8), load_be<std::uint64_t>(header, 16), load_be<std::uint32_t>(header, 24)};
    if (request.command == nbd::Command::disconnect)
      return;
    const bool reads = request.command == nbd::Command::read, writes = request.command == nbd::Command::write;
    std::uint32_t error = 0;
    std::span<std::byte> payload;
    if (reads || writes) {
      if (request.length > nbd::max_payload) {
        if (writes)
          return; // its payload would have to be read only to be dropped
        error = nbd::err_invalid;
      } else {
        buffer.resize(std::max<std::size_t>(buffer.size(), request.length));
        payload = std::span(buffer).first(request.length);
        if (writes)
          wire.receive(payload);
      }
    }
    if (error == 0)
      error = perform(request, payload);
    const bool with_data = reads && error == 0;
    wire.send(Message().add(nbd::reply_magic).add(error).add(request.cookie).bytes(), with_data && !payload.empty());
    if (with_data)
      wire.send(payload);
  }
}

/// Does what is asked and returns the protocol's error number, 0 for success.
std::uint32_t NbdServer::State::perform(const Request& request, std::span<std::byte> payload) {
  if ((request.flags & ~(nbd::command_fua | nbd::command_no_hole)) != 0)
    return nbd::err_invalid;
  const bool inside = request.offset <= size && request.length <= size - request.offset;
  const Range range{request.offset, request.length};
  try {
    const std::shared_lock lock(current_mutex);
    switch (request.command) {
    case nbd::Command::read:
      if (!inside)
        return nbd::err_invalid;
      current->read(range.offset, payload);
      bytes_read += range.length;
      if (read_observer)
        read_observer(range);
      return 0;
    case nbd::Command::write:
      if (!inside)
        return nbd::err_no_space;
      current->write(range.offset, payload);
      break;
    case nbd::Command::flush: // private data that vanishes with the overlay has no need to reach the disk
      return 0;
    case nbd::Command::trim:
    case nbd::Command::write_zeroes:
      if (!inside)
        return request.command == nbd::Command::trim ? nbd::err_invalid : nbd::err_no_space;
      current->zero(range);
      break;
    default:
      return nbd::err_invalid;
    }
    bytes_written += range.length;
    if (write_observer)
      write_observer(range);
    return 0;
  } catch (const Error& error) {
    note_failure(error);
    return error.code() == "OVERLAY_FULL" || error.code() == "DISK_FULL" ? nbd::err_no_space : nbd::err_io;
  }
}

NbdServer::NbdServer(Overlay& overlay, const fs::path& socket_path)
    : state_(std::make_unique<State>(overlay, socket_path)) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = socket_path.string();
  if (name.size() >= sizeof address.sun_path)
    throw Error("PATH_TOO_LONG", "the socket path " + name + " is too long",
                "at most " + std::to_string(sizeof address.sun_path - 1) + " bytes", "choose a shorter TMPDIR");
  name.copy(address.sun_path, name.size());
  state_->listener = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  state_->stop = UniqueFd(::eventfd(0, EFD_CLOEXEC));
  if (!state_->listener || !state_->stop ||
      ::bind(state_->listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::chmod(name.c_str(), 0600) != 0 || ::listen(state_->listener.get(), 16) != 0)
    throw system_error(errno, "can't listen on " + name);
  state_->acceptor = std::thread([state = state_.get()] { state->accept_loop(); });
}

NbdServer::~NbdServer() {
  const std::uint64_t one = 1;
  (void)!::write(state_->stop.get(), &one, sizeof one);
  state_->acceptor.join();
  for (State::Connection& connection : state_->connections)
    ::shutdown(connection.fd.get(), SHUT_RDWR);
  for (State::Connection& connection : state_->connections)
    connection.thread.join();
  ::unlink(state_->socket_path.c_str());
}

void NbdServer::switch_to(Overlay& next) {
  if (next.size() != state_->size)
    throw Error("SIZE_MISMATCH", "a served disk can't change its size",
                std::to_string(state_->size) + " and " + std::to_string(next.size()) + " bytes");
  const std::unique_lock lock(state_->current_mutex);
  state_->current = &next;
}

std::string NbdServer::uri() const {
  return "nbd+unix:///?socket=" + percent_encoded(state_->socket_path.string());
}

const fs::path& NbdServer::socket_path() const {
  return state_->socket_path;
}

std::string NbdServer::failure() const {
  const std::lock_guard lock(state_->failure_mutex);
  return state_->failure;
}

std::uint64_t NbdServer::bytes_read() const {
  return state_->bytes_read;
}

std::uint64_t NbdServer::bytes_written() const {
  return state_->bytes_written;
}

void NbdServer::on_read(Observer observer) {
  const std::unique_lock lock(state_->current_mutex);
  state_->read_observer = std::move(observer);
}

void NbdServer::on_write(Observer observer) {
  const std::unique_lock lock(state_->current_mutex);
  state_->write_observer = std::move(observer);
}

} // namespace kvmport
