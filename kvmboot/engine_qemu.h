// SPDX-License-Identifier: Apache-2.0
// The engine that lets qemu-system-x86_64 run the machine. QEMU gets the disks as plain NBD on private sockets, never
// an image file, and dies with this process. Use make_engine (probe.h) to have the right one chosen.
#pragma once

#include "kvmboot/engine.h"

namespace kvmport {

/// `kvm`: run on /dev/kvm, else by translation (TCG). Time-outs are multiplied by `time_scale`. run() throws what
/// qemu_command.h names; a QEMU that fails is EngineOutcome::End::engine_failed, with its own words as detail.
std::unique_ptr<Engine> make_qemu_engine(bool kvm, double time_scale, std::string reason,
                                         std::unique_ptr<Engine> fallback = nullptr);

} // namespace kvmport
