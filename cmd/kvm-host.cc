// SPDX-License-Identifier: Apache-2.0
// kvm-host: what this host has, and lacks, for kvmport's work. See kvm-host(1).
#include "base/firmware_files.h"
#include "base/process.h"
#include "cmd/cli.h"
#include "kvmboot/probe.h"

#include <fmt/format.h>

namespace kvmport {
namespace {

struct Tool {
  const char *program, *purpose, *package;
};
constexpr Tool tools[] = {
    {"qemu-system-x86_64", "runs the boot proof", "qemu-system-x86"},
    {"depmod", "makes the module indexes of a changed initramfs", "kmod"},
    {"supermin", "builds the appliance that opens guests", "libguestfs-dev"},
};

std::string qemu_version() {
  const auto result = run_process({"qemu-system-x86_64", "--version"}, std::chrono::seconds(10));
  return result.out.substr(0, result.out.find('\n'));
}

std::vector<std::string> missing_things() {
  std::vector<std::string> missing;
  for (const Tool& tool : tools)
    if (!find_program(tool.program))
      missing.push_back(fmt::format("{} ({}): install {}", tool.program, tool.purpose, tool.package));
  try {
    find_uefi_images(false, {});
  } catch (const Error& e) {
    missing.push_back(fmt::format("UEFI firmware (boots UEFI guests): {}", e.hint()));
  }
  return missing;
}

int check(Console& console) {
  const Probe& probe = host_probe();
  const bool qemu = find_program("qemu-system-x86_64").has_value();
  const std::string version = qemu ? qemu_version() : "";
  const char* engine = !qemu ? "none" : probe.kvm == Probe::Class::full ? "qemu-kvm" : "qemu-tcg";
  const auto missing = missing_things();
  std::string text = fmt::format("kvmport {}\nKVM:     {}\n", version_text, to_string(probe.kvm));
  for (const auto& reason : probe.reasons)
    text += "         " + reason + "\n";
  text += fmt::format("engine:  {}\n", engine);
  text += version.empty() ? "" : "QEMU:    " + version + "\n";
  text += missing.empty() ? "missing: nothing\n" : "";
  for (const auto& m : missing)
    text += "missing: " + m + "\n";
  console.result(text, {{"version", version_text},
                        {"kvm", to_string(probe.kvm)},
                        {"reasons", probe.reasons},
                        {"mips_ring0", probe.mips_ring0},
                        {"engine", engine},
                        {"qemu", version},
                        {"missing", missing}});
  return missing.empty() ? exit_done : exit_failed;
}

} // namespace
} // namespace kvmport

int main(int argc, char** argv) {
  using namespace kvmport;
  CLI::App app{"Tells what this host has for kvmport's work", "kvm-host"};
  app.require_subcommand(1);
  CommonArguments common;
  CLI::App* command = app.add_subcommand("check", "Probe KVM, name the engine and what is missing");
  add_common_options(*command, common);
  return run_program(app, argc, argv, common, [](Console& console, const StopToken&) { return check(console); });
}
