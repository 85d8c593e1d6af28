// SPDX-License-Identifier: Apache-2.0
// kvm-boot: boots a throw-away copy of a machine and says how far it comes. See kvm-boot(1).
#include "base/hub.h"
#include "cmd/cli.h"
#include "kvmboot/judge.h"
#include "kvmboot/patterns.h"
#include "kvmboot/probe.h"
#include "libconvert/boot_machine.h"
#include "libconvert/report.h"
#include "libconvert/source/source.h"

#include <fmt/format.h>
#include <unistd.h>

namespace kvmport {
namespace {

namespace fs = std::filesystem;

struct BootArguments {
  std::vector<std::string> sources;
  std::string engine = "auto", until = "login", firmware, bus, input_format, append, explain;
  unsigned timeout = 300, memory_mib = 0, cpus = 0;
  fs::path serial, screenshot, nvram, kernel, initrd;
  std::optional<std::string> hub;
};

void add_options(CLI::App& app, BootArguments& a) {
  app.add_option("SOURCE", a.sources, "Disk images in boot order, or one machine description");
  app.add_option("--engine", a.engine, "auto, qemu or kvm")->check(CLI::IsMember({"auto", "qemu", "kvm"}));
  app.add_option("--until", a.until, "The milestone to prove")
      ->check(CLI::IsMember({"firmware", "bootloader", "kernel", "initramfs", "root", "init", "login"}));
  app.add_option("--timeout", a.timeout, "Seconds; four times as many where there is no full KVM")
      ->check(CLI::Range(1U, 86400U));
  app.add_option("--serial", a.serial, "Write the serial console's output to this file");
  app.add_option("--screenshot", a.screenshot, "Write the last screen to this PNG file");
  auto* kernel = app.add_option("--kernel", a.kernel, "Start this Linux kernel, without any boot loader")
                     ->check(CLI::ExistingFile);
  app.add_option("--initrd", a.initrd, "Its initial RAM disk")->check(CLI::ExistingFile)->needs(kernel);
  app.add_option("--append", a.append, "Its command line")->needs(kernel);
  app.add_option("--firmware", a.firmware, "bios or uefi")->check(CLI::IsMember({"bios", "uefi"}))->excludes(kernel);
  app.add_option("--nvram", a.nvram, "UEFI variables to start from; never written")->excludes(kernel);
  app.add_option("--memory", a.memory_mib, "MiB")->check(CLI::Range(16U, 16U << 20));
  app.add_option("--cpus", a.cpus, "Virtual processors")->check(CLI::Range(1U, 255U));
  app.add_option("--bus", a.bus, "The bus of all disks")->check(CLI::IsMember({"virtio", "scsi", "sata", "ide"}));
  app.add_option("--hub", a.hub, "Plug the network cards into this private hub, where other guests of yours may be");
  app.add_option("--input-format", a.input_format, "The disk images' format, instead of probing");
  app.add_option("--explain", a.explain, "Say what a diagnosis means and what to do, and end");
}

/// A machine with private layers over its disks.
struct Prepared {
  Source source;
  std::vector<std::unique_ptr<Overlay>> overlays;
  BootSpec spec;
};

/// What the command line says about the machine, in place of what its description says.
void override_hardware(BootSpec& spec, const BootArguments& a) {
  static const std::map<std::string, DiskBus> buses{
      {"virtio", DiskBus::virtio_blk}, {"scsi", DiskBus::virtio_scsi}, {"sata", DiskBus::sata}, {"ide", DiskBus::ide}};
  if (a.memory_mib != 0)
    spec.memory = std::uint64_t{a.memory_mib} << 20;
  if (a.cpus != 0)
    spec.cpus = a.cpus;
  if (!a.kernel.empty()) {
    spec.linux = LinuxBoot{a.kernel, a.initrd, a.append};
    spec.firmware = Firmware::bios;
  }
  if (!a.firmware.empty())
    spec.firmware = a.firmware == "uefi" ? Firmware::uefi : Firmware::bios;
  spec.secure_boot = spec.secure_boot && spec.firmware == Firmware::uefi;
  if (!a.nvram.empty())
    spec.nvram = a.nvram;
  if (!a.bus.empty())
    for (BootDisk& disk : spec.disks)
      disk.bus = buses.at(a.bus);
  spec.timeout = std::chrono::seconds(a.timeout);
  spec.screenshot = a.screenshot;
}

/// Plugs every card into the hub; a machine without any gets one.
void plug_in(BootSpec& spec, const fs::path& hub, const std::string& source) {
  if (spec.nics.empty())
    spec.nics.emplace_back();
  for (std::size_t i = 0; i < spec.nics.size(); i++) {
    spec.nics[i].hub = hub;
    if (spec.nics[i].mac.empty())
      spec.nics[i].mac = hub_mac(hub, fmt::format("{} {} {}", ::getpid(), i, source));
  }
}

Prepared prepare(const BootArguments& a, EventSink& sink) {
  const fs::path hub = a.hub ? hub_directory(*a.hub) : fs::path();
  Prepared p;
  SourceOptions options;
  options.input_format = a.input_format;
  if (!a.sources.empty())
    p.source = open_source_machine({a.sources.begin(), a.sources.end()}, options, sink);
  if (p.source.images.empty() && a.kernel.empty())
    throw Error("DISK_MISSING", "the machine has no disk to boot from");
  std::vector<Overlay*> disks;
  for (const auto& image : p.source.images) {
    p.overlays.push_back(std::make_unique<Overlay>(*image, fs::temp_directory_path(), proof_overlay_cap));
    disks.push_back(p.overlays.back().get());
  }
  p.spec = boot_spec_of(p.source.machine, disks);
  override_hardware(p.spec, a);
  if (!hub.empty())
    plug_in(p.spec, hub, a.sources.empty() ? a.kernel.string() : a.sources.front());
  return p;
}

std::string text_of(const Verdict& v) {
  const auto seconds = [](std::chrono::milliseconds t) { return static_cast<double>(t.count()) / 1000; };
  const std::string engine = fmt::format("engine {}: {}", v.engine, v.engine_reason);
  if (v.proven)
    return fmt::format("proven: {} reached after {:.1f} s ({})\n", to_string(v.reached.back().milestone),
                       seconds(v.reached.back().at), engine);
  const Diagnosis& d = v.diagnosis.value();
  std::string text =
      fmt::format("not proven: {}{}: {}\n", d.code, d.detail.empty() ? "" : " (" + d.detail + ")", d.text);
  for (const std::string& line : d.lines)
    text += "  | " + line + "\n";
  return text + fmt::format("  {} was asked for, {} was reached, {:.1f} s ({})\n", to_string(v.asked),
                            v.reached.empty() ? "nothing" : to_string(v.reached.back().milestone), seconds(v.wall),
                            engine);
}

int explain_code(const std::string& code, Console& console) {
  const std::string_view text = explain(code);
  if (text.empty()) {
    std::string all;
    for (const Explanation& e : explanations())
      all += (all.empty() ? "" : ", ") + std::string(e.code);
    throw Error("USAGE", "there is no diagnosis \"" + code + "\"", {}, "the diagnoses are: " + all);
  }
  console.result(code + ": " + std::string(text) + "\n", {{"code", code}, {"text", text}});
  return exit_done;
}

int boot(const BootArguments& a, Console& console, const StopToken& stop) {
  if (!a.explain.empty())
    return explain_code(a.explain, console);
  if (a.sources.empty() && a.kernel.empty())
    throw Error("USAGE", "no disk and no machine was named", {}, "kvm-boot --help says how to call it");
  const Milestone until = parse_milestone(a.until);
  const auto engine = make_engine(a.engine, console);
  const Prepared prepared = prepare(a, console);
  const Verdict verdict = prove_boot(*engine, prepared.spec, until, a.serial, console, stop);
  stop.check();
  console.result(text_of(verdict), to_json(verdict));
  if (verdict.diagnosis && verdict.diagnosis->code == "ENGINE_FAILED")
    return exit_failed;
  return verdict.proven ? exit_done : exit_not_proven;
}

} // namespace
} // namespace kvmport

int main(int argc, char** argv) {
  using namespace kvmport;
  CLI::App app{"Boots a throw-away copy of a machine, cut off from every network, and says how far it comes",
               "kvm-boot"};
  BootArguments arguments;
  CommonArguments common;
  add_options(app, arguments);
  add_common_options(app, common);
  return run_program(app, argc, argv, common,
                     [&](Console& console, const StopToken& stop) { return boot(arguments, console, stop); });
}
