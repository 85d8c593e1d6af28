// SPDX-License-Identifier: Apache-2.0
// A network card (virtio 1.2, section 5.1) without offloads or a control queue. Its cable is a datagram socket on which
// one message is one frame, as HubPort has it. Frames wait in a bounded queue for the driver's buffers.
#pragma once

#include "kvmboot/vmm/virtio_pci.h"

#include <deque>
#include <string>

namespace kvmport::vmm {

class VirtioNet final : public VirtioDevice {
 public:
  static constexpr std::size_t receive_queue = 0, transmit_queue = 1, most_waiting = 256;

  /// `mac`: "52:54:00:…"; empty: the driver chooses one. `cable`: non-blocking, borrowed; -1: none is plugged in, and
  /// the link is down. Error BOOT_UNSUPPORTED when `mac` is no MAC address.
  VirtioNet(const std::string& mac, int cable);

  std::uint16_t id() const override { return 1; }
  std::uint32_t pci_class() const override { return 0x020000; }
  std::uint64_t features() const override;
  ByteSpan config() const override { return config_; }
  std::size_t queues() const override { return 2; }
  bool ready(std::size_t queue) const override { return queue != receive_queue || !waiting_.empty(); }
  std::uint32_t handle(std::size_t queue, const Virtqueue::Chain& chain) override;

  /// Takes frames from the cable; VirtioPci::serve(receive_queue) then hands them to the driver. Never blocks. Of more
  /// than most_waiting the oldest are lost.
  void take_frames();

 private:
  void transmit(const Virtqueue::Chain& chain) const;
  std::uint32_t receive(const Virtqueue::Chain& chain);

  int cable_;
  bool has_mac_;
  Bytes config_;
  std::deque<Bytes> waiting_;
};

} // namespace kvmport::vmm
