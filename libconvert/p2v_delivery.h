// SPDX-License-Identifier: Apache-2.0
// What a receiver makes of a captured machine: converts it as kvm-v2v converts a guest, or keeps its disks as they are
// with a description.
#pragma once

#include "libconvert/p2v/receive.h"
#include "libconvert/pipeline.h"

namespace kvmport {

/// What the server's operator decides; the agent's wishes decide the rest.
struct DeliveryOptions {
  ApplianceOptions guest; ///< keys of encrypted disks; they never come over the wire
  AccessWish access = AccessWish::automatic;
  std::string engine = "auto";
};

/// For ReceiveOptions::deliver. Its result: "name", "converted", "proven", "files" (names in the directory),
/// "diagnosis" (when not proven), "disks" (size, used bytes, notes, unreadable ranges of each).
Deliver make_delivery(const DeliveryOptions& options);

} // namespace kvmport
