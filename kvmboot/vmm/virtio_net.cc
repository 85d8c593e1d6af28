// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/virtio_net.h"

#include "base/hub.h"

#include <array>
#include <netinet/ether.h>
#include <unistd.h>

namespace kvmport::vmm {
namespace {

// Not from <linux/virtio_net.h>, which is no C++.
constexpr unsigned feature_mac = 5, feature_status = 16;
constexpr std::size_t status_at = 6, config_size = 8; // struct virtio_net_config (section 5.1.4)
constexpr std::uint16_t link_up = 1;
constexpr std::size_t header_size = 12, num_buffers_at = 10; // struct virtio_net_hdr (section 5.1.6)

} // namespace

VirtioNet::VirtioNet(const std::string& mac, int cable) : cable_(cable), has_mac_(!mac.empty()), config_(config_size) {
  constexpr std::size_t text_size = 3 * ETH_ALEN - 1; // ether_aton takes single digits too
  auto* const address = reinterpret_cast<ether_addr*>(config_.data());
  if (has_mac_ && (mac.size() != text_size || ::ether_aton_r(mac.c_str(), address) == nullptr))
    throw Error("BOOT_UNSUPPORTED", "\"" + mac + "\" is no MAC address");
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
  if (total(chain.readable) > header_size + max_frame)
    return;
  const Bytes packet = gather(chain.readable);
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
  const std::size_t filled = scatter(packet, chain.writable);
  return filled == packet.size() ? static_cast<std::uint32_t>(filled) : 0;
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
