// SPDX-License-Identifier: Apache-2.0
#include "base/firmware_files.h"
#include "base/late_library.h"
#include "base/process.h"
#include "libconvert/host/connection.h"
#include "libconvert/host/host.h"

#include <algorithm>
#include <fmt/format.h>

namespace kvmport {
namespace {

constexpr std::uint64_t gibi = 1U << 30;

std::string gibibytes(std::uint64_t bytes) {
  return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / gibi);
}

/// Whether KVM is done by something other than the processor's own extension.
bool software_kvm(const HostFacts& facts) {
  return facts.extension.empty() && std::any_of(facts.kvm_modules.begin(), facts.kvm_modules.end(),
                                                [](const auto& m) { return m != "kvm_intel" && m != "kvm_amd"; });
}

HostCheck check_processor(const HostFacts& facts, const Probe& probe) {
  const std::string name = facts.cpu.model_name.empty() ? facts.cpu.vendor : facts.cpu.model_name;
  if (!facts.extension.empty())
    return {"processor", Verdict::ok, name + ", " + facts.extension, {}};
  HostCheck check{"processor", Verdict::warning, name + ", neither VT-x nor AMD-V", {}};
  if (probe.kvm != Probe::Class::none || software_kvm(facts))
    check.hint = "KVM here is done in software, whatever /dev/kvm promises";
  else
    check.hint = facts.guest ? "have nested virtualisation switched on for this virtual machine"
                             : "switch virtualisation on in the firmware's setup";
  return check;
}

HostCheck check_paging(const HostFacts& facts) {
  if (facts.paging_off)
    return {"paging", Verdict::warning,
            (facts.paging.empty() ? "second level paging" : facts.paging) + " is switched off",
            "load kvm_intel with ept=1, or kvm_amd with npt=1"};
  if (!facts.paging.empty())
    return {"paging", Verdict::ok, facts.paging, {}};
  return {"paging", Verdict::warning, "no second level paging (EPT, NPT)",
          "guests run, but each change of their page tables stops them"};
}

HostCheck check_kvm(const Probe& probe) {
  const std::string why = probe.reasons.empty() ? std::string() : ": " + probe.reasons.front();
  switch (probe.kvm) {
  case Probe::Class::full:
    return {"kvm", Verdict::ok, "/dev/kvm runs at the speed of the hardware" + why, {}};
  case Probe::Class::emulated:
    return {"kvm", Verdict::bad, "/dev/kvm only emulates kernel code" + why,
            "real systems need a host with hardware virtualisation"};
  case Probe::Class::none:
    break;
  }
  const bool denied = why.find("ermission") != std::string::npos;
  return {"kvm", Verdict::bad, "no usable /dev/kvm" + why,
          denied ? "join the group kvm: adduser USER kvm" : "load the module: modprobe kvm_intel, or kvm_amd"};
}

HostCheck check_nesting(const HostFacts& facts) {
  if (!facts.guest)
    return {"nesting", Verdict::ok, "this host is no virtual machine, as far as its processor says", {}};
  return {"nesting", Verdict::warning,
          "this host is a virtual machine itself" + (facts.hypervisor.empty() ? "" : " (" + facts.hypervisor + ")"),
          "guests run nested: slower, and not on every hypervisor"};
}

HostCheck check_topology(const HostFacts& facts) {
  const CpuInventory& cpu = facts.cpu;
  HostCheck check{"topology",
                  Verdict::ok,
                  fmt::format("{} sockets, {} cores, {} threads, hyper-threading {}", cpu.sockets, cpu.cores,
                              cpu.online, cpu.hyper_threading() ? "on" : "off"),
                  {}};
  const bool wanted = cpu.smt == "off" || cpu.smt == "forceoff";
  if (!cpu.offline.empty() && !wanted) {
    check.verdict = Verdict::warning;
    check.text += fmt::format(", {} offline", cpu.offline.size());
    check.hint = "processors that are offline serve no guest";
  }
  return check;
}

HostCheck check_memory(const HostFacts& facts) {
  HostCheck check{"memory",
                  Verdict::ok,
                  gibibytes(facts.memory) + ", " + gibibytes(facts.available) + " available, swap " +
                      gibibytes(facts.swap),
                  {}};
  if (facts.available < 2 * gibi) {
    check.verdict = Verdict::warning;
    check.hint = "a conversion needs about 1 GiB, a boot proof what the guest has";
  }
  return check;
}

HostCheck check_huge_pages(const HostFacts& facts) {
  std::string text;
  for (const HugePages& pages : facts.huge_pages)
    if (pages.total > 0)
      text += fmt::format("{} of {} KiB ({} free), ", pages.total, pages.size >> 10, pages.free);
  if (text.empty())
    text = "none reserved, ";
  return {"huge pages",
          Verdict::ok,
          text + "transparent: " + (facts.transparent_huge_pages.empty() ? "unknown" : facts.transparent_huge_pages),
          {}};
}

HostCheck check_qemu() {
  if (!find_program("qemu-system-x86_64"))
    return {"qemu", Verdict::bad, "qemu-system-x86_64 is not there", "apt install qemu-system-x86"};
  const auto result = run_process({"qemu-system-x86_64", "--version"}, std::chrono::seconds(10));
  if (result.exit_code != 0)
    return {"qemu", Verdict::bad, "qemu-system-x86_64 does not run: " + result.err.substr(0, result.err.find('\n')),
            "apt install --reinstall qemu-system-x86"};
  return {"qemu", Verdict::ok, result.out.substr(0, result.out.find('\n')), {}};
}

/// Runs `find`, which throws when something is missing.
template <class Find> HostCheck check_found(const char* name, const char* package, Find find) {
  try {
    return {name, Verdict::ok, find(), {}};
  } catch (const Error& e) {
    return {name, Verdict::bad, e.why().empty() ? e.summary() : e.summary() + ": " + e.why(),
            e.hint().empty() ? std::string("apt install ") + package : e.hint()};
  }
}

HostCheck check_libguestfs() {
  return check_found("libguestfs", "libguestfs-dev", [] {
    late_symbol("libguestfs.so.0", "guestfs_create");
    if (!find_program("supermin"))
      throw Error("PROGRAM_MISSING", "supermin, which builds its appliance, is not there", {},
                  "apt install libguestfs-dev");
    return std::string("its library and supermin are there");
  });
}

HostCheck check_libvirt(const std::string& uri) {
  try {
    const LibvirtConnection connection(uri);
    return {"libvirt", Verdict::ok, fmt::format("{}: {} domains", uri, connection.all_domains().size()), {}};
  } catch (const Error& e) {
    return {"libvirt", Verdict::warning, e.why().empty() ? e.summary() : e.summary() + ": " + e.why(),
            "conversions don't need it; domains are then defined by hand"};
  }
}

HostCheck space_check(const char* name, const std::filesystem::path& path) {
  constexpr std::uint64_t little = 10 * gibi;
  try {
    const FilesystemSpace space = filesystem_of(path);
    const bool enough = space.free >= little;
    return {name, enough ? Verdict::ok : Verdict::warning,
            fmt::format("{}: {} of {} free on {}", path.string(), gibibytes(space.free), gibibytes(space.size),
                        space.mount),
            enough ? "" : "less than 10 GiB: few guests fit"};
  } catch (const Error& e) {
    return {name, Verdict::warning, e.summary(), {}};
  }
}

} // namespace

