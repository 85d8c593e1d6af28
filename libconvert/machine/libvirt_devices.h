// SPDX-License-Identifier: Apache-2.0
// <devices> of a libvirt domain: disks, network cards, TPM, graphics; notes for the rest.
#pragma once

#include "libconvert/machine/machine.h"
#include "libconvert/machine/xml_util.h"

namespace kvmport {

void read_libvirt_devices(const std::filesystem::path& path, const XmlElement& domain, const ReadOptions& options,
                          Machine& machine);

} // namespace kvmport
