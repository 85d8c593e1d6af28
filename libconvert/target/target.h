// SPDX-License-Identifier: Apache-2.0
// What the destination wants: the libvirt domain and the QEMU command of a converted machine. Text in, text out; files
// are written by the pipeline.
#pragma once

#include "libconvert/machine/machine.h"

#include <string>
#include <vector>

namespace kvmport {

/// Memory of a machine whose source tells none (bare disk images).
constexpr std::uint64_t fallback_memory = std::uint64_t{2} << 30;

struct TargetDisk {
  std::string file;   ///< absolute path
  std::string format; ///< "qcow2" or "raw"
  std::uint32_t logical_sector = 512, physical_sector = 512;
  std::string serial;
  std::optional<unsigned> boot_order;
};

/// The machine as it shall run on KVM.
struct TargetMachine {
  Machine source; ///< name, uuid, memory, cpu, nics, rtc, tpm, … are taken from here
  bool uefi = false, secure_boot = false;
  std::vector<TargetDisk> disks;
  bool virtio_disk = true, virtio_net = true; ///< false: SATA / e1000e
  std::string nvram_file;                     ///< absolute path of the variable store to use; may be empty
};

/// The UEFI firmware that the target uses, as Debian's package ovmf installs it.
struct FirmwareFiles {
  std::string code, variables;
};
FirmwareFiles firmware_files(bool secure_boot);

/// How the guest sees a disk: virtio-blk, else SATA, else (4096-byte sectors, which SATA can't show) SCSI on an LSI
/// MegaRAID controller.
enum class TargetBus { virtio, sata, scsi };
TargetBus target_bus(const TargetMachine& machine, const TargetDisk& disk);

/// One entry of the boot order: a disk or a network card of the machine.
struct BootEntry {
  bool nic = false;
  std::size_t index = 0; ///< into disks or source.nics
};
/// The boot order, first entry first: by the orders that the source gives; without any, the first disk.
std::vector<BootEntry> boot_entries(const TargetMachine& machine);

/// A libvirt domain that passes `virt-xml-validate`: q35, UUID, SMBIOS strings, topology, RTC basis, MACs and TPM of
/// the source, every card on the network "default" (the source's network in a comment).
std::string libvirt_xml(const TargetMachine& machine);
/// A POSIX shell script that starts the machine with QEMU; every value quoted, more QEMU options may follow as
/// arguments. It uses KVM when /dev/kvm is usable (environment QEMU_ACCEL=tcg: not). A variable store that is missing
/// is made from the firmware's template; a TPM needs swtpm and keeps its state beside the script.
std::string qemu_script(const TargetMachine& machine);
/// `name` made safe for a file name and a libvirt name: letters, digits, ".", "_", "-"; never empty, never starting
/// with "." or "-".
std::string safe_name(const std::string& name);

} // namespace kvmport
