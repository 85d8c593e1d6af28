// SPDX-License-Identifier: Apache-2.0
// Listens on a hub: as whom each network card asks for an address by DHCP (a server that is asked by two machines under
// one name gives both the same), and which addresses each card has.
#pragma once

#include "base/hub.h"
#include "libconvert/clone/static_address.h"

#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>

namespace kvmport {

/// The client of a DHCPv4 request in an Ethernet frame: the card's address and the client identifier (RFC 2131, section
/// 2: option 61, else the card's address) in hex; nothing for any other frame.
std::optional<std::pair<std::string, std::string>> dhcp_client(ByteSpan frame);

/// The card and an address that it has: the sender of an ARP request or reply (RFC 826), or of a neighbour
/// advertisement for it (RFC 4861, section 4.4). Nothing for any other frame and for addresses of the link alone.
std::optional<std::pair<std::string, IpAddress>> address_holder(ByteSpan frame);

/// Asks who has an address: an ARP request of `sender` (not of 0.0.0.0, whom a guest that still makes sure of its
/// address would take for a rival: RFC 5227, section 2.1.1), or a neighbour solicitation of a link-local address (RFC
/// 4861, section 4.3), for which `sender` does not count.
Bytes address_question(const IpAddress& address, const IpAddress& sender);

/// Listens until destroyed, on a thread of its own.
class NetworkWatch {
 public:
  /// `ask`: who has these addresses is asked time and again, since nobody need say so by himself.
  NetworkWatch(const std::filesystem::path& hub, const std::vector<IpNetwork>& ask);
  ~NetworkWatch();
  NetworkWatch(const NetworkWatch&) = delete;
  NetworkWatch& operator=(const NetworkWatch&) = delete;

  /// Client identifiers by the card's address ("52:54:00:…").
  std::map<std::string, std::string> clients() const;
  /// Addresses by the card's.
  std::map<std::string, std::set<IpAddress>> addresses() const;

 private:
  void listen(const std::stop_token& stop);
  void note(ByteSpan frame);

  HubPort port_;
  std::vector<Bytes> questions_;
  mutable std::mutex mutex_;
  std::map<std::string, std::string> clients_;
  std::map<std::string, std::set<IpAddress>> addresses_;
  std::jthread thread_;
};

} // namespace kvmport
