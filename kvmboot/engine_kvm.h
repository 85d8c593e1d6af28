// SPDX-License-Identifier: Apache-2.0
// The built-in engine: our own machine (vmm/) straight on /dev/kvm. BIOS machines with virtio disks; no network. Use
// make_engine (probe.h) to have the right one chosen.
#pragma once

#include "kvmboot/engine.h"

namespace kvmport {

/// Time-outs are multiplied by `time_scale`. run() throws what vmm/pc.h names; a KVM that can't run the guest's code is
/// EngineOutcome::End::engine_failed.
std::unique_ptr<Engine> make_kvm_engine(double time_scale, std::string reason);

} // namespace kvmport
