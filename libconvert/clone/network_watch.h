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

/// The card and an address that it says to have, in ARP (RFC 826: the sender's) or when IPv6 makes sure that nobody
/// else has it (RFC 4862, section 5.4.2); nothing for any other frame and for addresses of the link alone.
std::optional<std::pair<std::string, IpAddress>> address_holder(ByteSpan frame);

/// Asks who has an IPv4 address, as one that has none itself (RFC 5227, section 1.1: an ARP probe).
Bytes arp_probe(const IpAddress& address);

/// Listens until destroyed, on a thread of its own.
class NetworkWatch {
 public:
  /// `ask`: for who has these IPv4 addresses it asks time and again, since nobody need say so by himself.
  NetworkWatch(const std::filesystem::path& hub, std::vector<IpAddress> ask);
  ~NetworkWatch();
  NetworkWatch(const NetworkWatch&) = delete;
  NetworkWatch& operator=(const NetworkWatch&) = delete;

  /// Client identifiers by the card's address ("52:54:00:…").
  std::map<std::string, std::string> clients() const;
  /// Addresses by the card's.
  std::map<std::string, std::set<IpAddress>> addresses() const;

 private:
  void listen(const std::stop_token& stop);

  HubPort port_;
  const std::vector<IpAddress> ask_;
  mutable std::mutex mutex_;
  std::map<std::string, std::string> clients_;
  std::map<std::string, std::set<IpAddress>> addresses_;
  std::jthread thread_;
};

} // namespace kvmport
