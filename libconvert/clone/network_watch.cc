// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/network_watch.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <fmt/format.h>
#include <poll.h>

namespace kvmport {
namespace {

std::string hex(ByteSpan bytes, std::string_view between) {
  std::string text;
  for (const std::byte byte : bytes)
    text += fmt::format("{}{:02x}", text.empty() ? "" : between, std::to_integer<unsigned>(byte));
  return text;
}

constexpr std::size_t ethernet = 14, arp_size = 28, arp_sender = ethernet + 8, icmp6 = ethernet + 40;
constexpr std::uint16_t type_arp = 0x0806, type_ip6 = 0x86dd, arp_lengths = 0x0604;
constexpr std::uint32_t arp_ethernet_ip = 0x00010800;
constexpr unsigned char protocol_icmp6 = 58, neighbour_solicitation = 135, neighbour_advertisement = 136;
constexpr std::array<std::uint8_t, 6> everybody{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
/// Administered locally, and its link-local address (RFC 4291, appendix A).
constexpr std::array<std::uint8_t, 6> our_card{0x02, 0, 0, 0, 0, 1};
constexpr std::array<std::uint8_t, 16> our_link_address{0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 1};

/// An IPv4 address of the network that none of `taken` is, from its end on; of a network without any, what is left.
IpAddress free_address(const IpNetwork& network, const std::vector<IpNetwork>& taken) {
  IpAddress address = network.address;
  const auto bytes = std::as_writable_bytes(std::span(address.bytes));
  const std::uint32_t hosts = network.prefix >= 32 ? 0 : ~std::uint32_t{0} >> network.prefix;
  const std::uint32_t net = load_be<std::uint32_t>(bytes, 0) & ~hosts;
  for (std::uint32_t host = hosts; host-- > 1;) {
    store_be<std::uint32_t>(bytes, 0, net | host);
    if (std::none_of(taken.begin(), taken.end(), [&](const IpNetwork& t) { return t.address == address; }))
      break;
  }
  return address;
}

} // namespace

std::optional<std::pair<std::string, std::string>> dhcp_client(ByteSpan frame) {
  // Ethernet II, IPv4 without fragments, UDP to port 67, BOOTREQUEST with the magic cookie of DHCP.
  constexpr std::size_t ip = 14, udp_header = 8, bootp_header = 236, hardware_at = 28, option_client_id = 61;
  if (frame.size() < ip + 20 || load_be<std::uint16_t>(frame, 12) != 0x0800)
    return std::nullopt;
  const std::size_t ip_header = (std::to_integer<std::size_t>(frame[ip]) & 15U) * 4;
  const std::size_t udp = ip + ip_header, bootp = udp + udp_header, options = bootp + bootp_header + 4;
  if (ip_header < 20 || std::to_integer<unsigned>(frame[ip + 9]) != 17 || frame.size() < options ||
      load_be<std::uint16_t>(frame, udp + 2) != 67 || std::to_integer<unsigned>(frame[bootp]) != 1 ||
      load_be<std::uint32_t>(frame, bootp + bootp_header) != 0x63825363)
    return std::nullopt;
  const ByteSpan card = frame.subspan(bootp + hardware_at, 6);
  std::string client = "01:" + hex(card, ":"); // its hardware type and address
  for (std::size_t at = options; at < frame.size() && frame[at] != std::byte{255};) {
    const auto option = std::to_integer<std::size_t>(frame[at]);
    if (option == 0) {
      at++;
      continue;
    }
    if (at + 1 >= frame.size())
      break;
    const auto length = std::to_integer<std::size_t>(frame[at + 1]);
    if (length > frame.size() - at - 2)
      break;
    if (option == option_client_id)
      client = hex(frame.subspan(at + 2, length), ":");
    at += 2 + length;
  }
  return std::pair(hex(card, ":"), client);
}

std::optional<std::pair<std::string, IpAddress>> address_holder(ByteSpan frame) {
  if (frame.size() < ethernet)
    return std::nullopt;
  IpAddress address;
  const auto take = [&](std::size_t at, std::size_t length) {
    for (std::size_t i = 0; i < length; i++)
      address.bytes.at(i) = std::to_integer<std::uint8_t>(frame[at + i]);
  };
  if (load_be<std::uint16_t>(frame, 12) == type_arp) {
    if (frame.size() < ethernet + arp_size || load_be<std::uint32_t>(frame, ethernet) != arp_ethernet_ip ||
        load_be<std::uint16_t>(frame, ethernet + 4) != arp_lengths)
      return std::nullopt;
    take(arp_sender + 6, 4);
  } else if (load_be<std::uint16_t>(frame, 12) == type_ip6) {
    if (frame.size() < icmp6 + 24 || std::to_integer<unsigned>(frame[ethernet + 6]) != protocol_icmp6 ||
        std::to_integer<unsigned>(frame[icmp6]) != neighbour_advertisement)
      return std::nullopt;
    address.v6 = true;
    take(icmp6 + 8, 16);
  }
  if (address.bytes == IpAddress{}.bytes || address.is_local())
    return std::nullopt;
  return std::pair(hex(frame.subspan(6, 6), ":"), address);
}

Bytes address_question(const IpAddress& address, const IpAddress& sender) {
  const auto put = [](Bytes& frame, std::size_t at, std::span<const std::uint8_t> bytes) {
    for (std::size_t i = 0; i < bytes.size(); i++)
      frame[at + i] = std::byte{bytes[i]};
  };
  if (!address.v6) {
    Bytes frame(60); // Ethernet's shortest
    put(frame, 0, everybody);
    put(frame, 6, our_card);
    store_be<std::uint16_t>(frame, 12, type_arp);
    store_be<std::uint32_t>(frame, ethernet, arp_ethernet_ip);
    store_be<std::uint16_t>(frame, ethernet + 4, arp_lengths);
    store_be<std::uint16_t>(frame, ethernet + 6, 1); // a request
    put(frame, arp_sender, our_card);
    put(frame, arp_sender + 6, std::span(sender.bytes).first(4));
    put(frame, arp_sender + 16, std::span(address.bytes).first(4));
    return frame;
  }
  constexpr std::uint16_t size = 32; // with the sender's card as an option
  Bytes frame(icmp6 + size);
  const auto tail = std::span(address.bytes).last(3);
  const std::array<std::uint8_t, 6> group_card{0x33, 0x33, 0xff, tail[0], tail[1], tail[2]};
  const std::array<std::uint8_t, 16> group{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, tail[0], tail[1], tail[2]};
  put(frame, 0, group_card);
  put(frame, 6, our_card);
  store_be<std::uint16_t>(frame, 12, type_ip6);
  frame[ethernet] = std::byte{0x60};
  store_be<std::uint16_t>(frame, ethernet + 4, size);
  frame[ethernet + 6] = std::byte{protocol_icmp6};
  frame[ethernet + 7] = std::byte{255};
  put(frame, ethernet + 8, our_link_address);
  put(frame, ethernet + 24, group);
  frame[icmp6] = std::byte{neighbour_solicitation};
  put(frame, icmp6 + 8, address.bytes);
  store_be<std::uint16_t>(frame, icmp6 + 24, 0x0101); // option: source card, of one unit of 8 bytes
  put(frame, icmp6 + 26, our_card);
  // RFC 4443, section 2.3: over source, target, length and protocol too.
  std::uint32_t sum = size + std::uint32_t{protocol_icmp6};
  for (std::size_t at = ethernet + 8; at < frame.size(); at += 2)
    sum += load_be<std::uint16_t>(frame, at);
  while (sum > 0xffff)
    sum = (sum & 0xffff) + (sum >> 16);
  store_be<std::uint16_t>(frame, icmp6 + 2, static_cast<std::uint16_t>(~sum));
  return frame;
}

NetworkWatch::NetworkWatch(const std::filesystem::path& hub, const std::vector<IpNetwork>& ask) : port_(hub) {
  for (const IpNetwork& network : ask)
    questions_.push_back(address_question(network.address, free_address(network, ask)));
  thread_ = std::jthread([this](const std::stop_token& stop) { listen(stop); });
}

NetworkWatch::~NetworkWatch() = default;

void NetworkWatch::listen(const std::stop_token& stop) {
  constexpr std::chrono::seconds ask_interval{1};
  auto next = std::chrono::steady_clock::now();
  while (!stop.stop_requested()) {
    if (std::chrono::steady_clock::now() >= next) {
      next += ask_interval;
      for (const Bytes& question : questions_)
        port_.send(question);
    }
    pollfd ready{port_.fd(), POLLIN, 0};
    if (::poll(&ready, 1, 200) <= 0)
      continue;
    while (const auto frame = port_.receive())
      note(*frame);
  }
}

/// Guests may say what they like, and as often.
void NetworkWatch::note(ByteSpan frame) {
  constexpr std::size_t most_cards = 1000, most_addresses = 16;
  const auto client = dhcp_client(frame);
  const auto holder = address_holder(frame);
  const std::lock_guard lock(mutex_);
  if (client && (clients_.contains(client->first) || clients_.size() < most_cards))
    clients_[client->first] = client->second;
  if (holder && (addresses_.contains(holder->first) || addresses_.size() < most_cards))
    if (auto& of_card = addresses_[holder->first]; of_card.size() < most_addresses)
      of_card.insert(holder->second);
}

std::map<std::string, std::string> NetworkWatch::clients() const {
  const std::lock_guard lock(mutex_);
  return clients_;
}

std::map<std::string, std::set<IpAddress>> NetworkWatch::addresses() const {
  const std::lock_guard lock(mutex_);
  return addresses_;
}

} // namespace kvmport
