// SPDX-License-Identifier: Apache-2.0
// The items of an OVF VirtualHardwareSection: CIM resource allocations (DSP1041 and its kin), as Item, StorageItem or
// EthernetPortItem.
#pragma once

#include "libconvert/machine/ovf_envelope.h"

#include <map>

namespace kvmport {

/// CIM_ResourceAllocationSettingData.ResourceType (DSP0004 value map), as far as machines have them.
enum class ResourceType : unsigned {
  processor = 3,
  memory = 4,
  ide = 5,
  scsi = 6,
  ethernet = 10,
  floppy = 14,
  cd = 15,
  dvd = 16,
  disk = 17,
  other_storage = 20,
  usb = 23,
  graphics = 24,
};

struct OvfItem {
  unsigned type = 0;
  std::string instance, parent, subtype, name, address, address_on_parent, host_resource, quantity, units, connection;
  std::string cores_per_socket;
  bool connected = true;
  std::map<std::string, std::string> config; ///< vmw:Config, keys in lower case
};

/// The items that count for `configuration`, in order; min, max and step bounds left out.
std::vector<OvfItem> read_items(const XmlElement& hardware, const std::string& configuration,
                                std::vector<std::string>& notes);
void read_processor_and_memory(const std::vector<OvfItem>& items, const std::string& package, Machine& machine);
void read_network_cards(const std::vector<OvfItem>& items, Machine& machine);
/// Hard disks: Item → DiskSection → References → file.
void read_disks(const std::vector<OvfItem>& items, const XmlElement& envelope, const std::string& package,
                const FindFile& find, Machine& machine);
/// TPM and graphics; notes for what is dropped.
void read_other_items(const std::vector<OvfItem>& items, Machine& machine);

} // namespace kvmport
