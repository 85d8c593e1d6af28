// SPDX-License-Identifier: Apache-2.0
// The initramfs frameworks' own configuration. Written only when an initramfs lacked drivers: then the guest's next
// kernel update would lack them again.
#include "libconvert/guest/linux/steps.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>

namespace kvmport::linux_guest {
namespace {

constexpr const char* reason = "the next kernel update would make an initramfs without these drivers";
constexpr const char* head = "# The drivers of the virtual machine that this system was moved to.\n";

std::vector<std::string> drivers(const Plan& plan) {
  if (plan.virtio_disk)
    return {"virtio_pci", "virtio_blk", "virtio_scsi"};
  return {"ahci"};
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const auto& name : names)
    text += (text.empty() ? "" : " ") + name;
  return text;
}

std::string with_line_end(std::string text) {
  if (!text.empty() && !text.ends_with('\n'))
    text += '\n';
  return text;
}

/// Whether the guest has a program, wherever distributions put it.
bool has_program(const Draft& draft, const std::string& name) {
  for (const char* directory : {"/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/"})
    if (draft.exists(directory + name))
      return true;
  return false;
}

void initramfs_tools(Draft& draft, const std::vector<std::string>& names) {
  if (!draft.is_directory("/etc/initramfs-tools") || !has_program(draft, "mkinitramfs"))
    return;
  const std::string path = "/etc/initramfs-tools/modules";
  std::string text = with_line_end(draft.try_read(path).value_or(""));
  std::string more;
  for (const auto& name : names) {
    const auto lines = split_lines(text);
    if (std::ranges::none_of(lines, [&](const std::string& line) { return trim(line_body(line)) == name; }))
      more += name + "\n";
  }
  if (!more.empty())
    draft.write(path, text + head + more, reason);
}

void dracut(Draft& draft, const std::vector<std::string>& names) {
  if (!has_program(draft, "dracut"))
    return;
  if (draft.is_directory("/etc/dracut.conf.d") || !draft.exists("/etc/dracut.conf"))
    draft.write("/etc/dracut.conf.d/90-kvmport.conf", std::string(head) + "add_drivers+=\" " + joined(names) + " \"\n",
                reason);
  else
    draft.write("/etc/dracut.conf",
                with_line_end(*draft.try_read("/etc/dracut.conf")) + "add_drivers+=\" " + joined(names) + " \"\n",
                reason);
}

/// MODULES=(…) in mkinitcpio.conf; later versions read a directory as well, which keeps the file as it is.
void mkinitcpio(Draft& draft, const std::vector<std::string>& names) {
  const std::string path = "/etc/mkinitcpio.conf";
  if (!has_program(draft, "mkinitcpio"))
    return;
  if (draft.is_directory("/etc/mkinitcpio.conf.d")) {
    draft.write("/etc/mkinitcpio.conf.d/kvmport.conf", std::string(head) + "MODULES+=(" + joined(names) + ")\n",
                reason);
    return;
  }
  const auto text = draft.try_read(path);
  if (!text)
    return;
  draft.write(path,
              edit_lines(*text,
                         [&](std::string& line, std::size_t) {
                           if (line.starts_with("MODULES=(") && line.find(')') != std::string::npos)
                             line.insert(line.rfind(')'), (line == "MODULES=()" ? "" : " ") + joined(names));
                           else if (line.starts_with("MODULES=\"") && line.ends_with('"') && line.size() > 9)
                             line.insert(line.size() - 1, (line == "MODULES=\"\"" ? "" : " ") + joined(names));
                           return true;
                         }),
              reason);
}

void mkinitfs(Draft& draft) {
  const std::string path = "/etc/mkinitfs/mkinitfs.conf";
  const auto text = draft.try_read(path);
  if (!text || !draft.plan().virtio_disk || !has_program(draft, "mkinitfs"))
    return;
  draft.write(path,
              edit_lines(*text,
                         [](std::string& line, std::size_t) {
                           if (line.starts_with("features=\"") && line.ends_with('"') &&
                               line.find("virtio") == std::string::npos)
                             line.insert(line.size() - 1, " virtio");
                           return true;
                         }),
              reason);
}

void suse(Draft& draft, const std::vector<std::string>& names) {
  const std::string path = "/etc/sysconfig/kernel";
  const auto text = draft.try_read(path);
  if (!text)
    return;
  draft.write(path,
              edit_lines(*text,
                         [&](std::string& line, std::size_t) {
                           if (!line.starts_with("INITRD_MODULES=\"") || !line.ends_with('"'))
                             return true;
                           for (const auto& name : names)
                             if (line.find(name) == std::string::npos)
                               line.insert(line.size() - 1, " " + name);
                           return true;
                         }),
              reason);
}

} // namespace

void initramfs_config_step(const GuestInfo&, Draft& draft) {
  const auto& changes = draft.plan().changes;
  if (std::ranges::none_of(changes, [](const Change& c) { return c.step == "initramfs"; }))
    return;
  const auto names = drivers(draft.plan());
  initramfs_tools(draft, names);
  dracut(draft, names);
  mkinitcpio(draft, names);
  mkinitfs(draft);
  suse(draft, names);
}

} // namespace kvmport::linux_guest
