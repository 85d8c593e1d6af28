// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/dhcp_watch.h"

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

DhcpWatch::DhcpWatch(const std::filesystem::path& hub)
    : port_(hub), thread_([this](const std::stop_token& stop) {
        while (!stop.stop_requested()) {
          pollfd ready{port_.fd(), POLLIN, 0};
          if (::poll(&ready, 1, 200) <= 0)
            continue;
          while (const auto frame = port_.receive())
            if (const auto client = dhcp_client(*frame)) {
              const std::lock_guard lock(mutex_);
              clients_[client->first] = client->second;
            }
        }
      }) {}

DhcpWatch::~DhcpWatch() = default;

std::map<std::string, std::string> DhcpWatch::clients() const {
  const std::lock_guard lock(mutex_);
  return clients_;
}

} // namespace kvmport
