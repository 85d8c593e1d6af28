// SPDX-License-Identifier: Apache-2.0
// The built-in engine: our own machine (vmm/) straight on /dev/kvm, each boot in a locked-down process of its own. BIOS
// and UEFI machines with virtio devices. Use make_engine (probe.h) to have the right one chosen.
#pragma once

#include "kvmboot/engine.h"

namespace kvmport {

struct KvmEngineOptions {
  /// What time-outs are multiplied by, and why this engine: asked for late, since the answer may take a probe.
  std::function<double()> time_scale = [] { return 1.0; };
  std::function<std::string()> reason = [] { return std::string(); };
  std::unique_ptr<Engine> fallback; ///< may be null
};

/// run() throws what vmm/pc.h names; a KVM that can't run the guest's code is EngineOutcome::End::engine_failed. What
/// the guest writes is seen by the guest alone: the caller's overlays stay as they are.
std::unique_ptr<Engine> make_kvm_engine(KvmEngineOptions options = {});

} // namespace kvmport
