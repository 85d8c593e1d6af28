// SPDX-License-Identifier: Apache-2.0
// The parts of read_inventory(), one file each. Each reads what it needs below the tree's root and fills its part of
// the inventory; notes are added for what stays behind or could not be read.
#pragma once

#include "libconvert/p2v/inventory.h"
#include "libconvert/p2v/sys_tree.h"

namespace kvmport::inventory_parts {

void read_firmware(const SysTree& tree, Inventory& inventory);
void read_smbios(const SysTree& tree, Inventory& inventory); ///< memory too
void read_cpu(const SysTree& tree, Inventory& inventory);
void read_disks(const SysTree& tree, Inventory& inventory);
void read_groups(const SysTree& tree, Inventory& inventory);   ///< after the disks
void read_metadata(const SysTree& tree, Inventory& inventory); ///< after the groups; only where the root is "/"
void read_network(const SysTree& tree, Inventory& inventory);
void read_clock(const SysTree& tree, Inventory& inventory);
void read_devices(const SysTree& tree, Inventory& inventory); ///< TPM, PCI, USB

} // namespace kvmport::inventory_parts
