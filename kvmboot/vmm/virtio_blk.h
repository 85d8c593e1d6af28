// SPDX-License-Identifier: Apache-2.0
// A disk (virtio 1.2, section 5.2) over an overlay: reads, writes, flush, discard, write zeroes, and its serial number.
#pragma once

#include "formats/overlay.h"
#include "kvmboot/vmm/virtio_pci.h"

#include <functional>
#include <linux/virtio_blk.h>
#include <string>

namespace kvmport::vmm {

class VirtioBlk final : public VirtioDevice {
 public:
  /// `overlay` is borrowed. `logical_sector`: 512 or 4096. A disk that can't be read is told to the guest as an I/O
  /// error, and once to failure().
  /// `observer` is told of each access that came to pass, and whether it was a write.
  using Observer = std::function<void(Range, bool write)>;
  VirtioBlk(Overlay& overlay, std::uint32_t logical_sector, std::string serial, Observer observer);

  std::uint16_t id() const override { return VIRTIO_ID_BLOCK; }
  std::uint32_t pci_class() const override { return 0x010000; }
  std::uint64_t features() const override;
  ByteSpan config() const override {
    return std::as_bytes(std::span(&config_, 1)).first(offsetof(virtio_blk_config, unused1) + sizeof config_.unused1);
  }
  std::size_t queues() const override { return 1; }
  std::uint32_t handle(std::size_t queue, const Virtqueue::Chain& chain) override;

  /// Why the first failed access failed; empty: none did.
  const std::string& failure() const noexcept { return failure_; }

 private:
  std::uint8_t serve(std::uint32_t type, std::uint64_t sector, ByteSpan in, std::span<std::byte> out);

  Overlay& overlay_;
  std::string serial_, failure_;
  Observer observer_;
  virtio_blk_config config_{};
};

} // namespace kvmport::vmm
