// SPDX-License-Identifier: Apache-2.0
#include "libconvert/machine/vmware_pci.h"

#include <cstdio>

namespace kvmport {

void set_vmware_slot(MachineNic& nic, std::uint64_t slot_number) {
  if (slot_number == 0 || slot_number > 0xFFFF)
    return;
  nic.hotplug_slot = static_cast<unsigned>(slot_number);
  const unsigned device = slot_number & 31, bridge = slot_number >> 5 & 31,
                 function = static_cast<unsigned>(slot_number >> 10);
  unsigned bus = 0;
  if (bridge == 1)
    bus = 2;
  else if (bridge >= 5 && bridge <= 8 && function < 8)
    bus = 3 + (bridge - 5) * 8 + function;
  else if (bridge != 0)
    return;
  char text[16];
  std::snprintf(text, sizeof text, "0000:%02x:%02x.0", bus, device);
  nic.pci_address = text;
}

} // namespace kvmport
