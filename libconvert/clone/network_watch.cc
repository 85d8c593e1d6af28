// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/network_watch.h"

#include <algorithm>
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
  constexpr std::size_t head = 14, arp_size = 28, ip6_header = 40, solicitation_size = 24;
  if (frame.size() < head)
    return std::nullopt;
  IpAddress address;
  const auto take = [&](std::size_t at, std::size_t length) {
    for (std::size_t i = 0; i < length; i++)
      address.bytes.at(i) = std::to_integer<std::uint8_t>(frame[at + i]);
  };
  std::string card;
  if (load_be<std::uint16_t>(frame, 12) == 0x0806) {
    // Ethernet and IPv4, then the operation, the sender's card and address, the target's.
    if (frame.size() < head + arp_size || load_be<std::uint32_t>(frame, head) != 0x00010800 ||
        load_be<std::uint16_t>(frame, head + 4) != 0x0604)
      return std::nullopt;
    card = hex(frame.subspan(head + 8, 6), ":");
    take(head + 14, 4);
  } else if (load_be<std::uint16_t>(frame, 12) == 0x86dd) {
    // ICMPv6 (58), neighbour solicitation (135) of the unspecified address.
    const std::size_t icmp = head + ip6_header;
    if (frame.size() < icmp + solicitation_size || std::to_integer<unsigned>(frame[head + 6]) != 58 ||
        !is_zero(frame.subspan(head + 8, 16)) || std::to_integer<unsigned>(frame[icmp]) != 135)
      return std::nullopt;
    card = hex(frame.subspan(6, 6), ":");
    address.v6 = true;
    take(icmp + 8, 16);
  } else {
    return std::nullopt;
  }
  if (address.bytes == IpAddress{}.bytes || address.is_local())
    return std::nullopt;
  return std::pair(card, address);
}

Bytes arp_probe(const IpAddress& address) {
  Bytes frame(60); // Ethernet's shortest
  std::fill_n(frame.begin(), 6, std::byte{0xff});
  const auto us = frame.begin() + 6;
  *us = std::byte{0x02}; // administered locally
  store_be<std::uint16_t>(frame, 12, 0x0806);
  store_be<std::uint32_t>(frame, 14, 0x00010800);
  store_be<std::uint32_t>(frame, 18, 0x06040001);
  std::copy_n(us, 6, frame.begin() + 22);
  for (std::size_t i = 0; i < 4; i++)
    frame[38 + i] = std::byte{address.bytes.at(i)};
  return frame;
}

NetworkWatch::NetworkWatch(const std::filesystem::path& hub, std::vector<IpAddress> ask)
    : port_(hub), ask_(std::move(ask)), thread_([this](const std::stop_token& stop) { listen(stop); }) {}

NetworkWatch::~NetworkWatch() = default;

void NetworkWatch::listen(const std::stop_token& stop) {
  constexpr std::chrono::seconds ask_interval{1};
  auto next = std::chrono::steady_clock::now();
  while (!stop.stop_requested()) {
    if (std::chrono::steady_clock::now() >= next) {
      next += ask_interval;
      for (const IpAddress& address : ask_)
        port_.send(arp_probe(address));
    }
    pollfd ready{port_.fd(), POLLIN, 0};
    if (::poll(&ready, 1, 200) <= 0)
      continue;
    while (const auto frame = port_.receive()) {
      const auto client = dhcp_client(*frame);
      const auto holder = address_holder(*frame);
      const std::lock_guard lock(mutex_);
      if (client)
        clients_[client->first] = client->second;
      if (holder)
        addresses_[holder->first].insert(holder->second);
    }
  }
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
