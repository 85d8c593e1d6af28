// SPDX-License-Identifier: Apache-2.0
// A virtio device on PCI (virtio 1.2, section 4.1), modern only: one memory BAR of 32 KiB with the common
// configuration, the ISR, the device's own configuration, the doorbells and the MSI-X table. Interrupts by INTx until
// the driver enables MSI-X.
#pragma once

#include "kvmboot/vmm/msix.h"
#include "kvmboot/vmm/pci.h"
#include "kvmboot/vmm/virtqueue.h"

#include <linux/virtio_pci.h>

namespace kvmport::vmm {

/// What a kind of device adds to the transport.
class VirtioDevice {
 public:
  virtual ~VirtioDevice() = default;
  virtual std::uint16_t id() const = 0; ///< virtio 1.2, section 5
  virtual std::uint32_t pci_class() const = 0;
  virtual std::uint64_t features() const = 0; ///< without VERSION_1
  virtual ByteSpan config() const = 0;
  virtual std::size_t queues() const = 0;
  /// Whether a request of this queue can be handled now; if not, it waits in the queue for the next serve().
  virtual bool ready(std::size_t /*queue*/) const { return true; }
  /// Handles one request; returns the number of bytes filled.
  virtual std::uint32_t handle(std::size_t queue, const Virtqueue::Chain& chain) = 0;
};

class VirtioPci final : public PciFunction, public Device {
 public:
  VirtioPci(VirtioDevice& device, const GuestMemory& memory, Bus& mmio, IrqLine irq, MsiLine msi);
  /// Called each time a driver declares itself ready: with MSI-X, only a kernel's driver does.
  void on_driver_ready(std::function<void(bool msix)> observer) { driver_ready_ = std::move(observer); }

  void config_write(unsigned offset, unsigned size, std::uint32_t value) override;
  std::uint64_t read(std::uint64_t offset, unsigned size) override;
  void write(std::uint64_t offset, unsigned size, std::uint64_t value) override;
  /// Handles what waits in a queue: when the driver rings its doorbell, or the device has become ready.
  void serve(std::size_t queue);

 private:
  void add_capabilities();
  void map();
  void reset();
  void set_status(std::uint8_t status);
  std::uint64_t common_read(std::uint64_t offset, unsigned size) const;
  void common_write(std::uint64_t offset, unsigned size, std::uint64_t value);
  void interrupt(bool on);

  VirtioDevice& device_;
  const GuestMemory& memory_;
  Bus& mmio_;
  IrqLine irq_;
  std::vector<Virtqueue> queues_;
  std::uint64_t mapped_at_ = 0, driver_features_ = 0;
  virtio_pci_common_cfg common_{}; ///< what is the same for all queues
  MsiX msix_;
  std::function<void(bool)> driver_ready_;
  unsigned msix_at_ = 0; ///< where its capability lies in configuration space
  std::uint8_t isr_ = 0;
};

} // namespace kvmport::vmm
