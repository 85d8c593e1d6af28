// SPDX-License-Identifier: Apache-2.0
// Services that talk to the hypervisor or cloud the guest comes from. They are switched off, not removed: removing
// needs the guest's package manager. Also what else expects that hypervisor: its console, its graphics driver.
#include "libconvert/guest/linux/boot_config.h"
#include "libconvert/guest/linux/steps.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <array>

namespace kvmport::linux_guest {

namespace {

struct Tool {
  std::string_view service; ///< unit name without ".service", also of init scripts
  std::string_view what;
};

/// Services by name. Those that work anywhere (qemu-guest-agent, cloud-init, chrony) are not here.
constexpr Tool tools[] = {
    {"open-vm-tools", "VMware Tools"},
    {"vmtoolsd", "VMware Tools"},
    {"vgauth", "VMware Tools"},
    {"vgauthd", "VMware Tools"},
    {"vmware-tools", "VMware Tools"},
    {"vmware-tools-thinprint", "VMware Tools"},
    {"vmware-vmblock-fuse", "VMware Tools"},
    {"run-vmblock-fuse", "VMware Tools"},
    {"run-vmblock\\x2dfuse", "VMware Tools"},
    {"vmware", "VMware Tools"},
    {"vboxadd", "VirtualBox Guest Additions"},
    {"vboxadd-service", "VirtualBox Guest Additions"},
    {"vboxadd-x11", "VirtualBox Guest Additions"},
    {"vboxservice", "VirtualBox Guest Additions"},
    {"virtualbox-guest-utils", "VirtualBox Guest Additions"},
    {"virtualbox-guest-additions", "VirtualBox Guest Additions"},
    {"virtualbox-guest-x11", "VirtualBox Guest Additions"},
    {"xe-daemon", "Xen guest tools"},
    {"xe-linux-distribution", "Xen guest tools"},
    {"xenserver-guest-utilities", "Xen guest tools"},
    {"xe-guest-utilities", "Xen guest tools"},
    {"hv-kvp-daemon", "Hyper-V daemons"},
    {"hv-vss-daemon", "Hyper-V daemons"},
    {"hv-fcopy-daemon", "Hyper-V daemons"},
    {"hv_kvp_daemon", "Hyper-V daemons"},
    {"hv_vss_daemon", "Hyper-V daemons"},
    {"hv_fcopy_daemon", "Hyper-V daemons"},
    {"hypervkvpd", "Hyper-V daemons"},
    {"hypervvssd", "Hyper-V daemons"},
    {"hypervfcopyd", "Hyper-V daemons"},
    {"prltoolsd", "Parallels Tools"},
    {"ngt_guest_agent", "Nutanix Guest Tools"},
    {"walinuxagent", "Azure's agent"},
    {"waagent", "Azure's agent"},
    {"walinuxagent-network-setup", "Azure's agent"},
    {"google-guest-agent", "Google Cloud's agent"},
    {"google-guest-agent-manager", "Google Cloud's agent"},
    {"google-accounts-daemon", "Google Cloud's agent"},
    {"google-clock-skew-daemon", "Google Cloud's agent"},
    {"google-instance-setup", "Google Cloud's agent"},
    {"google-network-daemon", "Google Cloud's agent"},
    {"google-osconfig-agent", "Google Cloud's agent"},
    {"google-startup-scripts", "Google Cloud's agent"},
    {"google-shutdown-scripts", "Google Cloud's agent"},
    {"google-disk-expand", "Google Cloud's agent"},
    {"gce-disk-expand", "Google Cloud's agent"},
    {"ec2-hibinit-agent", "an agent of Amazon EC2"},
    {"hibinit-agent", "an agent of Amazon EC2"},
    {"update-motd-ec2", "an agent of Amazon EC2"},
};

const Tool* find_tool(std::string_view service) {
  for (const Tool& tool : tools)
    if (equal_nocase(tool.service, service))
      return &tool;
  return nullptr;
}

std::string reason_for(const Tool& tool) {
  return std::string(tool.what) + ": works only on the platform that the guest leaves";
}

/// "open-vm-tools.service" → its tool; mount units of the same tools count too.
const Tool* tool_of_unit(std::string_view unit) {
  for (std::string_view ending : {".service", ".mount", ".timer", ".path", ".socket"})
    if (unit.ends_with(ending))
      return find_tool(unit.substr(0, unit.size() - ending.size()));
  return nullptr;
}

bool is_wants_directory(std::string_view name) {
  return name.ends_with(".wants") || name.ends_with(".requires");
}

void disable_units(Draft& draft) {
  const std::string own = "/etc/systemd/system";
  for (const std::string& directory : draft.list(own)) {
    if (!is_wants_directory(directory)) {
      // An alias, such as vmtoolsd.service → open-vm-tools.service.
      const std::string path = join_path(own, directory);
      const auto status = draft.lstat(path);
      if (const Tool* tool = tool_of_unit(directory);
          tool && status && status->type == FileType::symlink && draft.readlink(path) != "/dev/null")
        draft.remove(path, reason_for(*tool));
      continue;
    }
    for (const std::string& unit : draft.list(join_path(own, directory)))
      if (const Tool* tool = tool_of_unit(unit))
        draft.remove(own + "/" + directory + "/" + unit, reason_for(*tool));
  }
  // Links that the package ships can only be overruled.
  for (const std::string& top : {std::string("/usr/lib/systemd/system"), std::string("/lib/systemd/system")})
    for (const std::string& directory : draft.list(top)) {
      if (!is_wants_directory(directory))
        continue;
      for (const std::string& unit : draft.list(join_path(top, directory)))
        if (const Tool* tool = tool_of_unit(unit); tool && !draft.lstat(join_path(own, unit)))
          draft.symlink("/dev/null", join_path(own, unit), reason_for(*tool));
    }
}

/// SysV: S20vmware-tools → K80vmware-tools, which the guest's tools read as "switched off by the administrator".
void disable_init_scripts(Draft& draft) {
  for (const std::string& top : {std::string("/etc"), std::string("/etc/rc.d"), std::string("/etc/init.d")})
    for (const std::string& directory : draft.list(top)) {
      if (directory.size() != 5 || !directory.starts_with("rc") || !directory.ends_with(".d"))
        continue;
      const std::string path = join_path(top, directory);
      const std::vector<std::string> names = draft.list(path);
      for (const std::string& name : names) {
        if (name.size() < 4 || name[0] != 'S' || !std::isdigit(static_cast<unsigned char>(name[1])) ||
            !std::isdigit(static_cast<unsigned char>(name[2])))
          continue;
        const Tool* tool = find_tool(std::string_view(name).substr(3));
        if (!tool)
          continue;
        const unsigned order = 100 - std::min(99, (name[1] - '0') * 10 + (name[2] - '0'));
        const std::string off =
            "K" + std::string(order < 10 ? "0" : "") + std::to_string(std::min(order, 99U)) + name.substr(3);
        const bool is_off = std::any_of(names.begin(), names.end(), [&](const std::string& other) {
          return other[0] == 'K' && other.size() > 3 && other.substr(3) == name.substr(3);
        });
        if (is_off)
          draft.remove(join_path(path, name), reason_for(*tool));
        else
          draft.rename(join_path(path, name), join_path(path, off), reason_for(*tool));
      }
    }
}

void disable_others(Draft& draft) {
  for (const std::string& level : draft.list("/etc/runlevels")) // OpenRC
    for (const std::string& name : draft.list("/etc/runlevels/" + level))
      if (const Tool* tool = find_tool(name))
        draft.remove("/etc/runlevels/" + level + "/" + name, reason_for(*tool));
  const std::vector<std::string> jobs = draft.list("/etc/init"); // upstart
  for (const std::string& job : jobs)
    if (job.ends_with(".conf"))
      if (const Tool* tool = find_tool(job.substr(0, job.size() - 5)))
        draft.write("/etc/init/" + job.substr(0, job.size() - 5) + ".override", "manual\n", reason_for(*tool));
  for (const std::string& name : draft.list("/etc/xdg/autostart"))
    if (name == "vboxclient.desktop" || name == "vmware-user.desktop")
      draft.rename("/etc/xdg/autostart/" + name, "/etc/xdg/autostart/" + name + std::string(aside_suffix),
                   "it starts a desktop helper of the old hypervisor at every login");
  // Amazon's agent works elsewhere too, once it is registered there.
  const std::string ssm = "/etc/systemd/system/multi-user.target.wants/amazon-ssm-agent.service";
  if (draft.lstat(ssm) && !draft.exists("/var/lib/amazon/ssm/registration"))
    draft.remove(ssm, "Amazon's Systems Manager agent: this machine isn't registered for use outside EC2");
}

/// X configuration that names the old graphics card's driver.
void check_xorg(Draft& draft) {
  std::vector<std::string> files{"/etc/X11/xorg.conf", "/etc/X11/XF86Config"};
  for (const std::string& name : draft.list("/etc/X11/xorg.conf.d"))
    if (name.ends_with(".conf"))
      files.push_back("/etc/X11/xorg.conf.d/" + name);
  for (const std::string& path : files) {
    const auto text = draft.try_read(path);
    if (!text)
      continue;
    for (const std::string& line : split_lines(*text)) {
      const auto words = split_words(line_body(line));
      if (words.size() < 2 || lower(words[0].text) != "driver")
        continue;
      const std::string driver = lower(unquote(words[1].text));
      if (driver == "vmware" || driver == "vboxvideo" || driver == "vmmouse" || driver == "vboxmouse" ||
          driver == "prlvideo" || driver == "cirrus") {
        draft.rename(path, path + std::string(aside_suffix),
                     "it asks for the X driver " + driver +
                         " of the old hardware; without the file X finds the card itself");
        break;
      }
    }
  }
}

std::string replace_console(std::string_view args) {
  std::string out;
  bool replaced = false;
  std::size_t copied = 0;
  const bool has_serial = args.find("console=ttyS0") != std::string_view::npos;
  const bool has_screen = args.find("console=tty0") != std::string_view::npos;
  for (const Word& word : split_words(args)) {
    if (word.text != "console=hvc0" && word.text != "console=xvc0" && word.text != "xencons=tty")
      continue;
    out.append(args.substr(copied, word.at - copied));
    copied = word.at + word.text.size();
    std::string with;
    if (!replaced && word.text.starts_with("console="))
      with = std::string(has_screen ? "" : "console=tty0") + (has_screen || has_serial ? "" : " ") +
             (has_serial ? "" : "console=ttyS0,115200");
    replaced = replaced || !with.empty();
    if (with.empty() && copied < args.size())
      copied++; // one blank goes with the word
    out += with;
  }
  return out.append(args.substr(copied));
}

/// Xen's console hvc0 does not exist on KVM; with it alone the kernel has no console at all.
void replace_xen_console(const GuestInfo& info, Draft& draft) {
  std::vector<BootConfig> configs = find_boot_configs(info, draft);
  for (const BootConfig& config : find_cmdline_sources(draft))
    configs.push_back(config);
  for (const BootConfig& config : configs)
    edit_boot_config(config, draft, "Xen's console does not exist on KVM; screen and serial port take its place",
                     [](std::string& args, const KernelArgs&) { args = replace_console(args); });
  const auto inittab = draft.try_read("/etc/inittab");
  if (!inittab)
    return;
  const std::string after = edit_lines(*inittab, [](std::string& line, std::size_t) {
    if (line.starts_with('#') || line.find("getty") == std::string::npos)
      return true;
    for (std::string_view old : {"hvc0", "xvc0"})
      for (std::size_t at = line.find(old); at != std::string::npos; at = line.find(old, at + 5))
        line.replace(at, old.size(), "ttyS0");
    return true;
  });
  if (after != *inittab)
    draft.write("/etc/inittab", after, "Xen's console does not exist on KVM; the serial port takes its place");
}

} // namespace

void hypervisor_tools_step(const GuestInfo&, Draft& draft) {
  disable_units(draft);
  disable_init_scripts(draft);
  disable_others(draft);
}

void old_devices_step(const GuestInfo& info, Draft& draft) {
  check_xorg(draft);
  replace_xen_console(info, draft);
}

} // namespace kvmport::linux_guest
