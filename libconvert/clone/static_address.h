// SPDX-License-Identifier: Apache-2.0
// IP addresses as people write them, and the static address that a clone shall have. Text forms: RFC 4291 section 2.2
// and 2.3 (IPv6, prefixes), RFC 4632 section 3.1 (IPv4 prefixes). Any thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvmport {

struct IpAddress {
  bool v6 = false;
  std::array<std::uint8_t, 16> bytes{}; ///< of IPv4 the first four

  std::string text() const;
  /// Of this machine alone (loopback) or of one link (fe80::/10, 169.254/16): no identity.
  bool is_local() const;
  auto operator<=>(const IpAddress&) const = default;
};

/// An address with the length of its network's prefix.
struct IpNetwork {
  IpAddress address;
  unsigned prefix = 0;

  std::string text() const; ///< "192.0.2.7/24"
  bool contains(const IpAddress& other) const;
};

// Nothing for what is no such text.
std::optional<IpAddress> parse_ip(std::string_view text);
std::optional<IpNetwork> parse_network(std::string_view text); ///< needs the "/24"
/// "255.255.255.0" → 24; "24" → 24.
std::optional<unsigned> parse_netmask(std::string_view text);
std::string netmask_text(unsigned prefix); ///< of IPv4

/// What one network card shall have. At most one address and one gateway of a family.
struct StaticAddress {
  std::vector<IpNetwork> addresses{};
  std::vector<IpAddress> gateways{}, dns{};

  bool empty() const { return addresses.empty(); }
  const IpNetwork* address(bool v6) const;
  const IpAddress* gateway(bool v6) const;
  /// All in one line, for comparing.
  std::string text() const;
};

/// `addresses`: "192.0.2.7/24" each. Error ADDRESS_INVALID: no address, no prefix, the network's own or its broadcast
/// address, a gateway that can't be reached, two of a family, or gateways and servers without an address.
StaticAddress parse_static_address(const std::vector<std::string>& addresses, const std::vector<std::string>& gateways,
                                   const std::vector<std::string>& dns);

} // namespace kvmport
