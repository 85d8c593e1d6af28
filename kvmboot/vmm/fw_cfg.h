// SPDX-License-Identifier: Apache-2.0
// How the machine tells its firmware about itself: QEMU's fw_cfg device (qemu docs/specs/fw_cfg.rst). Ports 0x510
// (selector), 0x511 (data) and 0x514 (DMA address).
#pragma once

#include "kvmboot/vmm/bus.h"
#include "kvmboot/vmm/guest_memory.h"

#include <map>
#include <string>

namespace kvmport::vmm {

class FwCfg final : public Device {
 public:
  explicit FwCfg(const GuestMemory& memory);
  /// A numbered item with a fixed meaning.
  void add(std::uint16_t key, Bytes content) { items_[key] = std::move(content); }
  /// A named file; false when the name is longer than 55 bytes or there are too many.
  bool add_file(const std::string& name, Bytes content);

  std::uint64_t read(std::uint64_t offset, unsigned size) override;
  void write(std::uint64_t offset, unsigned size, std::uint64_t value) override;

 private:
  void select(std::uint16_t key);
  /// What comes next of the selected item; less at its end.
  ByteSpan next(std::size_t most);
  void dma(std::uint64_t control_address);

  const GuestMemory& memory_;
  std::map<std::uint16_t, Bytes> items_;
  std::map<std::string, std::uint16_t> files_;
  std::uint16_t selected_ = 0;
  std::size_t at_ = 0;
  std::uint64_t dma_address_ = 0;
};

} // namespace kvmport::vmm
