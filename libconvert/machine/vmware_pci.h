// SPDX-License-Identifier: Apache-2.0
// What VMware's pciSlotNumber says about a card, as VMX and OVF give it.
#pragma once

#include "libconvert/machine/machine.h"

namespace kvmport {

/// Fills hotplug_slot and, for the bridges that every VMware machine has, pci_address. The number holds the device in
/// bits 0-4, the bridge in bits 5-9 (0: root bus, n+1: pciBridgeN) and the bridge's function from bit 10 on;
/// pciBridge0 is bus 02, pciBridge4..7 are eight buses each from 03 on. (33 → 0000:02:01.0, 192 → 0000:0b:00.0.)
void set_vmware_slot(MachineNic& nic, std::uint64_t slot_number);

} // namespace kvmport
