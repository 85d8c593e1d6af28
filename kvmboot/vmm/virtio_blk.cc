// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/virtio_blk.h"

#include "base/error.h"

#include <algorithm>

namespace kvmport::vmm {
namespace {

constexpr std::uint64_t sector_size = 512;
constexpr std::size_t max_request = 32U << 20;
constexpr std::uint32_t max_zeroed = 1U << 22; // sectors

} // namespace

VirtioBlk::VirtioBlk(Overlay& overlay, std::uint32_t logical_sector, std::string serial, Observer observer)
    : overlay_(overlay), serial_(std::move(serial)), observer_(std::move(observer)) {
  config_.capacity = overlay.size() / sector_size;
  config_.seg_max = Virtqueue::max_size - 2U;
  config_.blk_size = logical_sector;
  config_.max_discard_sectors = config_.max_write_zeroes_sectors = max_zeroed;
  config_.max_discard_seg = config_.max_write_zeroes_seg = 1;
  config_.discard_sector_alignment = std::max<std::uint32_t>(logical_sector, Overlay::granule) / sector_size;
  config_.write_zeroes_may_unmap = 1;
}

std::uint64_t VirtioBlk::features() const {
  return 1U << VIRTIO_BLK_F_SEG_MAX | 1U << VIRTIO_BLK_F_BLK_SIZE | 1U << VIRTIO_BLK_F_FLUSH |
         1U << VIRTIO_BLK_F_DISCARD | 1U << VIRTIO_BLK_F_WRITE_ZEROES;
}

std::uint32_t VirtioBlk::handle(std::size_t, const Virtqueue::Chain& chain) {
  const std::size_t room = total(chain.writable), given = total(chain.readable);
  if (room == 0)
    return 0; // no place for the status
  std::uint8_t status = VIRTIO_BLK_S_IOERR;
  Bytes out(std::min(room - 1, max_request));
  if (given >= sizeof(virtio_blk_outhdr) && given <= sizeof(virtio_blk_outhdr) + max_request &&
      room - 1 <= max_request) {
    const Bytes in = gather(chain.readable);
    try {
      status = serve(load_le<std::uint32_t>(in, offsetof(virtio_blk_outhdr, type)),
                     load_le<std::uint64_t>(in, offsetof(virtio_blk_outhdr, sector)),
                     ByteSpan(in).subspan(sizeof(virtio_blk_outhdr)), out);
    } catch (const Error& error) {
      if (failure_.empty())
        failure_ = error.summary();
    }
  }
  const std::size_t filled = scatter(out, chain.writable) + 1;
  const auto last =
      std::find_if(chain.writable.rbegin(), chain.writable.rend(), [](const auto& part) { return !part.empty(); });
  last->back() = std::byte{status};
  return static_cast<std::uint32_t>(std::min<std::size_t>(filled, UINT32_MAX));
}

std::uint8_t VirtioBlk::serve(std::uint32_t type, std::uint64_t sector, ByteSpan in, std::span<std::byte> out) {
  const std::uint64_t sectors = overlay_.size() / sector_size;
  const auto inside = [&](std::uint64_t first, std::uint64_t bytes) {
    return bytes % sector_size == 0 && first <= sectors && bytes / sector_size <= sectors - first;
  };
  switch (type) {
  case VIRTIO_BLK_T_IN:
    if (!inside(sector, out.size()))
      return VIRTIO_BLK_S_IOERR;
    overlay_.read(sector * sector_size, out);
    observer_({sector * sector_size, out.size()}, false);
    return VIRTIO_BLK_S_OK;
  case VIRTIO_BLK_T_OUT:
    if (!inside(sector, in.size()))
      return VIRTIO_BLK_S_IOERR;
    overlay_.write(sector * sector_size, in);
    observer_({sector * sector_size, in.size()}, true);
    return VIRTIO_BLK_S_OK;
  case VIRTIO_BLK_T_FLUSH: // the overlay is thrown away
    return VIRTIO_BLK_S_OK;
  case VIRTIO_BLK_T_GET_ID:
    std::ranges::copy(as_bytes(serial_).first(std::min({serial_.size(), out.size(), std::size_t{VIRTIO_BLK_ID_BYTES}})),
                      out.begin());
    return VIRTIO_BLK_S_OK;
  case VIRTIO_BLK_T_DISCARD:
  case VIRTIO_BLK_T_WRITE_ZEROES: {
    if (in.size() != sizeof(virtio_blk_discard_write_zeroes))
      return VIRTIO_BLK_S_UNSUPP;
    const auto first = load_le<std::uint64_t>(in, 0);
    const auto bytes = std::uint64_t{load_le<std::uint32_t>(in, 8)} * sector_size;
    if (!inside(first, bytes) || bytes / sector_size > max_zeroed)
      return VIRTIO_BLK_S_IOERR;
    overlay_.zero({first * sector_size, bytes});
    observer_({first * sector_size, bytes}, true);
    return VIRTIO_BLK_S_OK;
  }
  default:
    return VIRTIO_BLK_S_UNSUPP;
  }
}

} // namespace kvmport::vmm
