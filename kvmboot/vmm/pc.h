// SPDX-License-Identifier: Apache-2.0
// A PC put together: memory, firmware (SeaBIOS or UEFI) or a kernel, board, serial port, text card, virtio disks and
// network cards on a Vm.
#pragma once

#include "kvmboot/engine.h"
#include "kvmboot/vmm/flash.h"
#include "kvmboot/vmm/fw_cfg.h"
#include "kvmboot/vmm/legacy.h"
#include "kvmboot/vmm/linux_boot.h"
#include "kvmboot/vmm/pci.h"
#include "kvmboot/vmm/uart16550.h"
#include "kvmboot/vmm/virtio_blk.h"
#include "kvmboot/vmm/virtio_net.h"
#include "kvmboot/vmm/vm.h"

#include <condition_variable>
#include <deque>
#include <memory>
#include <poll.h>

namespace kvmport::vmm {

/// What the machine starts from, read.
struct FirmwareImages {
  Bytes bios;                       ///< SeaBIOS: 128 or 256 KiB
  Bytes vga;                        ///< option ROM of an ISA VGA card
  Bytes code, variables;            ///< UEFI: the two parts of its flash
  std::optional<LinuxImages> linux; ///< a kernel instead of firmware
};
/// Errors: FIRMWARE_MISSING, NVRAM_UNSUPPORTED, those of read_linux_images().
FirmwareImages read_firmware_images(const BootSpec& spec);

/// What a machine needs besides its BootSpec, opened before the process is locked down. Borrowed.
struct Supplies {
  const FirmwareImages& images;
  int kvm = -1;
  int video = -1;          ///< see VideoMemory
  std::vector<int> cables; ///< one for each network card, see VirtioNet
  /// Told of each access of the guest to its disks, from its processors' threads.
  std::function<void(std::size_t disk, Range range, bool write)> disk_used;
};

/// One life of a machine, from power-on or reset to its end. The threads of its processors live in run().
class Pc {
 public:
  enum class End { stopped, reset, power_off, failed };
  /// What happened since the last look.
  struct News {
    std::string serial, firmware;
    std::vector<std::string> drivers; ///< a kernel's driver took over a device: which
    std::string disk_failure;
  };

  /// Why this machine can't be made; empty: it can. Virtio devices only, and no secure boot.
  static std::string unsupported(const BootSpec& spec);
  /// Errors: BOOT_UNSUPPORTED, those of load_linux(). Of more memory than 3 GiB, 3 GiB are given.
  Pc(const BootSpec& spec, const Supplies& supplies);
  ~Pc();

  void start();
  /// Waits for an end at most this long; nothing when the machine still runs.
  std::optional<End> wait(std::chrono::milliseconds time);
  News take_news();
  /// Where in the text window the visible screen begins, in characters.
  unsigned screen_start() const;
  void type(std::string_view text);
  const std::string& failure() const { return failure_; }

 private:
  struct Disk;
  struct Nic;
  void add_boards();
  void add_firmware(const FirmwareImages& images);
  void add_configuration(const BootSpec& spec, const FirmwareImages& images);
  void add_disks(const BootSpec& spec, const Supplies& supplies);
  void add_nics(const BootSpec& spec, const std::vector<int>& cables);
  /// Puts a device into the next slot.
  VirtioPci& add_card(VirtioDevice& device);
  void start_kernel(const LinuxImages& images);
  void listen(std::vector<pollfd> cables);
  void stop(End end);
  /// Raises or lowers the interrupt of a slot, which several slots may share.
  void share_irq(unsigned slot, bool level);

  GuestMemory memory_;
  GuestMemory rom_; ///< what ends at 4 GiB: the BIOS, or UEFI's variables and code
  Vm vm_;
  Bus ports_, mmio_;
  mutable std::mutex devices_; ///< held while a device is used
  FwCfg fw_cfg_;
  Cmos cmos_;
  I8042 i8042_;
  DebugPort debug_;
  FastResetPort fast_reset_;
  VgaRegisters vga_;
  Uart16550 uart_;
  PciHost pci_;
  PowerManagement power_;
  std::optional<Flash> flash_;
  std::deque<Disk> disks_; ///< these stay where they are
  std::deque<Nic> nics_;
  unsigned cards_ = 0;
  std::array<unsigned, 32> raises_{}; ///< the interrupt that each slot raises now; 0: none
  std::array<unsigned, 16> raised_{}; ///< how many slots raise each interrupt
  std::vector<std::string> drivers_;

  std::mutex ends_;
  std::condition_variable ended_;
  std::optional<End> end_;
  std::string failure_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
  std::vector<std::thread> threads_;
};

} // namespace kvmport::vmm
