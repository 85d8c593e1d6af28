// SPDX-License-Identifier: Apache-2.0
// Direct boot: a kernel, its initrd and its command line are put into guest memory in place of firmware and boot
// loader. Kernels are bzImages (Linux Documentation/arch/x86/boot.rst, protocol 2.10 and later), ELF64 files with a PVH
// entry (Xen docs/misc/pvh.pandoc, public/arch-x86/hvm/start_info.h) and other ELF64 vmlinux files. They are hostile.
#pragma once

#include "kvmboot/engine.h"
#include "kvmboot/vmm/vm.h"

#include <asm/bootparam.h>

namespace kvmport::vmm {

/// Kinds of memory in a boot_e820_entry (ACPI 6.4, table 15.3).
inline constexpr std::uint32_t e820_ram = 1, e820_reserved = 2;

/// The files' content.
struct LinuxImages {
  std::string kernel, initrd, command_line;
};
/// Errors: NOT_FOUND, NO_PERMISSION, NOT_A_DISK (no file), FILE_TOO_LARGE.
LinuxImages read_linux_images(const LinuxBoot& boot);

/// Places all of it in `memory`, which is still zero: the kernel where it asks for, the initrd as high as it may be,
/// and below 1 MiB what tells the kernel about them and the tables of its start. `rsdp`: guest address of the ACPI
/// tables' root, 0: there are none. Errors: KERNEL_IMAGE_INVALID, KERNEL_TOO_LARGE, INITRD_TOO_LARGE,
/// COMMAND_LINE_TOO_LONG.
StartState load_linux(const LinuxImages& images, std::uint64_t rsdp, const GuestMemory& memory);

} // namespace kvmport::vmm
