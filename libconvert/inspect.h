// SPDX-License-Identifier: Apache-2.0
// Looks into a machine's disks and says what is there; nothing is written.
#pragma once

#include "base/events.h"
#include "libconvert/guest/access.h"
#include "libconvert/source/source.h"

#include <filesystem>
#include <vector>

namespace kvmport {

struct InspectOptions {
  std::vector<std::filesystem::path> sources;
  SourceOptions source;
  ApplianceOptions guest;
  AccessWish access = AccessWish::automatic;
};

struct Inspection {
  GuestInfo guest;
  std::string access; ///< "userspace" or "appliance"
};

/// Milliseconds in user space, seconds with the appliance. Errors: those of opening the source and of open_guest().
Inspection inspect_machine(const InspectOptions& options, EventSink& sink, const StopToken& stop);

} // namespace kvmport
