// SPDX-License-Identifier: Apache-2.0
// What the fuzz targets of the VMM's devices share: guest memory between guard pages, and a driver of virtio cards that
// sets them up as a guest does or does whatever the input says.
#pragma once

#include "kvmboot/vmm/virtio_pci.h"
#include "tests/fuzz/input.h"

#include <array>
#include <linux/pci_regs.h>
#include <list>
#include <sys/mman.h>

namespace kvmport::fuzz {

constexpr std::size_t guard_size = 4096;

/// A page that nobody may touch, just there; false when something else is.
inline bool guard(std::byte* at) {
  return ::mmap(at, guard_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == at;
}

/// Zero-filled memory that lives as long as the process; what a device reads or writes outside of it crashes.
inline vmm::GuestMemory& guarded_memory(std::size_t size) {
  static std::list<vmm::GuestMemory> tried;
  static vmm::GuestMemory* const memory = [&] {
    for (unsigned i = 0; i < 100; i++) { // mappings grow downwards: the next may come to lie below this one's guard
      static const std::byte* last_guard = nullptr;
      std::byte* const begin = tried.emplace_back(size).slice(0, size)->data();
      const bool below = guard(begin - guard_size), above = begin + size == last_guard || guard(begin + size);
      if (below && above)
        return &tried.back();
      if (below)
        last_guard = begin - guard_size;
    }
    std::abort();
  }();
  std::memset(memory->slice(0, 0)->data(), 0, memory->size());
  return *memory;
}

inline unsigned access_size(Input& in, unsigned kinds = 4) {
  return 1U << in.number(1) % kinds;
}

/// A driver of the virtio card that shows its registers at an address. Rings of queue q lie at q * 0x2000; requests
/// begin with a header at 0x6000.
class Driver {
 public:
  static constexpr std::size_t memory_size = 0x8000;
  Driver(const vmm::GuestMemory& memory, vmm::Bus& mmio, std::size_t queues)
      : memory_(memory), mmio_(mmio), made_available_(queues) {}

  /// What section 3.1.1 of virtio 1.2 has a driver do, then MSI-X messages for all queues.
  void bring_up(std::uint64_t bar, std::uint64_t log2_size) {
    write(bar + 0x14, 1, 0);
    write(bar + 0x14, 1, 0x0b);
    size_ = static_cast<std::uint16_t>(1U << log2_size % 8);
    for (std::size_t queue = 0; queue < made_available_.size(); queue++) {
      made_available_[queue] = 0;
      const std::uint64_t rings = queue * ring_space;
      std::memset(memory_.slice(rings, ring_space)->data(), 0, ring_space);
      write(bar + 0x16, 2, queue);
      write(bar + 0x18, 2, size_);
      write(bar + 0x1a, 2, queue + 1);
      write(bar + 0x20, 8, rings);
      write(bar + 0x28, 8, rings + available_at);
      write(bar + 0x30, 8, rings + used_at);
      write(bar + 0x1c, 2, 1);
      write(bar + 0x4000 + (queue + 1) * 16, 8, 0xfee00000);
      write(bar + 0x4000 + (queue + 1) * 16 + 8, 8, queue);
    }
    write(bar + 0x14, 1, 0x0f);
  }

  /// A well-formed request: a header of 16 bytes, buffers to read, buffers to fill and a last byte to fill.
  void request(Input& in, std::uint64_t bar) {
    const std::size_t queue = in.number(1) % made_available_.size();
    const std::uint64_t shape = in.number(1), rings = queue * ring_space;
    memory_.store(header_at, static_cast<std::uint32_t>(in.number(1)));
    memory_.store(header_at + 8, in.number(2));
    std::uint16_t index = 0;
    const auto add = [&](std::uint64_t address, std::uint64_t length, bool fill, bool more) {
      const std::uint64_t at = rings + std::uint64_t{index} * 16;
      memory_.store(at, address);
      memory_.store(at + 8, static_cast<std::uint32_t>(length));
      memory_.store(at + 12, static_cast<std::uint16_t>((fill ? 2 : 0) | (more ? 1 : 0)));
      memory_.store(at + 14, ++index);
    };
    add(header_at, 16, false, true);
    const unsigned read = shape & 3, filled = shape >> 2 & 3;
    for (unsigned i = 0; i < read + filled; i++) {
      const std::uint64_t address = in.number(2);
      add(address, in.number(2), i >= read, true);
    }
    add(header_at + 16, 1, true, false);
    std::uint16_t& count = made_available_[queue];
    memory_.store<std::uint16_t>(rings + available_at + 4 + std::uint64_t{count} % size_ * 2, 0);
    memory_.store(rings + available_at + 2, ++count);
    write(bar + 0x3000 + queue * 4, 2, queue);
  }

  void write(std::uint64_t address, unsigned size, std::uint64_t value) { mmio_.write(address, size, value); }
  void read(std::uint64_t address, unsigned size) { (void)mmio_.read(address, size); }

  /// One of: bring up, a request, any bytes into memory, any access to the card's registers.
  void step(Input& in, std::uint64_t bar) {
    switch (in.number(1) % 6) {
    case 0:
      return bring_up(bar, in.number(1));
    case 1:
      return request(in, bar);
    case 2: {
      const std::uint64_t address = in.number(2) % memory_size;
      const ByteSpan bytes = in.take(in.number(1));
      std::copy_n(bytes.begin(), std::min(bytes.size(), memory_size - address), memory_.slice(address, 0)->data());
      return;
    }
    case 3: {
      const std::uint64_t address = bar + in.number(2);
      const unsigned size = access_size(in);
      return write(address, size, in.number(size));
    }
    case 4: {
      const std::uint64_t address = bar + in.number(2);
      return read(address, access_size(in));
    }
    default:
      return write(bar + 0x3000 + in.number(1) % 4 * 4, 2, 0);
    }
  }

 private:
  static constexpr std::uint64_t ring_space = 0x2000, available_at = 0x800, used_at = 0x1000, header_at = 0x6000;
  const vmm::GuestMemory& memory_;
  vmm::Bus& mmio_;
  std::uint16_t size_ = 1;
  std::vector<std::uint16_t> made_available_;
};

/// A card with its driver and the lines of its interrupts, which are watched: INTx never stands while it is disabled or
/// MSI-X is enabled, messages only come while they are.
class Card {
 public:
  static constexpr unsigned command = 0x04, bar0 = 0x10, no_intx = 0x400, msix_enable = 0x8000, msix_masked = 0x4000;
  Card(vmm::VirtioDevice& device, const vmm::GuestMemory& memory, vmm::Bus& mmio)
      : driver_(memory, mmio, device.queues()),
        function_(std::make_unique<vmm::VirtioPci>(
            device, memory, mmio, [this](bool level) { line_ = level; },
            [this](std::uint64_t, std::uint32_t) {
              must((msix_control() & (msix_enable | msix_masked)) == msix_enable);
            })),
        pci_(function_.get()) {
    for (msix_at_ = pci_->get(0x34, 1); pci_->get(msix_at_, 1) != PCI_CAP_ID_MSIX;)
      msix_at_ = pci_->get(msix_at_ + 1, 1);
  }
  Card(const Card&) = delete;
  Card& operator=(const Card&) = delete;

  Driver& driver() { return driver_; }
  vmm::VirtioPci& pci() { return *pci_; }
  /// Once, for a bus to own.
  std::unique_ptr<vmm::VirtioPci> function() { return std::move(function_); }
  std::uint64_t bar() const { return pci_->get(bar0, 4) & ~std::uint64_t{0x7fff}; }
  unsigned msix_control() const { return pci_->get(msix_at_ + 2, 2); }
  void check() const {
    must(!line_ || ((pci_->get(command, 2) & no_intx) == 0 && (msix_control() & msix_enable) == 0));
  }

 private:
  Driver driver_;
  std::unique_ptr<vmm::VirtioPci> function_;
  vmm::VirtioPci* pci_;
  unsigned msix_at_ = 0;
  bool line_ = false;
};

} // namespace kvmport::fuzz
