// SPDX-License-Identifier: Apache-2.0
#include "cmd/media_command.h"

#include <cstdlib>
#include <fmt/format.h>
#include <sstream>

namespace kvmport {
namespace {

constexpr const char* examples = R"(
Examples:
  kvm-p2v media -o p2v.iso
  kvm-p2v media -o p2v.iso --server ssh://p2v@kvm1.example.net/srv/p2v --enrol
  kvm-p2v media --pxe /srv/tftp/p2v --server ssh://p2v@10.0.0.5/srv/p2v --host-key SHA256:ufz… --identity medium_key
)";

std::optional<std::int64_t> source_date() {
  const char* text = std::getenv("SOURCE_DATE_EPOCH");
  if (text == nullptr)
    return std::nullopt;
  char* end = nullptr;
  const long long seconds = std::strtoll(text, &end, 10);
  if (end == text || *end != '\0' || seconds < 0 || seconds > 0xffffffffLL)
    throw Error("USAGE", "SOURCE_DATE_EPOCH holds no seconds since 1970", text);
  return seconds;
}

MediaOptions finish_arguments(const MediaArguments& a) {
  MediaOptions options = a.options;
  // The presets go through the kernel's command line, so its parser checks them.
  std::string line;
  const auto add = [&](const char* key, const std::string& value) {
    if (value.find_first_of(" \t\n\"") != value.npos)
      throw Error("USAGE", std::string(key) + " holds a blank or a quote", value);
    if (!value.empty())
      line += fmt::format("{}={} ", key, value);
  };
  add("p2v.server", a.server);
  add("p2v.host_key", a.host_key);
  add("p2v.net", a.network);
  add("p2v.name", a.name);
  add("p2v.disks", a.disks);
  add("p2v.post", a.post);
  add("p2v.enrol", a.enrol ? "yes" : "");
  add("p2v.convert", a.no_convert ? "no" : "");
  options.presets = parse_kernel_arguments(line);
  std::istringstream words(a.more);
  for (std::string word; words >> word;)
    options.kernel_arguments.push_back(word);
  options.time = source_date();
  return options;
}

void warn(const MediaArguments& a, const MediaResult& result, Console& console) {
  const auto say = [&](const char* code, const std::string& text) {
    console.message(EventSink::Level::warning, code, text);
  };
  if (!a.options.identity.empty())
    say("KEY_ON_MEDIUM",
        "the medium holds a private key: who has the medium, or a copy, can log in with it. Allow this key "
        "no more than kvm-p2v receive (restrict,command=… in authorized_keys) and remove it when done");
  if (!a.server.empty() && a.host_key.empty() && !a.enrol)
    say("HOST_KEY_UNKNOWN", "no --host-key and no --enrol: the medium will show the server's fingerprint and ask");
  if (!result.missing_firmware.empty())
    console.message(
        EventSink::Level::info, "FIRMWARE_MISSING_FILES",
        fmt::format("{} firmware files that the drivers may ask for are not in {} ({} …): Debian has them in "
                    "firmware-linux-nonfree, firmware-bnx2, firmware-qlogic and others",
                    result.missing_firmware.size(), a.options.firmware.string(), result.missing_firmware.front()));
}

} // namespace

CLI::App* add_media_command(CLI::App& app, MediaArguments& a) {
  CLI::App* c = app.add_subcommand("media", "Build the medium that a machine is booted from to be captured");
  MediaOptions& o = a.options;
  c->add_option("-o,--output", o.image, "Image for CD and USB, for BIOS and UEFI");
  c->add_option("--pxe", o.pxe, "Directory for kernel, initramfs and examples for PXE");
  c->add_option("--server", a.server, "ssh://[USER@]HOST[:PORT]/DIR: where captures go");
  c->add_option("--host-key", a.host_key, "SHA256:…: the server's host key");
  auto* identity =
      c->add_option("--identity", o.identity, "Private key that the medium holds: who has the medium has the key");
  c->add_flag("--enrol", a.enrol, "The medium makes a key at each boot, which kvm-p2v accept lets in")
      ->excludes(identity);
  c->add_option("--net", a.network, "dhcp or IP/PREFIX,gw=IP,dns=IP,dev=NAME|MAC,vlan=N");
  c->add_option("--name", a.name, "Name of the guest");
  c->add_option("--disks", a.disks, "Kernel names of the disks to send, as sda,sdb");
  c->add_option("--post", a.post, "What follows a capture: poweroff (default), reboot, shell");
  c->add_flag("--no-convert", a.no_convert, "The server stores disks and description, and changes nothing");
  c->add_option("--kernel-args", a.more, "More arguments for the kernel, in one word");
  auto* kernel =
      c->add_option("--kernel", o.kernel.image, "vmlinuz (default: the newest installed, or in apt's cache)");
  auto* modules = c->add_option("--modules", o.kernel.modules, "/lib/modules/VERSION of --kernel");
  kernel->needs(modules);
  modules->needs(kernel);
  c->add_option("--kernel-deb", o.kernel.package, "Package of the kernel")->excludes(kernel);
  c->add_option("--firmware", o.firmware, "Where firmware for drivers is taken from")->capture_default_str();
  c->add_flag("--force", o.force, "Replace what is there");
  c->footer(examples);
  return c;
}

int run_media(const MediaArguments& a, Console& console, const StopToken& stop) {
  const MediaOptions options = finish_arguments(a);
  const MediaResult r = build_media(options, console, stop);
  warn(a, r, console);
  std::string text =
      fmt::format("kernel {}, {} modules, {} firmware files; {} unpacked, initramfs {}\n", r.kernel_version, r.modules,
                  r.firmware_files, human_size(r.unpacked), human_size(r.initramfs_size));
  nlohmann::json files = nlohmann::json::array();
  for (const auto& file : r.files) {
    text += fmt::format("{} ({})\n", file.string(), human_size(std::filesystem::file_size(file)));
    files.push_back(file.string());
  }
  console.result(text, {{"kernel", r.kernel_version},
                        {"kernel_origin", r.kernel_origin},
                        {"modules", r.modules},
                        {"firmware_files", r.firmware_files},
                        {"missing_firmware", r.missing_firmware},
                        {"unpacked_size", r.unpacked},
                        {"initramfs_size", r.initramfs_size},
                        {"image_size", r.image_size},
                        {"kernel_arguments", r.kernel_arguments},
                        {"files", files}});
  return exit_done;
}

} // namespace kvmport
