// SPDX-License-Identifier: Apache-2.0
#include "cmd/inspect_command.h"

#include "libconvert/report.h"

#include <fmt/format.h>

namespace kvmport {
namespace {

constexpr const char* examples = R"(
Examples:
  kvm-v2v inspect web01.ova
  kvm-v2v inspect system.vhdx data.vhdx --json
)";

std::string describe(const Inspection& found) {
  const GuestInfo& guest = found.guest;
  const auto line = [](const char* name, const std::string& value) {
    return value.empty() ? std::string() : fmt::format("{:<14} {}\n", std::string(name) + ":", valid_utf8(value));
  };
  std::string text = line("system", guest.pretty_name) + line("distribution", guest.distro + " " + guest.version) +
                     line("processor", guest.arch) + line("packages", guest.packages) +
                     line("firmware", guest.firmware == Firmware::uefi ? "uefi" : "bios") +
                     line("boot loader", fmt::format("{}", fmt::join(guest.boot_loaders, ", ")));
  for (const auto& kernel : guest.kernels)
    text += line("kernel", kernel.version + (kernel.initramfs.empty() ? ", no initramfs" : ", " + kernel.initramfs));
  for (const auto& mount : guest.mounts)
    text += line("mounted", fmt::format("{} on {} ({})", mount.source_name, mount.path, mount.type));
  for (const auto& device : guest.devices)
    if (!device.type.empty())
      text += line("device", fmt::format("{} {} {}{}", device.source_name, human_size(device.size), device.type,
                                         device.uuid.empty() ? "" : " " + device.uuid));
  for (const auto& note : guest.notes)
    text += line("note", note);
  return text + line("read by", found.access == "userspace" ? "user space" : "the libguestfs appliance");
}

} // namespace

CLI::App* add_inspect_command(CLI::App& app, InspectArguments& arguments) {
  CLI::App* command = app.add_subcommand("inspect", "Say what system is in a machine's disks");
  command->add_option("SOURCE", arguments.options.sources, source_help)->required();
  add_source_options(*command, arguments.options.source, arguments.options.guest, arguments.named);
  command->footer(examples);
  return command;
}

int run_inspect(const InspectArguments& arguments, Console& console, const StopToken& stop) {
  InspectOptions options = arguments.options;
  options.access = parse_access(arguments.named.access);
  finish_source(arguments.named, options.source, options.guest);
  const Inspection found = inspect_machine(options, console, stop);
  nlohmann::json object = to_json(found.guest);
  object["access"] = found.access;
  console.result(describe(found), object);
  return exit_done;
}

} // namespace kvmport
