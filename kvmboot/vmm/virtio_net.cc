// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/virtio_net.h"

#include "base/hub.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <unistd.h>

namespace kvmport::vmm {
namespace {

constexpr unsigned feature_mac = 5, feature_status = 16;
constexpr std::size_t mac_size = 6, status_at = 6, config_size = 8; // struct virtio_net_config (section 5.1.4)
constexpr std::uint16_t link_up = 1;
constexpr std::size_t header_size = 12, num_buffers_at = 10; // struct virtio_net_hdr (section 5.1.6)

/// Six pairs of hexadecimal digits with ':' between them.
void read_mac(const std::string& text, std::span<std::byte> out) {
  constexpr std::string_view digits = "0123456789abcdef", digits_upper = "0123456789ABCDEF";
  bool good = text.size() == mac_size * 3 - 1;
  for (std::size_t i = 0; good && i < text.size(); i++) {
    const std::size_t value = std::min(digits.find(text[i]), digits_upper.find(text[i]));
    good = i % 3 == 2 ? text[i] == ':' : value < digits.size();
    if (good && i % 3 != 2)
      out[i / 3] = out[i / 3] << 4 | static_cast<std::byte>(value);
  }
  if (!good)
    throw Error("BOOT_UNSUPPORTED", "\"" + text + "\" is no MAC address");
}

} // namespace

VirtioNet::VirtioNet(const std::string& mac, int cable) : cable_(cable), has_mac_(!mac.empty()), config_(config_size) {
  if (has_mac_)
    read_mac(mac, std::span(config_).first(mac_size));
  store_le<std::uint16_t>(config_, status_at, cable_ >= 0 ? link_up : 0);
}

std::uint64_t VirtioNet::features() const {
  return (has_mac_ ? 1U << feature_mac : 0U) | 1U << feature_status;
}

std::uint32_t VirtioNet::handle(std::size_t queue, const Virtqueue::Chain& chain) {
  if (queue == receive_queue)
    return receive(chain);
  transmit(chain);
  return 0;
}

/// The header asks for nothing, as there are no offloads.
void VirtioNet::transmit(const Virtqueue::Chain& chain) const {
  Bytes packet;
  for (const auto& part : chain.readable) {
    if (part.size() > header_size + max_frame - packet.size())
      return;
    packet.insert(packet.end(), part.begin(), part.end());
  }
  if (cable_ >= 0 && packet.size() >= header_size + min_frame)
    (void)!::write(cable_, packet.data() + header_size, packet.size() - header_size);
}

/// A frame that does not fit is lost: without merged buffers the driver must give room for the largest (section
/// 5.1.6.3.1).
std::uint32_t VirtioNet::receive(const Virtqueue::Chain& chain) {
  if (waiting_.empty())
    return 0;
  Bytes packet(header_size);
  store_le<std::uint16_t>(packet, num_buffers_at, 1);
  packet.insert(packet.end(), waiting_.front().begin(), waiting_.front().end());
  waiting_.pop_front();
  std::size_t at = 0;
  for (const auto& part : chain.writable) {
    const std::size_t count = std::min(part.size(), packet.size() - at);
    if (count > 0)
      std::memcpy(part.data(), packet.data() + at, count);
    at += count;
  }
  return at == packet.size() ? static_cast<std::uint32_t>(at) : 0;
}

void VirtioNet::take_frames() {
  std::array<std::byte, max_frame + 1> buffer; // one byte more, so that a longer one shows
  for (std::size_t n = 0; n < most_waiting; n++) {
    const ssize_t size = ::read(cable_, buffer.data(), buffer.size());
    if (size < 0)
      return;
    if (size < static_cast<ssize_t>(min_frame) || size > static_cast<ssize_t>(max_frame))
      continue;
    if (waiting_.size() == most_waiting)
      waiting_.pop_front();
    waiting_.emplace_back(buffer.begin(), buffer.begin() + size);
  }
}

} // namespace kvmport::vmm
