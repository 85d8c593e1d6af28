// SPDX-License-Identifier: Apache-2.0
// Listens on a hub for DHCP requests and notes as whom each network card asks: a server that is asked by two machines
// under one name gives both the same address.
#pragma once

#include "base/hub.h"

#include <map>
#include <mutex>
#include <string>
#include <thread>

namespace kvmport {

/// The client of a DHCPv4 request in an Ethernet frame: the card's address and the client identifier (RFC 2131, section
/// 2: option 61, else the card's address) in hex; nothing for any other frame.
std::optional<std::pair<std::string, std::string>> dhcp_client(ByteSpan frame);

/// Listens until destroyed, on a thread of its own.
class DhcpWatch {
 public:
  explicit DhcpWatch(const std::filesystem::path& hub);
  ~DhcpWatch();
  DhcpWatch(const DhcpWatch&) = delete;
  DhcpWatch& operator=(const DhcpWatch&) = delete;

  /// Client identifiers by the card's address ("52:54:00:…").
  std::map<std::string, std::string> clients() const;

 private:
  HubPort port_;
  mutable std::mutex mutex_;
  std::map<std::string, std::string> clients_;
  std::jthread thread_;
};

} // namespace kvmport
