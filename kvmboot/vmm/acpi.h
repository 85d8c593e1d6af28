// SPDX-License-Identifier: Apache-2.0
// What the machine tells its guests about itself: ACPI tables (ACPI 6.4, chapter 5; dsdt.asl), which name the parts of
// pc.cc and pci.cc where those put them. One set of tables for all firmware: they come with the script of QEMU's table
// loader (qemu hw/acpi/bios-linker-loader.c), which SeaBIOS and OVMF run, and place_acpi() for guests without firmware.
#pragma once

#include "kvmboot/vmm/guest_memory.h"

namespace kvmport::vmm {

struct AcpiMachine {
  unsigned cpus = 1;        ///< their APIC ids are 0, 1, …
  std::uint64_t memory = 0; ///< bytes from address 0 on, at most 3 GiB
};

/// The files that the script brings into memory.
inline constexpr const char *acpi_tables_file = "etc/acpi/tables", *acpi_rsdp_file = "etc/acpi/rsdp";

struct AcpiTables {
  Bytes tables; ///< fw_cfg's etc/acpi/tables: FACS, DSDT, FADT, MADT, RSDT, XSDT; pointers are offsets still
  Bytes rsdp;   ///< etc/acpi/rsdp
  Bytes loader; ///< etc/table-loader: the script that sets pointers and checksums
};

/// Error BOOT_UNSUPPORTED for more processors than have an 8-bit APIC id.
AcpiTables make_acpi(const AcpiMachine& machine);

/// Runs the script: lays RSDP and tables down from address `at` on, and gives the RSDP's address. A kernel without
/// firmware looks for it between 0xE0000 and 0xFFFFF (ACPI 6.4, section 5.2.5.1); a few KiB are written.
std::uint64_t place_acpi(const AcpiTables& acpi, const GuestMemory& memory, std::uint64_t at);

} // namespace kvmport::vmm
