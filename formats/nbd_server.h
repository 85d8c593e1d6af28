// SPDX-License-Identifier: Apache-2.0
// Shows an overlay to libguestfs or QEMU as plain raw NBD on a private Unix socket, so that no other program ever
// parses a foreign image. Follows the NBD protocol document (proto.md): fixed newstyle handshake, export "" only, no
// TLS.
#pragma once

#include "formats/overlay.h"

#include <filesystem>
#include <functional>
#include <string>

namespace kvmport {

/// Serves until destroyed; its own threads, one per connection. Errors of the overlay become NBD errors for the client
/// and are kept for `failure()`.
class NbdServer {
 public:
  /// The socket is made at `socket_path` (mode 0600; the directory must be private).
  NbdServer(Overlay& overlay, const std::filesystem::path& socket_path);
  ~NbdServer();
  NbdServer(const NbdServer&) = delete;
  NbdServer& operator=(const NbdServer&) = delete;

  /// From the next request on reads and writes go to `next` (which lies over the one served so far).
  void switch_to(Overlay& next);
  /// "nbd+unix:///?socket=…"
  std::string uri() const;
  const std::filesystem::path& socket_path() const;
  /// Text of the first error that a request met; empty when none.
  std::string failure() const;
  /// Bytes read / written by clients so far.
  std::uint64_t bytes_read() const;
  std::uint64_t bytes_written() const;
  /// Called (from a server thread) after each read, or each write or zero, with its range; set before clients connect.
  /// Evidence for the boot proof.
  using Observer = std::function<void(Range)>;
  void on_read(Observer observer);
  void on_write(Observer observer);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

} // namespace kvmport
