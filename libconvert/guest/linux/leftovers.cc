// SPDX-License-Identifier: Apache-2.0
// Places that name devices of the old hardware and that no step edits: they don't matter for the boot, and what their
// owner wants of the new disks isn't known. Each becomes a note with file and line. Also drivers that the kernel
// command line keeps out.
#include "libconvert/guest/linux/boot_config.h"
#include "libconvert/guest/linux/device_names.h"
#include "libconvert/guest/linux/steps.h"
#include "libconvert/guest/linux/text.h"

namespace kvmport::linux_guest {

namespace {

/// The first name of the old hardware in a line, quotes and punctuation aside.
std::string bus_name_in(std::string_view line) {
  for (std::size_t at = line.find("/dev/"); at != std::string_view::npos; at = line.find("/dev/", at + 5)) {
    const std::string_view name = line.substr(at, line.find_first_of(" \t\"';,)}|", at) - at);
    if (DeviceTranslator::depends_on_bus(name))
      return std::string(name);
  }
  return {};
}

void note_lines(const std::string& path, Draft& draft) {
  const auto text = draft.try_read(path);
  if (!text)
    return;
  std::size_t number = 0;
  for (const std::string& line : split_lines(*text)) {
    number++;
    if (trim(line).starts_with('#'))
      continue;
    if (const std::string name = bus_name_in(line_body(line)); !name.empty())
      draft.note(path + " line " + std::to_string(number) + " names " + name +
                 ", a device of the old hardware; it isn't needed for the boot and was left as it is");
  }
}

void warn_of_blocked_drivers(const BootConfig& config, Draft& draft) {
  const auto text = draft.try_read(config.path);
  if (!text)
    return;
  edit_kernel_args(config.kind, *text, [&](std::string& args, const KernelArgs& about) {
    for (const Word& word : split_words(args))
      for (std::string_view key : {"modprobe.blacklist=", "module_blacklist=", "rd.driver.blacklist=", "rdblacklist="})
        if (word.text.starts_with(key) && word.text.find("virtio") != std::string_view::npos)
          draft.warn(config.path + " line " + std::to_string(about.line) + ": " + std::string(word.text) +
                     " keeps out a driver that the new hardware needs");
  });
}

} // namespace

void leftovers_step(const GuestInfo& info, Draft& draft) {
  for (const char* path : {"/etc/smartd.conf", "/etc/smartmontools/smartd.conf", "/etc/hdparm.conf", "/etc/kdump.conf",
                           "/etc/sysconfig/rawdevices", "/etc/rc.local", "/etc/rc.d/rc.local", "/etc/default/kexec"})
    note_lines(path, draft);
  for (const std::string& name : draft.list("/etc/drbd.d"))
    if (name.ends_with(".res"))
      note_lines("/etc/drbd.d/" + name, draft);
  for (const BootConfig& config : find_boot_configs(info, draft))
    warn_of_blocked_drivers(config, draft);
}

} // namespace kvmport::linux_guest
