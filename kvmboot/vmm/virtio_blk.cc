// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/virtio_blk.h"

#include "base/error.h"

#include <algorithm>
#include <cstring>

namespace kvmport::vmm {
namespace {

constexpr std::uint64_t sector_size = 512, seg_max = 2, blk_size = 6, flush = 9, discard = 13, write_zeroes = 14;
constexpr std::uint32_t type_in = 0, type_out = 1, type_flush = 4, type_id = 8, type_discard = 11, type_zeroes = 13;
constexpr std::uint8_t status_ok = 0, status_error = 1, status_unsupported = 2;
constexpr std::size_t header_size = 16, id_size = 20, segment_size = 16, max_request = 32U << 20;
constexpr std::uint32_t max_zeroed = 1U << 22; // sectors

/// The bytes of several buffers as one.
Bytes gather(const std::vector<std::span<std::byte>>& from) {
  Bytes all;
  for (const auto& part : from)
    all.insert(all.end(), part.begin(), part.end());
  return all;
}

std::size_t total(const std::vector<std::span<std::byte>>& parts) {
  std::size_t sum = 0;
  for (const auto& part : parts)
    sum += part.size();
  return sum;
}

} // namespace

VirtioBlk::VirtioBlk(Overlay& overlay, std::uint32_t logical_sector, std::string serial, Observer observer)
    : overlay_(overlay), serial_(std::move(serial)), observer_(std::move(observer)), config_(60) {
  // struct virtio_blk_config (section 5.2.4)
  store_le<std::uint64_t>(config_, 0, overlay.size() / sector_size);
  store_le<std::uint32_t>(config_, 12, Virtqueue::max_size - 2U);
  store_le<std::uint32_t>(config_, 20, logical_sector);
  const std::uint32_t alignment = std::max<std::uint32_t>(logical_sector, Overlay::granule) / sector_size;
  store_le<std::uint32_t>(config_, 36, max_zeroed); // discard: most sectors, most segments, alignment
  store_le<std::uint32_t>(config_, 40, 1);
  store_le<std::uint32_t>(config_, 44, alignment);
  store_le<std::uint32_t>(config_, 48, max_zeroed); // write zeroes: most sectors, most segments, may unmap
  store_le<std::uint32_t>(config_, 52, 1);
  config_[56] = std::byte{1};
}

std::uint64_t VirtioBlk::features() const {
  return 1U << seg_max | 1U << blk_size | 1U << flush | 1U << discard | 1U << write_zeroes;
}

std::uint32_t VirtioBlk::handle(std::size_t, const Virtqueue::Chain& chain) {
  const std::size_t room = total(chain.writable), given = total(chain.readable);
  if (room == 0)
    return 0; // no place for the status
  std::uint8_t status = status_error;
  Bytes out(std::min(room - 1, max_request));
  if (given >= header_size && given <= header_size + max_request && room - 1 <= max_request) {
    const Bytes in = gather(chain.readable);
    try {
      status =
          serve(load_le<std::uint32_t>(in, 0), load_le<std::uint64_t>(in, 8), ByteSpan(in).subspan(header_size), out);
    } catch (const Error& error) {
      if (failure_.empty())
        failure_ = error.summary();
    }
  }
  std::size_t at = 0;
  for (const auto& part : chain.writable) {
    const std::size_t count = std::min(part.size(), out.size() - at);
    if (count > 0)
      std::memcpy(part.data(), out.data() + at, count);
    at += count;
  }
  for (auto part = chain.writable.rbegin(); part != chain.writable.rend(); ++part)
    if (!part->empty()) {
      part->back() = std::byte{status};
      break;
    }
  return static_cast<std::uint32_t>(std::min<std::size_t>(at + 1, UINT32_MAX));
}

std::uint8_t VirtioBlk::serve(std::uint32_t type, std::uint64_t sector, ByteSpan in, std::span<std::byte> out) {
  const std::uint64_t sectors = overlay_.size() / sector_size;
  const auto inside = [&](std::uint64_t first, std::uint64_t bytes) {
    return bytes % sector_size == 0 && first <= sectors && bytes / sector_size <= sectors - first;
  };
  switch (type) {
  case type_in:
    if (!inside(sector, out.size()))
      return status_error;
    overlay_.read(sector * sector_size, out);
    moved_ += out.size();
    observer_({sector * sector_size, out.size()}, false);
    return status_ok;
  case type_out:
    if (!inside(sector, in.size()))
      return status_error;
    overlay_.write(sector * sector_size, in);
    moved_ += in.size();
    observer_({sector * sector_size, in.size()}, true);
    return status_ok;
  case type_flush: // the overlay is thrown away
    return status_ok;
  case type_id:
    std::ranges::copy(as_bytes(serial_).first(std::min({serial_.size(), out.size(), id_size})), out.begin());
    return status_ok;
  case type_discard:
  case type_zeroes: {
    if (in.size() != segment_size)
      return status_unsupported;
    const auto first = load_le<std::uint64_t>(in, 0);
    const auto bytes = std::uint64_t{load_le<std::uint32_t>(in, 8)} * sector_size;
    if (!inside(first, bytes) || bytes / sector_size > max_zeroed)
      return status_error;
    overlay_.zero({first * sector_size, bytes});
    observer_({first * sector_size, bytes}, true);
    return status_ok;
  }
  default:
    return status_unsupported;
  }
}

} // namespace kvmport::vmm
