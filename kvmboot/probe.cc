// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/probe.h"

#include "base/process.h"
#include "kvmboot/engine_kvm.h"
#include "kvmboot/engine_qemu.h"
#include "kvmboot/kvm_trial.h"
#include "kvmboot/vmm/vm.h"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>

namespace kvmport {
namespace {

/// Below this rate (million instructions a second of ring 0) kernel code is being emulated. Hardware does thousands.
constexpr double least_mips = 100;
constexpr double tcg_time_scale = 4;
constexpr std::chrono::milliseconds trial_limit{2000};

std::string failed_step(const KvmTrial& trial, const std::string& device) {
  const std::string why = std::strerror(trial.error);
  switch (trial.failed_at) {
  case KvmTrial::Step::open:
    return "can't open " + device + ": " + why;
  case KvmTrial::Step::not_kvm:
    return device + " is not a KVM device";
  case KvmTrial::Step::create:
    return device + " makes no virtual machine: " + why;
  default:
    return device + " did not finish the probe: " + why;
  }
}

std::string rate_text(const char* mode, double mips) {
  return fmt::format("{} runs {:.1f} million instructions a second", mode, mips);
}

/// Why KVM is not used.
std::string tcg_reason(const Probe& probe) {
  return fmt::format("software translation, because {} ({})",
                     probe.kvm == Probe::Class::emulated ? "/dev/kvm only emulates kernel code"
                                                         : "there is no usable KVM",
                     probe.reasons.empty() ? "not probed" : probe.reasons.front());
}

/// Our engine when it was asked for by name. The host is probed only when somebody wants to know what came of it: the
/// guest runs within milliseconds.
std::unique_ptr<Engine> built_in_engine() {
  (void)vmm::open_kvm();
  KvmEngineOptions options;
  options.time_scale = [] { return host_probe().built_in_time_scale(); };
  options.reason = [] { return std::string("it was asked for"); };
  return make_kvm_engine(std::move(options));
}

std::unique_ptr<Engine> translating_engine(std::string reason) {
  return make_qemu_engine(false, tcg_time_scale, std::move(reason), nullptr);
}

/// Where KVM runs real kernels: our engine, then QEMU for what ours has not or can't.
std::unique_ptr<Engine> full_kvm_engine(bool built_in, bool qemu) {
  std::unique_ptr<Engine> next;
  if (qemu)
    next = make_qemu_engine(true, 1.0, "KVM at full speed", translating_engine("QEMU failed on KVM"));
  if (!built_in)
    return next;
  KvmEngineOptions options;
  options.reason = [] { return std::string("KVM at full speed"); };
  options.fallback = std::move(next);
  return make_kvm_engine(std::move(options));
}

} // namespace

double Probe::time_scale() const {
  return kvm == Class::full ? 1.0 : tcg_time_scale;
}

double Probe::built_in_time_scale() const {
  constexpr double most = 200;
  return kvm == Class::full ? 1.0 : std::clamp(least_mips / std::max(mips_ring0, 0.1), tcg_time_scale, most);
}

std::string to_string(Probe::Class kvm) {
  return kvm == Probe::Class::full ? "full" : kvm == Probe::Class::emulated ? "emulated" : "none";
}

Probe classify(const KvmTrial& trial, const std::string& device) {
  Probe probe;
  if (trial.failed_at != KvmTrial::Step::done) {
    probe.reasons.push_back(failed_step(trial, device));
    return probe;
  }
  probe.mips_ring0 = trial.mips_ring0;
  std::vector<std::string_view> failed, not_run;
  for (std::size_t i = 0; i < snippet_count; i++) {
    if (trial.snippets[i] == KvmTrial::Result::fails)
      failed.push_back(snippet_name(static_cast<Snippet>(i)));
    if (trial.snippets[i] == KvmTrial::Result::not_run)
      not_run.push_back(snippet_name(static_cast<Snippet>(i)));
  }
  const bool fast = trial.mips_ring0 >= least_mips;
  probe.kvm = fast && failed.empty() ? Probe::Class::full : Probe::Class::emulated;
  probe.reasons.push_back(rate_text("ring 0", trial.mips_ring0) + (fast ? "" : ": emulated"));
  if (!failed.empty())
    probe.reasons.push_back(fmt::format("can't run {}", fmt::join(failed, ", ")));
  if (!not_run.empty())
    probe.reasons.push_back(fmt::format("not tried: {}", fmt::join(not_run, ", ")));
  probe.reasons.push_back(rate_text("real mode", trial.mips_real16));
  return probe;
}

Probe probe_kvm(const std::filesystem::path& device) {
  Probe probe;
  try {
    probe = classify(try_kvm(device, trial_limit), device.string());
  } catch (const std::exception& e) {
    probe.reasons = {e.what()};
  }
  return probe;
}

const Probe& host_probe() {
  static const Probe probe = probe_kvm();
  return probe;
}

std::unique_ptr<Engine> make_engine(const std::string& wish, EventSink& sink) {
  if (wish != "auto" && wish != "qemu" && wish != "kvm")
    throw Error("ENGINE_UNKNOWN", "there is no engine \"" + wish + "\"", {}, "the engines are: auto, qemu, kvm");
  if (wish == "kvm") {
    auto engine = built_in_engine();
    sink.message(EventSink::Level::info, "ENGINE", "engine kvm: it was asked for");
    return engine;
  }
  const Probe& probe = host_probe();
  const bool qemu = find_program("qemu-system-x86_64").has_value(), full = probe.kvm == Probe::Class::full;
  if (!qemu && (wish == "qemu" || !full))
    throw Error("ENGINE_UNAVAILABLE", "qemu-system-x86_64 is not installed", {},
                "install QEMU (Debian: qemu-system-x86), or convert with --no-boot");
  auto engine = full ? full_kvm_engine(wish == "auto", qemu) : translating_engine(tcg_reason(probe));
  sink.message(EventSink::Level::info, "ENGINE", "engine " + engine->name() + ": " + engine->reason());
  return engine;
}

} // namespace kvmport