const char* to_string(Verdict verdict, const char* bad) {
  return verdict == Verdict::ok ? "ok" : verdict == Verdict::warning ? "warning" : bad;
}

std::vector<HostCheck> check_hardware(const HostFacts& facts, const Probe& probe) {
  return {check_processor(facts, probe), check_paging(facts), check_kvm(probe),       check_nesting(facts),
          check_topology(facts),         check_memory(facts), check_huge_pages(facts)};
}

std::vector<HostCheck> check_software(const std::string& libvirt) {
  std::vector<HostCheck> checks = {check_qemu()};
  checks.push_back(check_found("firmware", "ovmf", [] { return find_uefi_images(false, {}).code.string(); }));
  checks.push_back(check_found("depmod", "kmod", [] {
    const auto program = find_program("depmod");
    if (!program)
      throw Error("PROGRAM_MISSING", "depmod, which makes the module indexes of a changed initramfs, is not there");
    return *program;
  }));
  checks.push_back(check_libguestfs());
  if (!libvirt.empty())
    checks.push_back(check_libvirt(libvirt));
  return checks;
}

std::vector<HostCheck> check_space(const std::filesystem::path& output, const std::filesystem::path& temporary) {
  return {space_check("results", output), space_check("temporary", temporary)};
}

} // namespace kvmport
