// SPDX-License-Identifier: Apache-2.0
// The part of VirtualBox's machine settings that stands both in .vbox files and, as vbox:Machine, in the OVF that
// VirtualBox exports.
#pragma once

#include "libconvert/machine/machine.h"
#include "libconvert/machine/xml_util.h"

namespace kvmport {

/// Firmware, secure boot, TPM, RTC basis, UUID and graphics, from <Machine> and its <Hardware>.
void read_vbox_platform(const XmlElement& machine_element, Machine& machine);
/// The enabled network adapters, in slot order.
std::vector<MachineNic> read_vbox_adapters(const XmlElement* hardware);

} // namespace kvmport
