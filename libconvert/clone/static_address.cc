// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/static_address.h"

#include "base/error.h"
#include "libconvert/machine/text.h"

#include <algorithm>
#include <arpa/inet.h>
#include <charconv>
#include <fmt/format.h>

namespace kvmport {
namespace {

constexpr std::size_t longest_text = 60;

std::optional<unsigned> number(std::string_view text, unsigned most) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value > most)
    return std::nullopt;
  return value;
}

bool bit(const IpAddress& address, unsigned index) {
  return (address.bytes[index / 8] >> (7 - index % 8) & 1) != 0;
}

/// All bits behind the prefix are this.
bool host_part_is(const IpNetwork& network, bool value) {
  for (unsigned i = network.prefix; i < (network.address.v6 ? 128U : 32U); i++)
    if (bit(network.address, i) != value)
      return false;
  return true;
}

Error invalid(const std::string& text, const std::string& why) {
  return {"ADDRESS_INVALID", "\"" + printable(text, longest_text) + "\" " + why};
}

IpNetwork checked_network(const std::string& text) {
  const auto network = parse_network(text);
  if (!network)
    throw Error("ADDRESS_INVALID", "\"" + printable(text, longest_text) + "\" is no address with its prefix", {},
                "write it as 192.0.2.7/24 or 2001:db8::7/64");
  const unsigned bits = network->address.v6 ? 128 : 32;
  if (network->prefix == 0 || network->address.is_local())
    throw invalid(text, "can't be the address of a network card");
  if (network->prefix + 1 < bits && host_part_is(*network, false))
    throw invalid(text, "is the address of the network itself");
  if (!network->address.v6 && network->prefix + 1 < bits && host_part_is(*network, true))
    throw invalid(text, "is the network's broadcast address");
  return *network;
}

IpAddress checked_ip(const std::string& text) {
  const auto ip = parse_ip(text);
  if (!ip)
    throw invalid(text, "is no IP address");
  return *ip;
}

/// Reachable: in the network, on the link, or the address stands alone and the way there is set up otherwise.
void check_gateway(const StaticAddress& all, const IpAddress& gateway) {
  const IpNetwork* network = all.address(gateway.v6);
  if (network == nullptr)
    throw invalid(gateway.text(), "is a gateway of a family that no address is given for");
  const bool alone = network->prefix == (gateway.v6 ? 128U : 32U);
  const bool on_link = gateway.v6 && gateway.is_local();
  if (!alone && !on_link && !network->contains(gateway))
    throw invalid(gateway.text(), "is a gateway outside of " + network->text());
  if (gateway == network->address)
    throw invalid(gateway.text(), "is the address and the gateway");
}

} // namespace

std::string IpAddress::text() const {
  std::array<char, INET6_ADDRSTRLEN> out{};
  ::inet_ntop(v6 ? AF_INET6 : AF_INET, bytes.data(), out.data(), out.size());
  return out.data();
}

bool IpAddress::is_local() const {
  if (!v6)
    return bytes[0] == 127 || bytes[0] == 0 || (bytes[0] == 169 && bytes[1] == 254);
  const bool zeros = std::all_of(bytes.begin(), bytes.end() - 1, [](auto byte) { return byte == 0; });
  return (bytes[0] == 0xfe && (bytes[1] & 0xc0) == 0x80) || (zeros && bytes.back() <= 1);
}

std::string IpNetwork::text() const {
  return fmt::format("{}/{}", address.text(), prefix);
}

bool IpNetwork::contains(const IpAddress& other) const {
  if (other.v6 != address.v6)
    return false;
  for (unsigned i = 0; i < prefix; i++)
    if (bit(other, i) != bit(address, i))
      return false;
  return true;
}

std::optional<IpAddress> parse_ip(std::string_view text) {
  if (text.empty() || text.size() >= INET6_ADDRSTRLEN)
    return std::nullopt;
  IpAddress ip;
  ip.v6 = text.find(':') != std::string_view::npos;
  if (::inet_pton(ip.v6 ? AF_INET6 : AF_INET, std::string(text).c_str(), ip.bytes.data()) != 1)
    return std::nullopt;
  return ip;
}

std::optional<IpNetwork> parse_network(std::string_view text) {
  const std::size_t slash = text.find('/');
  const auto ip = parse_ip(text.substr(0, slash));
  if (!ip || slash == std::string_view::npos)
    return std::nullopt;
  const auto prefix = number(text.substr(slash + 1), ip->v6 ? 128 : 32);
  if (!prefix)
    return std::nullopt;
  return IpNetwork{*ip, *prefix};
}

std::optional<unsigned> parse_netmask(std::string_view text) {
  if (text.find('.') == std::string_view::npos)
    return number(text, 128);
  const auto mask = parse_ip(text);
  if (!mask || mask->v6)
    return std::nullopt;
  unsigned prefix = 0;
  while (prefix < 32 && bit(*mask, prefix))
    prefix++;
  return mask->text() == netmask_text(prefix) ? std::optional(prefix) : std::nullopt;
}

std::string netmask_text(unsigned prefix) {
  IpAddress mask;
  for (unsigned i = 0; i < std::min(prefix, 32U); i++)
    mask.bytes[i / 8] = static_cast<std::uint8_t>(mask.bytes[i / 8] | (0x80U >> (i % 8)));
  return mask.text();
}

const IpNetwork* StaticAddress::address(bool v6) const {
  const auto found = std::ranges::find_if(addresses, [&](const IpNetwork& n) { return n.address.v6 == v6; });
  return found == addresses.end() ? nullptr : &*found;
}

const IpAddress* StaticAddress::gateway(bool v6) const {
  const auto found = std::ranges::find_if(gateways, [&](const IpAddress& ip) { return ip.v6 == v6; });
  return found == gateways.end() ? nullptr : &*found;
}

std::string StaticAddress::text() const {
  std::string all;
  for (const IpNetwork& network : addresses)
    all += (all.empty() ? "" : " ") + network.text();
  for (const IpAddress& gateway : gateways)
    all += " gateway " + gateway.text();
  for (const IpAddress& server : dns)
    all += " dns " + server.text();
  return all;
}

StaticAddress parse_static_address(const std::vector<std::string>& addresses, const std::vector<std::string>& gateways,
                                   const std::vector<std::string>& dns) {
  StaticAddress all;
  for (const std::string& text : addresses) {
    const IpNetwork network = checked_network(text);
    if (all.address(network.address.v6) != nullptr)
      throw invalid(text, "is a second address of one family; a card gets one");
    all.addresses.push_back(network);
  }
  for (const std::string& text : gateways) {
    const IpAddress gateway = checked_ip(text);
    if (all.gateway(gateway.v6) != nullptr)
      throw invalid(text, "is a second gateway of one family");
    check_gateway(all, gateway);
    all.gateways.push_back(gateway);
  }
  for (const std::string& text : dns)
    all.dns.push_back(checked_ip(text));
  if (all.empty() && !all.dns.empty())
    throw Error("ADDRESS_INVALID", "name servers are given without an address", {}, "give the address too");
  return all;
}

} // namespace kvmport
