// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/fw_cfg.h"

#include <algorithm>
#include <cstring>
#include <linux/qemu_fw_cfg.h>
#include <utility>

namespace kvmport::vmm {
namespace {

constexpr std::size_t max_files = 0x10;
constexpr std::uint64_t port_data = 1, port_dma_high = 4, port_dma_low = 8;

} // namespace

FwCfg::FwCfg(const GuestMemory& memory) : memory_(memory) {
  const auto text = as_bytes("QEMU");
  add(FW_CFG_SIGNATURE, Bytes(text.begin(), text.end()));
  Bytes id(4);
  store_le<std::uint32_t>(id, 0, FW_CFG_VERSION | FW_CFG_VERSION_DMA);
  add(FW_CFG_ID, std::move(id));
  add(FW_CFG_FILE_DIR, Bytes(4));
}

bool FwCfg::add_file(const std::string& name, Bytes content) {
  if (name.size() >= FW_CFG_MAX_FILE_PATH || files_.size() >= max_files)
    return false;
  const auto key = static_cast<std::uint16_t>(FW_CFG_FILE_FIRST + files_.size());
  files_[name] = key;
  items_[key] = std::move(content);
  Bytes directory(4 + files_.size() * 64);
  store_be<std::uint32_t>(directory, 0, static_cast<std::uint32_t>(files_.size()));
  std::size_t at = 4;
  for (const auto& [file, number] : files_) {
    store_be<std::uint32_t>(directory, at, static_cast<std::uint32_t>(items_[number].size()));
    store_be<std::uint16_t>(directory, at + 4, number);
    std::memcpy(directory.data() + at + 8, file.data(), file.size());
    at += 64;
  }
  items_[FW_CFG_FILE_DIR] = std::move(directory);
  return true;
}

void FwCfg::select(std::uint16_t key) {
  selected_ = key;
  at_ = 0;
}

ByteSpan FwCfg::next(std::size_t most) {
  const auto item = items_.find(selected_);
  if (item == items_.end() || at_ >= item->second.size())
    return {};
  const ByteSpan part = ByteSpan(item->second).subspan(at_).first(std::min(most, item->second.size() - at_));
  at_ += part.size();
  return part;
}

std::uint64_t FwCfg::read(std::uint64_t offset, unsigned size) {
  switch (offset) {
  case port_data:
    return little_endian(next(size), 0, size);
  case port_dma_high: // "QEMU CFG", big-endian: DMA is there
    return 0x554d4551;
  case port_dma_low:
    return 0x47464320;
  default:
    return 0;
  }
}

void FwCfg::write(std::uint64_t offset, unsigned size, std::uint64_t value) {
  if (offset == 0 && size == 2)
    select(static_cast<std::uint16_t>(value));
  else if (offset == port_dma_high && size == 4)
    dma_address_ = std::uint64_t{detail::swap_bytes(static_cast<std::uint32_t>(value))} << 32;
  else if (offset == port_dma_low && size == 4)
    dma(std::exchange(dma_address_, 0) | detail::swap_bytes(static_cast<std::uint32_t>(value)));
}

void FwCfg::dma(std::uint64_t control_address) {
  const auto access = memory_.slice(control_address, 16);
  if (!access)
    return;
  const auto control = load_be<std::uint32_t>(*access, 0), length = load_be<std::uint32_t>(*access, 4);
  const auto address = load_be<std::uint64_t>(*access, 8);
  if ((control & FW_CFG_DMA_CTL_SELECT) != 0)
    select(static_cast<std::uint16_t>(control >> 16));
  std::uint32_t result =
      (control & FW_CFG_DMA_CTL_WRITE) != 0 ? FW_CFG_DMA_CTL_ERROR : 0; // nothing here can be written
  if ((control & FW_CFG_DMA_CTL_READ) != 0) {
    if (const auto to = memory_.slice(address, length)) {
      const ByteSpan part = next(length);
      std::fill(std::ranges::copy(part, to->begin()).out, to->end(), std::byte{0});
    } else {
      result = FW_CFG_DMA_CTL_ERROR;
    }
  } else if ((control & FW_CFG_DMA_CTL_SKIP) != 0) {
    next(length);
  }
  store_be<std::uint32_t>(*access, 0, result);
}

} // namespace kvmport::vmm
