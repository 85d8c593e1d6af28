// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/virtio_pci.h"

#include <bit>
#include <utility>

namespace kvmport::vmm {
namespace {

constexpr std::uint64_t bar_size = 0x8000, isr_at = 0x1000, config_at = 0x2000, notify_at = 0x3000, table_at = 0x4000,
                        pending_at = 0x5000;
constexpr std::uint64_t version_1 = 1ULL << 32;
constexpr std::uint8_t status_driver_ok = 4, status_needs_reset = 64, isr_queue = 1;
constexpr unsigned command = 0x04, bar0 = 0x10, capabilities = 0x40;
constexpr std::uint32_t command_memory = 2, command_no_intx = 0x400;

// struct virtio_pci_common_cfg (section 4.1.4.3)
enum Common : std::uint64_t {
  device_feature_select = 0x00,
  device_feature = 0x04,
  driver_feature_select = 0x08,
  driver_feature = 0x0c,
  config_vector = 0x10,
  num_queues = 0x12,
  device_status = 0x14,
  config_generation = 0x15,
  queue_select = 0x16,
  queue_size = 0x18,
  queue_vector = 0x1a,
  queue_enable = 0x1c,
  queue_notify_off = 0x1e,
  queue_desc = 0x20,
  queue_driver = 0x28,
  queue_device = 0x30,
};

void set_half(std::uint64_t& value, bool high, std::uint64_t half) {
  half &= 0xffffffff;
  value = high ? (value & 0xffffffff) | half << 32 : (value & ~std::uint64_t{0xffffffff}) | half;
}

} // namespace

VirtioPci::VirtioPci(VirtioDevice& device, const GuestMemory& memory, Bus& mmio, IrqLine irq, MsiLine msi)
    : PciFunction(0x1af4, static_cast<std::uint16_t>(0x1040 + device.id()), device.pci_class() << 8 | 1),
      device_(device), memory_(memory), mmio_(mmio), irq_(std::move(irq)), queues_(device.queues()),
      msix_(static_cast<unsigned>(device.queues() + 1), std::move(msi)) {
  set(0x2c, 4, 0x11001af4);
  set(0x3d, 1, 1); // pin A
  make_writable(bar0, 4, static_cast<std::uint32_t>(~(bar_size - 1)));
  add_capabilities();
}

/// Section 4.1.4: where in the BAR the parts are.
void VirtioPci::add_capabilities() {
  struct Part {
    std::uint8_t type;
    std::uint64_t at, length;
  };
  const Part parts[] = {{1, 0, 0x38}, {3, isr_at, 1}, {4, config_at, device_.config().size()}, {2, notify_at, 0x1000}};
  set(0x06, 2, 0x10); // has capabilities
  set(0x34, 1, capabilities);
  unsigned at = capabilities;
  for (const Part& part : parts) {
    const unsigned length = part.type == 2 ? 20 : 16;
    set(at, 1, 0x09);
    set(at + 1, 1, at + length);
    set(at + 2, 1, length);
    set(at + 3, 1, part.type);
    set(at + 8, 4, static_cast<std::uint32_t>(part.at));
    set(at + 12, 4, static_cast<std::uint32_t>(part.length));
    if (part.type == 2)
      set(at + 16, 4, 4); // notify_off_multiplier
    at += length;
  }
  msix_at_ = at;
  set(at, 1, MsiX::capability);
  set(at + 2, 2, msix_.vectors() - 1);
  make_writable(at + 2, 2, 0xc000);
  set(at + 4, 4, static_cast<std::uint32_t>(table_at)); // in BAR 0
  set(at + 8, 4, static_cast<std::uint32_t>(pending_at));
}

void VirtioPci::map() {
  const std::uint64_t base = (get(command, 2) & command_memory) != 0 ? get(bar0, 4) & ~(bar_size - 1) : 0;
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
  msix_.set_control(static_cast<std::uint16_t>(get(msix_at_ + 2, 2)));
  interrupt(isr_ != 0);
}

void VirtioPci::interrupt(bool on) {
  irq_(on && !msix_.enabled() && (get(command, 2) & command_no_intx) == 0);
}

void VirtioPci::reset() {
  for (Virtqueue& queue : queues_)
    queue.reset();
  driver_features_ = 0;
  device_feature_select_ = driver_feature_select_ = 0;
  queue_select_ = 0;
  config_vector_ = MsiX::no_vector;
  status_ = isr_ = 0;
  interrupt(false);
}

void VirtioPci::set_status(std::uint8_t status) {
  const bool ready = (status & ~status_ & status_driver_ok) != 0;
  if (status == 0)
    reset();
  else
    status_ = status;
  if (ready && driver_ready_)
    driver_ready_(msix_.enabled());
}

std::uint64_t VirtioPci::common_read(std::uint64_t offset) const {
  static const Virtqueue none = [] {
    Virtqueue queue;
    queue.size = 0;
    return queue;
  }();
  const Virtqueue& queue = queue_select_ < queues_.size() ? queues_[queue_select_] : none;
  const std::uint64_t offered = device_.features() | version_1;
  switch (offset) {
  case device_feature_select:
    return device_feature_select_;
  case device_feature:
    return device_feature_select_ < 2 ? offered >> 32 * device_feature_select_ & 0xffffffff : 0;
  case driver_feature_select:
    return driver_feature_select_;
  case driver_feature:
    return driver_feature_select_ < 2 ? driver_features_ >> 32 * driver_feature_select_ & 0xffffffff : 0;
  case config_vector:
    return config_vector_;
  case queue_vector:
    return queue.vector;
  case num_queues:
    return queues_.size();
  case device_status:
    return status_;
  case config_generation:
    return 0;
  case queue_select:
    return queue_select_;
  case queue_size:
    return queue.size;
  case queue_enable:
    return queue.enabled ? 1 : 0;
  case queue_notify_off:
    return queue_select_;
  case queue_desc:
    return queue.descriptors;
  case queue_desc + 4:
    return queue.descriptors >> 32;
  case queue_driver:
    return queue.available;
  case queue_driver + 4:
    return queue.available >> 32;
  case queue_device:
    return queue.used;
  case queue_device + 4:
    return queue.used >> 32;
  default:
    return 0;
  }
}

void VirtioPci::common_write(std::uint64_t offset, unsigned size, std::uint64_t value) {
  switch (offset) {
  case device_feature_select:
    device_feature_select_ = static_cast<std::uint32_t>(value);
    return;
  case driver_feature_select:
    driver_feature_select_ = static_cast<std::uint32_t>(value);
    return;
  case driver_feature:
    if (driver_feature_select_ < 2)
      set_half(driver_features_, driver_feature_select_ == 1, value);
    return;
  case device_status:
    set_status(static_cast<std::uint8_t>(value));
    return;
  case config_vector:
    config_vector_ = value < msix_.vectors() ? static_cast<std::uint16_t>(value) : MsiX::no_vector;
    return;
  case queue_select:
    queue_select_ = static_cast<std::uint16_t>(value);
    return;
  default:
    break;
  }
  if (queue_select_ >= queues_.size() || queues_[queue_select_].enabled)
    return;
  Virtqueue& queue = queues_[queue_select_];
  switch (offset) {
  case queue_vector: // one that is not there reads back as none (section 4.1.5.1.2)
    queue.vector = value < msix_.vectors() ? static_cast<std::uint16_t>(value) : MsiX::no_vector;
    break;
  case queue_size:
    if (value > 0 && value <= Virtqueue::max_size && std::has_single_bit(value))
      queue.size = static_cast<std::uint16_t>(value);
    break;
  case queue_enable:
    queue.enabled = (value & 1) != 0;
    break;
  case queue_desc:
  case queue_driver:
  case queue_device:
  case queue_desc + 4:
  case queue_driver + 4:
  case queue_device + 4: {
    std::uint64_t& ring = offset < queue_driver   ? queue.descriptors
                          : offset < queue_device ? queue.available
                                                  : queue.used;
    if (size == 8)
      ring = value;
    else
      set_half(ring, (offset & 4) != 0, value);
    break;
  }
  default:
    break;
  }
}

std::uint64_t VirtioPci::read(std::uint64_t offset, unsigned size) {
  if (offset < isr_at) {
    if (size == 8)
      return common_read(offset) | common_read(offset + 4) << 32;
    return common_read(offset);
  }
  if (offset == isr_at) { // reading it acknowledges
    const std::uint8_t isr = std::exchange(isr_, std::uint8_t{0});
    interrupt(false);
    return isr;
  }
  if (offset >= table_at)
    return offset < pending_at ? msix_.table_read(offset - table_at, size) : msix_.pending_read(offset - pending_at);
  std::uint64_t value = 0;
  const ByteSpan config = device_.config();
  if (offset >= config_at && offset < notify_at)
    for (unsigned i = 0; i < size && offset - config_at + i < config.size(); i++)
      value |= std::to_integer<std::uint64_t>(config[offset - config_at + i]) << 8 * i;
  return value;
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
  if (number >= queues_.size() || (status_ & status_driver_ok) == 0 || (status_ & status_needs_reset) != 0)
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
    status_ |= status_needs_reset;
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
