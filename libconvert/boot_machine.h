// SPDX-License-Identifier: Apache-2.0
// A machine as the boot proof runs it: what `kvm-boot` and the proofs of clones start from.
#pragma once

#include "kvmboot/engine.h"
#include "libconvert/machine/machine.h"

#include <string>
#include <vector>

namespace kvmport {

/// Most bytes that the guest may write in one disk.
inline constexpr std::uint64_t proof_overlay_cap = 16ULL << 30;

/// The hardware of `machine`, its disks in boot order, its cards without a cable. `disks`: one overlay per
/// machine.disks, at least one unless the firmware is known. What the machine does not tell: 1 GiB of memory, the
/// firmware that the first disk was made for.
BootSpec boot_spec_of(const Machine& machine, const std::vector<Overlay*>& disks);

} // namespace kvmport
