// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/inventory.h"

#include "libconvert/p2v/inventory_parts.h"

namespace kvmport {

Inventory read_inventory(const std::filesystem::path& root) {
  const SysTree tree(root);
  if (!tree.exists("/sys") || !tree.exists("/proc"))
    throw Error("NOT_FOUND", "there is no /sys and /proc below " + root.string(), {}, "mount them there");
  Inventory inventory;
  inventory.host_name = tree.word("/proc/sys/kernel/hostname");
  inventory_parts::read_firmware(tree, inventory);
  inventory_parts::read_smbios(tree, inventory);
  inventory_parts::read_cpu(tree, inventory);
  inventory_parts::read_disks(tree, inventory);
  inventory_parts::read_groups(tree, inventory);
  inventory_parts::read_metadata(tree, inventory);
  inventory_parts::read_network(tree, inventory);
  inventory_parts::read_clock(tree, inventory);
  inventory_parts::read_devices(tree, inventory);
  return inventory;
}

} // namespace kvmport
