// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/virtio_pci.h"

#include <bit>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <utility>

namespace kvmport::vmm {
namespace {

constexpr std::uint64_t bar_size = 0x8000, isr_at = 0x1000, config_at = 0x2000, notify_at = 0x3000, table_at = 0x4000,
                        pending_at = 0x5000;
constexpr std::uint8_t isr_queue = 1;
constexpr unsigned capabilities = 0x40;

std::uint32_t half_of(std::uint64_t value, unsigned half) {
  return half < 2 ? static_cast<std::uint32_t>(value >> 32 * half) : 0;
}

void set_half(std::uint64_t& value, bool high, std::uint64_t half) {
  half &= 0xffffffff;
  value = high ? (value & 0xffffffff) | half << 32 : (value & ~std::uint64_t{0xffffffff}) | half;
}

} // namespace

VirtioPci::VirtioPci(VirtioDevice& device, const GuestMemory& memory, Bus& mmio, IrqLine irq, MsiLine msi)
    : PciFunction(0x1af4, static_cast<std::uint16_t>(0x1040 + device.id()), device.pci_class() << 8 | 1),
      device_(device), memory_(memory), mmio_(mmio), irq_(std::move(irq)), queues_(device.queues()),
      msix_(static_cast<unsigned>(device.queues() + 1), std::move(msi)) {
  common_.msix_config = VIRTIO_MSI_NO_VECTOR;
  set(PCI_SUBSYSTEM_VENDOR_ID, 4, 0x11001af4);
  set(PCI_INTERRUPT_PIN, 1, 1); // pin A
  make_writable(PCI_BASE_ADDRESS_0, 4, static_cast<std::uint32_t>(~(bar_size - 1)));
  add_capabilities();
}

/// Section 4.1.4: where in the BAR the parts are.
void VirtioPci::add_capabilities() {
  struct Part {
    std::uint8_t type;
    std::uint64_t at, length;
  };
  const Part parts[] = {{VIRTIO_PCI_CAP_COMMON_CFG, 0, sizeof common_},
                        {VIRTIO_PCI_CAP_ISR_CFG, isr_at, 1},
                        {VIRTIO_PCI_CAP_DEVICE_CFG, config_at, device_.config().size()},
                        {VIRTIO_PCI_CAP_NOTIFY_CFG, notify_at, 0x1000}};
  set(PCI_STATUS, 2, PCI_STATUS_CAP_LIST);
  set(PCI_CAPABILITY_LIST, 1, capabilities);
  unsigned at = capabilities;
  for (const Part& part : parts) {
    const bool notify = part.type == VIRTIO_PCI_CAP_NOTIFY_CFG;
    const unsigned length = notify ? sizeof(virtio_pci_notify_cap) : sizeof(virtio_pci_cap);
    set(at, 1, PCI_CAP_ID_VNDR);
    set(at + VIRTIO_PCI_CAP_NEXT, 1, at + length);
    set(at + VIRTIO_PCI_CAP_LEN, 1, length);
    set(at + VIRTIO_PCI_CAP_CFG_TYPE, 1, part.type);
    set(at + VIRTIO_PCI_CAP_OFFSET, 4, static_cast<std::uint32_t>(part.at));
    set(at + VIRTIO_PCI_CAP_LENGTH, 4, static_cast<std::uint32_t>(part.length));
    if (notify)
      set(at + VIRTIO_PCI_NOTIFY_CAP_MULT, 4, 4);
    at += length;
  }
  msix_at_ = at;
  set(at, 1, PCI_CAP_ID_MSIX);
  set(at + PCI_MSIX_FLAGS, 2, msix_.vectors() - 1);
  make_writable(at + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
  set(at + PCI_MSIX_TABLE, 4, static_cast<std::uint32_t>(table_at)); // in BAR 0
  set(at + PCI_MSIX_PBA, 4, static_cast<std::uint32_t>(pending_at));
}

void VirtioPci::map() {
  const std::uint64_t base =
      (get(PCI_COMMAND, 2) & PCI_COMMAND_MEMORY) != 0 ? get(PCI_BASE_ADDRESS_0, 4) & ~(bar_size - 1) : 0;
  if (base == mapped_at_)
    return;
  if (mapped_at_ != 0)
    mmio_.remove(mapped_at_);
  // The guest may place it anywhere: over RAM it is never reached, over another device it is refused.
  mapped_at_ = base != 0 && mmio_.add(base, bar_size, *this) ? base : 0;
}

void VirtioPci::config_write(unsigned offset, unsigned size, std::uint32_t value) {
  PciFunction::config_write(offset, size, value);
  map();
  msix_.set_control(static_cast<std::uint16_t>(get(msix_at_ + PCI_MSIX_FLAGS, 2)));
  interrupt(isr_ != 0);
}

void VirtioPci::interrupt(bool on) {
  irq_(on && !msix_.enabled() && (get(PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE) == 0);
}

void VirtioPci::reset() {
  for (Virtqueue& queue : queues_)
    queue.reset();
  driver_features_ = 0;
  common_ = {};
  common_.msix_config = VIRTIO_MSI_NO_VECTOR;
  isr_ = 0;
  interrupt(false);
}

void VirtioPci::set_status(std::uint8_t status) {
  const bool ready = (status & ~common_.device_status & VIRTIO_CONFIG_S_DRIVER_OK) != 0;
  if (status == 0)
    reset();
  else
    common_.device_status = status;
  if (ready && driver_ready_)
    driver_ready_(msix_.enabled());
}

std::uint64_t VirtioPci::common_read(std::uint64_t offset, unsigned size) const {
  virtio_pci_common_cfg now = common_;
  now.device_feature = half_of(device_.features() | 1ULL << VIRTIO_F_VERSION_1, now.device_feature_select);
  now.guest_feature = half_of(driver_features_, now.guest_feature_select);
  now.num_queues = static_cast<std::uint16_t>(queues_.size());
  now.queue_notify_off = now.queue_select;
  now.queue_msix_vector = VIRTIO_MSI_NO_VECTOR;
  if (now.queue_select < queues_.size()) {
    const Virtqueue& queue = queues_[now.queue_select];
    now.queue_size = queue.size;
    now.queue_msix_vector = queue.vector;
    now.queue_enable = queue.enabled ? 1 : 0;
    now.queue_desc_lo = half_of(queue.descriptors, 0);
    now.queue_desc_hi = half_of(queue.descriptors, 1);
    now.queue_avail_lo = half_of(queue.available, 0);
    now.queue_avail_hi = half_of(queue.available, 1);
    now.queue_used_lo = half_of(queue.used, 0);
    now.queue_used_hi = half_of(queue.used, 1);
  }
  return little_endian(std::as_bytes(std::span(&now, 1)), offset, size);
}

void VirtioPci::common_write(std::uint64_t offset, unsigned size, std::uint64_t value) {
  // A vector that is not there reads back as none (section 4.1.5.1.2).
  const std::uint16_t vector = value < msix_.vectors() ? static_cast<std::uint16_t>(value) : VIRTIO_MSI_NO_VECTOR;
  switch (offset) {
  case VIRTIO_PCI_COMMON_DFSELECT:
    common_.device_feature_select = static_cast<std::uint32_t>(value);
    return;
  case VIRTIO_PCI_COMMON_GFSELECT:
    common_.guest_feature_select = static_cast<std::uint32_t>(value);
    return;
  case VIRTIO_PCI_COMMON_GF:
    if (common_.guest_feature_select < 2)
      set_half(driver_features_, common_.guest_feature_select == 1, value);
    return;
  case VIRTIO_PCI_COMMON_STATUS:
    set_status(static_cast<std::uint8_t>(value));
    return;
  case VIRTIO_PCI_COMMON_MSIX:
    common_.msix_config = vector;
    return;
  case VIRTIO_PCI_COMMON_Q_SELECT:
    common_.queue_select = static_cast<std::uint16_t>(value);
    return;
  default:
    break;
  }
  if (common_.queue_select >= queues_.size() || queues_[common_.queue_select].enabled)
    return;
  Virtqueue& queue = queues_[common_.queue_select];
  const auto set_ring = [&](std::uint64_t& ring) {
    if (size == 8)
      ring = value;
    else
      set_half(ring, (offset & 4) != 0, value);
  };
  switch (offset) {
  case VIRTIO_PCI_COMMON_Q_MSIX:
    queue.vector = vector;
    break;
  case VIRTIO_PCI_COMMON_Q_SIZE:
    if (value <= Virtqueue::max_size && std::has_single_bit(value))
      queue.size = static_cast<std::uint16_t>(value);
    break;
  case VIRTIO_PCI_COMMON_Q_ENABLE:
    queue.enabled = (value & 1) != 0;
    break;
  case VIRTIO_PCI_COMMON_Q_DESCLO:
  case VIRTIO_PCI_COMMON_Q_DESCHI:
    set_ring(queue.descriptors);
    break;
  case VIRTIO_PCI_COMMON_Q_AVAILLO:
  case VIRTIO_PCI_COMMON_Q_AVAILHI:
    set_ring(queue.available);
    break;
  case VIRTIO_PCI_COMMON_Q_USEDLO:
  case VIRTIO_PCI_COMMON_Q_USEDHI:
    set_ring(queue.used);
    break;
  default:
    break;
  }
}

std::uint64_t VirtioPci::read(std::uint64_t offset, unsigned size) {
  if (offset < isr_at)
    return common_read(offset, size);
  if (offset == isr_at) { // reading it acknowledges
    const std::uint8_t isr = std::exchange(isr_, std::uint8_t{0});
    interrupt(false);
    return isr;
  }
  if (offset >= pending_at)
    return msix_.pending_read(offset - pending_at);
  if (offset >= table_at)
    return msix_.table_read(offset - table_at, size);
  return offset >= config_at ? little_endian(device_.config(), offset - config_at, size) : 0;
}

void VirtioPci::write(std::uint64_t offset, unsigned size, std::uint64_t value) {
  if (offset < isr_at)
    common_write(offset, size, value);
  else if (offset >= table_at && offset < pending_at)
    msix_.table_write(offset - table_at, size, value);
  else if (offset >= notify_at && offset < table_at)
    serve((offset - notify_at) / 4);
}

void VirtioPci::serve(std::size_t number) {
  if (number >= queues_.size() || (common_.device_status & VIRTIO_CONFIG_S_DRIVER_OK) == 0 ||
      (common_.device_status & VIRTIO_CONFIG_S_NEEDS_RESET) != 0)
    return;
  Virtqueue& queue = queues_[number];
  bool used = false;
  // Not more than the queue holds: what another processor adds meanwhile has a doorbell of its own.
  for (unsigned count = 0; count < queue.size && device_.ready(number); count++) {
    const auto chain = queue.pop(memory_);
    if (!chain)
      break;
    queue.push(memory_, chain->head, device_.handle(number, *chain));
    used = true;
  }
  if (queue.broken()) {
    common_.device_status |= VIRTIO_CONFIG_S_NEEDS_RESET;
  } else if (used && queue.wants_interrupt(memory_)) {
    if (msix_.enabled()) {
      msix_.signal(queue.vector);
    } else {
      isr_ |= isr_queue;
      interrupt(true);
    }
  }
}

} // namespace kvmport::vmm
