// SPDX-License-Identifier: Apache-2.0
// What this host's /dev/kvm is good for, found out by running a few instructions on it (well under 100 ms). One probe
// for the whole house: the engines, libguestfs and `kvm-host` all ask here. CPUID is not asked: nested and software
// KVMs lie there.
#pragma once

#include "base/events.h"
#include "kvmboot/engine.h"

#include <memory>
#include <string>
#include <vector>

namespace kvmport {

struct Probe {
  enum class Class {
    full,     ///< runs an ordinary kernel at hardware speed
    emulated, ///< /dev/kvm works but emulates kernel code: too slow or incomplete for a real system
    none,     ///< no /dev/kvm, or no permission
  };
  Class kvm = Class::none;
  std::vector<std::string> reasons; ///< what was seen: rate, snippets that failed, errno
  double mips_ring0 = 0;            ///< measured rate of long-mode ring 0, million instructions a second
  /// Factor for time-outs: 1 with full KVM, more where QEMU's TCG has to do the work.
  double time_scale() const;
  /// The same where the built-in engine does the work, on a KVM of any class: by the measured rate.
  double built_in_time_scale() const;
};

/// Runs the probe. Throws nothing.
Probe probe_kvm(const std::filesystem::path& device = "/dev/kvm");
struct KvmTrial;
/// What a trial (kvm_trial.h) of `device` says.
Probe classify(const KvmTrial& trial, const std::string& device);
/// The probe's result for this process: run once, on the first call. Thread-safe.
const Probe& host_probe();
/// "full", "emulated" or "none".
std::string to_string(Probe::Class kvm);

/// The engine for `wish` ("auto", "qemu", "kvm"). "auto" is the built-in one where KVM is full, with QEMU to fall back
/// on, else QEMU by software translation. Tells `sink` which and why. Errors: ENGINE_UNKNOWN, ENGINE_UNAVAILABLE.
std::unique_ptr<Engine> make_engine(const std::string& wish, EventSink& sink);

} // namespace kvmport
