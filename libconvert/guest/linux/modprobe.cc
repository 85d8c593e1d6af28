// SPDX-License-Identifier: Apache-2.0
// Module configuration: aliases that tie eth0 or the root disk to a driver of the old hardware, lines that keep virtio
// drivers from loading, and lists of modules that only work under the old hypervisor.
#include "libconvert/guest/linux/steps.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <array>

namespace kvmport::linux_guest {

namespace {

bool is_virtio(std::string_view module) {
  return module.starts_with("virtio") || module == "failover" || module == "net_failover";
}

/// Modules whose loading fails where their hypervisor is not.
bool is_foreign_module(std::string_view module) {
  static constexpr std::array<std::string_view, 24> names{
      "vmw_balloon", "vmw_vmci",        "vmw_pvscsi",   "vmw_vsock_vmci_transport",
      "vmxnet",      "vmxnet3",         "vmblock",      "vmhgfs",
      "vmmemctl",    "vmxnet2",         "pvscsi",       "vsock",
      "vboxguest",   "vboxsf",          "vboxvideo",    "hv_vmbus",
      "hv_netvsc",   "hv_storvsc",      "hv_utils",     "hv_balloon",
      "hyperv_fb",   "hyperv_keyboard", "xen-netfront", "xen-blkfront"};
  std::string dashes(module), underscores(module);
  std::replace(underscores.begin(), underscores.end(), '-', '_');
  std::replace(dashes.begin(), dashes.end(), '_', '-');
  return std::any_of(names.begin(), names.end(),
                     [&](std::string_view name) { return name == module || name == dashes || name == underscores; });
}

bool starts_with_any(std::string_view text, std::initializer_list<std::string_view> prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](std::string_view p) { return text.starts_with(p); });
}

bool is_numbered(std::string_view text, std::string_view prefix) {
  return text.starts_with(prefix) && text.find_first_not_of("0123456789", prefix.size()) == std::string_view::npos;
}

/// One line of modprobe.conf or modprobe.d; true when it changed.
bool modprobe_line(const Plan& plan, std::string& line) {
  const std::string before = line;
  const auto words = split_words(before);
  if (words.size() < 2)
    return false;
  const std::string_view command = words[0].text, name = words[1].text;
  if (command == "alias" && words.size() == 3) {
    const std::string_view driver = words[2].text;
    if ((is_numbered(name, "eth") && !is_virtio(driver) && driver != "off") ||
        starts_with_any(name, {"scsi_hostadapter"})) {
      const bool network = name.starts_with("eth");
      if (is_virtio(driver))
        return false;
      if (!network && name != "scsi_hostadapter") { // one alias is enough, the others have no successor
        line = "# " + line;
        return true;
      }
      const std::string wanted =
          network ? (plan.virtio_net ? "virtio_net" : "e1000e") : (plan.virtio_disk ? "virtio_blk" : "ahci");
      if (driver == wanted)
        return false;
      line.replace(words[2].at, driver.size(), wanted);
      return true;
    }
    return false;
  }
  if ((command == "blacklist" || command == "install") && is_virtio(name)) {
    const bool off = command == "blacklist" || line.find("/bin/true") != std::string::npos ||
                     line.find("/bin/false") != std::string::npos;
    if (off)
      line = "# " + line;
    return off;
  }
  return false;
}

void edit(Draft& draft, const std::string& path, const std::string& reason,
          const std::function<void(std::string&)>& f) {
  const auto text = draft.try_read(path);
  if (!text)
    return;
  const std::string after = edit_lines(*text, [&](std::string& line, std::size_t) {
    f(line);
    return true;
  });
  if (after != *text)
    draft.write(path, after, reason);
}

std::vector<std::string> conf_files(const Draft& draft, const std::string& directory) {
  std::vector<std::string> files;
  for (const std::string& name : draft.list(directory))
    if (name.ends_with(".conf"))
      files.push_back(join_path(directory, name));
  return files;
}

} // namespace

void modprobe_step(const GuestInfo&, Draft& draft) {
  std::vector<std::string> files{"/etc/modprobe.conf", "/etc/modules.conf"};
  for (const std::string& path : conf_files(draft, "/etc/modprobe.d"))
    files.push_back(path);
  for (const std::string& path : files)
    edit(draft, path, "it tied network cards or disks to drivers of the old hardware, or kept virtio drivers out",
         [&](std::string& line) { modprobe_line(draft.plan(), line); });
  // SUSE's mkinitrd: drivers that it puts into the next initramfs.
  edit(draft, "/etc/sysconfig/kernel", "the next initramfs needs the drivers of the new hardware",
       [&](std::string& line) {
         if (!line.starts_with("INITRD_MODULES=\"") || line.back() != '"')
           return;
         std::string value = line.substr(16, line.size() - 17), out;
         for (const Word& word : split_words(value))
           if (!is_foreign_module(word.text) && !starts_with_any(word.text, {"xenblk", "xen-"}))
             out.append(out.empty() ? "" : " ").append(word.text);
         for (std::string_view module : {"virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net"})
           if ((" " + out + " ").find(" " + std::string(module) + " ") == std::string::npos)
             out.append(out.empty() ? "" : " ").append(module);
         line = "INITRD_MODULES=\"" + out + "\"";
       });
}

void module_lists_step(const GuestInfo&, Draft& draft) {
  std::vector<std::string> files{"/etc/modules"};
  for (const std::string& path : conf_files(draft, "/etc/modules-load.d"))
    files.push_back(path);
  for (const std::string& path : files)
    edit(draft, path, "the module works only under the old hypervisor; loading it would fail at every start",
         [](std::string& line) {
           const auto words = split_words(line);
           if (!words.empty() && is_foreign_module(words[0].text))
             line = "# " + line;
         });
}

} // namespace kvmport::linux_guest
