// SPDX-License-Identifier: Apache-2.0
// A private Ethernet segment for guests of several processes, without a process of its own: a directory in which each
// port binds one Unix datagram socket; a frame goes to every other socket there. Nothing of the host is on it. As on a
// real hub, a port that does not keep up loses frames.
#pragma once

#include "base/file.h"

#include <optional>
#include <thread>

namespace kvmport {

/// Bytes of a frame without its checksum: header alone, and header, VLAN tag and 1500 bytes (IEEE 802.3, section
/// 3.2.7). All others are dropped.
inline constexpr std::size_t min_frame = 14, max_frame = 1518;

/// Where the ports of the hub lie that this user calls `name`: in $XDG_RUNTIME_DIR when it is the user's own, else in
/// /tmp. Errors: USAGE for a name of other than 1 to 64 letters, digits, '-', '_' or (not first) '.'; HUB_NOT_PRIVATE.
std::filesystem::path hub_directory(const std::string& name);

/// A MAC address of QEMU's range 52:54:00, the same for the same `guest` on the same hub.
std::string hub_mac(const std::filesystem::path& hub, const std::string& guest);

/// One port, plugged in until destroyed; relays by a thread of its own. Safe from several threads.
class HubPort {
 public:
  /// Makes the directory (mode 0700) when it is not there; the last port removes it. Error HUB_NOT_PRIVATE when it is
  /// no directory, another user's, or open to others.
  explicit HubPort(const std::filesystem::path& directory);
  ~HubPort();
  HubPort(const HubPort&) = delete;
  HubPort& operator=(const HubPort&) = delete;

  /// The guest's end, non-blocking: one message is one frame, by read(2) and write(2) alone. Borrowed; it may be
  /// inherited by another process.
  int fd() const noexcept { return guest_.get(); }
  void send(ByteSpan frame);
  /// A frame that has come, or nothing.
  std::optional<Bytes> receive();

 private:
  bool bind_in(const std::filesystem::path& directory);
  std::string address(const std::string& name) const;
  void relay();
  void send_to_others(ByteSpan frame) const;

  std::filesystem::path path_;
  UniqueFd directory_, socket_, relayed_, guest_, stop_;
  std::string name_; ///< of its socket
  std::thread thread_;
};

} // namespace kvmport
