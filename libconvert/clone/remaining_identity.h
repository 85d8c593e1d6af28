// SPDX-License-Identifier: Apache-2.0
// What identity is in a guest's disks, of any clone or image that is to become one.
#pragma once

#include "libconvert/clone/clone.h"

namespace kvmport {

/// Opens options.sources (or the domain) and looks into the guest; changes nothing. Errors: as clone_guest().
std::vector<IdentityFinding> remaining_identity(const CloneOptions& options, EventSink& sink, const StopToken& stop);

} // namespace kvmport
