// SPDX-License-Identifier: Apache-2.0
// What the destination wants: the libvirt domain and the QEMU command of a converted machine. Text in, text out; files
// are written by the pipeline.
#pragma once

#include "libconvert/machine/machine.h"

#include <string>
#include <vector>

namespace kvmport {

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

/// A libvirt domain that passes `virt-xml-validate`.
std::string libvirt_xml(const TargetMachine& machine);
/// A POSIX shell script that starts the machine with QEMU; every value quoted.
std::string qemu_script(const TargetMachine& machine);
/// `name` made safe for a file name and a libvirt name: letters, digits, ".", "_", "-"; never empty, never starting
/// with "." or "-".
std::string safe_name(const std::string& name);

} // namespace kvmport
