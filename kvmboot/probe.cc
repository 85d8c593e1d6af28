// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/probe.h"

#include "base/process.h"
#include "kvmboot/engine_kvm.h"
#include "kvmboot/engine_qemu.h"
#include "kvmboot/kvm_trial.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>

namespace kvmport {
namespace {

/// Below this rate (million instructions a second of ring 0) kernel code is being emulated. Hardware does thousands.
constexpr double least_mips = 100;
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
  std::array<char, 96> text{};
  std::snprintf(text.data(), text.size(), "%s runs %.1f million instructions a second", mode, mips);
  return text.data();
}

std::string join(const std::vector<std::string>& words) {
  std::string all;
  for (const auto& w : words)
    all += (all.empty() ? "" : ", ") + w;
  return all;
}

/// "TCG, because …".
std::string tcg_reason(const Probe& probe) {
  const std::string kind =
      probe.kvm == Probe::Class::emulated ? "/dev/kvm only emulates kernel code" : "there is no usable KVM";
  return "software translation, because " + kind + " (" +
         (probe.reasons.empty() ? std::string("not probed") : probe.reasons.front()) + ")";
}

} // namespace

std::string to_string(Probe::Class kvm) {
  switch (kvm) {
  case Probe::Class::full:
    return "full";
  case Probe::Class::emulated:
    return "emulated";
  case Probe::Class::none:
    return "none";
  }
  return "none";
}

Probe classify(const KvmTrial& trial, const std::string& device) {
  Probe probe;
  if (trial.failed_at != KvmTrial::Step::done) {
    probe.reasons.push_back(failed_step(trial, device));
    return probe;
  }
  probe.mips_ring0 = trial.mips_ring0;
  std::vector<std::string> failed, not_run;
  for (std::size_t i = 0; i < snippet_count; i++) {
    const std::string name(snippet_name(static_cast<Snippet>(i)));
    if (trial.snippets[i] == KvmTrial::Result::fails)
      failed.push_back(name);
    if (trial.snippets[i] == KvmTrial::Result::not_run)
      not_run.push_back(name);
  }
  const bool fast = trial.mips_ring0 >= least_mips;
  probe.kvm = fast && failed.empty() ? Probe::Class::full : Probe::Class::emulated;
  probe.reasons.push_back(rate_text("ring 0", trial.mips_ring0) + (fast ? "" : ": emulated"));
  if (!failed.empty())
    probe.reasons.push_back("can't run " + join(failed));
  if (!not_run.empty())
    probe.reasons.push_back("not tried: " + join(not_run));
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

Probe probe_kvm() {
  return probe_kvm("/dev/kvm");
}

const Probe& host_probe() {
  static const Probe probe = probe_kvm();
  return probe;
}

std::unique_ptr<Engine> make_engine(const std::string& wish, EventSink& sink) {
  const Probe& probe = host_probe();
  if (wish == "kvm") {
    if (probe.kvm == Probe::Class::none)
      throw Error("ENGINE_UNAVAILABLE", "the built-in engine needs /dev/kvm",
                  probe.reasons.empty() ? "" : probe.reasons[0], "use --engine qemu");
    auto engine = make_kvm_engine(probe.time_scale(), "it was asked for; KVM here is " + to_string(probe.kvm));
    sink.message(EventSink::Level::info, "ENGINE", "engine kvm: " + engine->reason());
    return engine;
  }
  if (wish != "auto" && wish != "qemu")
    throw Error("ENGINE_UNKNOWN", "there is no engine \"" + wish + "\"", {}, "the engines are: auto, qemu, kvm");
  if (!find_program("qemu-system-x86_64"))
    throw Error("ENGINE_UNAVAILABLE", "qemu-system-x86_64 is not installed", {},
                "install QEMU (Debian: qemu-system-x86), or convert with --no-boot");
  const bool kvm = probe.kvm == Probe::Class::full;
  auto engine = make_qemu_engine(kvm, probe.time_scale(), kvm ? "KVM at full speed" : tcg_reason(probe));
  sink.message(EventSink::Level::info, "ENGINE", "engine " + engine->name() + ": " + engine->reason());
  return engine;
}

} // namespace kvmport
