// SPDX-License-Identifier: Apache-2.0
// The machine of a BootSpec as QEMU's argument vector. It is the machine that the libvirt description gives the guest
// (q35, modern virtio), but with a text screen that can be read, and without any way out: no network but a private
// hub's, no host device, no configuration file of the user.
#pragma once

#include "kvmboot/engine.h"

#include <optional>

namespace kvmport {

/// What the engine has prepared for QEMU.
struct QemuSetup {
  bool kvm = false;
  std::vector<std::filesystem::path> nbd_sockets; ///< one for each disk
  std::filesystem::path uefi_code, uefi_vars;     ///< vars: QEMU's own copy
  int qmp_fd = 3, serial_fd = 4, debug_fd = 5;    ///< connected sockets, as numbers in the child
  int first_nic_fd = 6;                           ///< card n with a hub has the port's descriptor first_nic_fd + n
};

/// Errors: BOOT_UNSUPPORTED for a machine that QEMU can't be given (too many disks on a bus, unknown network card).
std::vector<std::string> qemu_command(const BootSpec& spec, const QemuSetup& setup);

} // namespace kvmport
