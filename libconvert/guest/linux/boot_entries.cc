// SPDX-License-Identifier: Apache-2.0
// Device names on kernel command lines, in what the boot loader reads and in what the guest's tools write it from.
#include "base/error.h"
#include "libconvert/guest/linux/boot_config.h"
#include "libconvert/guest/linux/device_names.h"
#include "libconvert/guest/linux/pe_sections.h"
#include "libconvert/guest/linux/steps.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>

namespace kvmport::linux_guest {

namespace {

void rewrite_names(const BootConfig& config, const DeviceTranslator& devices, bool initramfs_known, Draft& draft,
                   const std::string& reason) {
  edit_boot_config(config, draft, reason, [&](std::string& args, const KernelArgs& about) {
    const bool initrd = about.where == KernelArgs::Where::entry ? about.has_initrd : initramfs_known;
    args = devices.rewrite(args, initrd ? NameStyle::tag : NameStyle::kernel_tag,
                           config.path + " line " + std::to_string(about.line), draft);
  });
}

void note_grub_drives(const BootConfig& config, Draft& draft) {
  const auto text = draft.try_read(config.path);
  if (config.kind != BootConfigKind::grub2 || !text)
    return;
  for (char digit = '1'; digit <= '9'; digit++)
    if (text->find(std::string("set root='hd") + digit) != std::string::npos ||
        text->find(std::string("set root=(hd") + digit) != std::string::npos) {
      draft.note(config.path + " names disks by BIOS order (hd" + digit + "): that order is kept, so the lines stay");
      return;
    }
}

/// Whether a word of `text` is a name of the old hardware.
bool names_bus_device(std::string_view text) {
  for (const std::string& line : split_lines(text))
    for (const Word& word : split_words(line_body(line)))
      if (DeviceTranslator::depends_on_bus(word.text))
        return true;
  return false;
}

/// A unified kernel image carries its own command line; it is signed or measured, so it can't be edited.
void check_unified_kernel(const std::string& path, Draft& draft) {
  const auto image = draft.try_read(path);
  if (!image)
    return;
  const auto cmdline = pe_section(*image, ".cmdline");
  if (!cmdline)
    return;
  for (const Word& word : split_words(line_body(*cmdline)))
    for (std::size_t at = word.text.find("/dev/"); at != std::string_view::npos; at = word.text.find("/dev/", at + 1))
      if (DeviceTranslator::depends_on_bus(word.text.substr(at)))
        draft.warn(path + ": the command line inside this unified kernel image says " + std::string(word.text) +
                   ", a name of the old hardware, and can't be edited; rebuild the image with UUID= in "
                   "/etc/kernel/cmdline before the conversion");
}

} // namespace

void boot_entries_step(const GuestInfo& info, Draft& draft) {
  const std::vector<BootConfig> configs = find_boot_configs(info, draft);
  const std::vector<std::string> unified = find_unified_kernels(info, draft);
  const bool loader = std::any_of(configs.begin(), configs.end(),
                                  [](const BootConfig& c) { return c.kind != BootConfigKind::grub_env; });
  if (!loader && unified.empty())
    throw Error("GUEST_UNSUPPORTED", "no boot loader configuration was found in the guest",
                "looked for " + boot_config_places(),
                draft.exists("/etc/lilo.conf")
                    ? "LILO keeps its entries in disk sectors: install GRUB in the guest first"
                    : "use --disk-only to copy the disks without changes");
  const DeviceTranslator devices(info, draft.guest());
  for (const BootConfig& config : configs) {
    rewrite_names(config, devices, true, draft, "the kernel was told devices by names that change with the bus");
    note_grub_drives(config, draft);
  }
  for (const std::string& path : unified)
    check_unified_kernel(path, draft);
}

void cmdline_sources_step(const GuestInfo& info, Draft& draft) {
  const DeviceTranslator devices(info, draft.guest());
  const bool initramfs = info.kernels.empty() || std::any_of(info.kernels.begin(), info.kernels.end(),
                                                             [](const Kernel& k) { return !k.initramfs.empty(); });
  for (const BootConfig& config : find_cmdline_sources(draft)) {
    rewrite_names(config, devices, initramfs, draft,
                  "the next update of the boot menu would bring the old device names back");
    if (config.kind != BootConfigKind::shell_vars)
      continue;
    const auto text = draft.try_read(config.path);
    if (!text)
      continue;
    const std::string after = edit_lines(*text, [](std::string& line, std::size_t) {
      const std::string_view body = trim(line);
      if (body.starts_with("GRUB_DISABLE_LINUX_UUID=") && unquote(trim(body.substr(24))) == "true")
        line = "#" + line;
      return true;
    });
    if (after != *text)
      draft.write(config.path, after,
                  "with GRUB_DISABLE_LINUX_UUID the next update-grub would write root=/dev/… again");
  }
}

void device_map_step(const GuestInfo&, Draft& draft) {
  for (const char* path : {"/boot/grub/device.map", "/boot/grub2/device.map"})
    if (const auto text = draft.try_read(path)) {
      if (names_bus_device(*text))
        draft.rename(
            path, path + std::string(aside_suffix),
            "it maps BIOS drives to the old disks' names; grub-install finds the disks itself when it is gone");
    }
  if (const auto text = draft.try_read("/etc/default/grub_installdevice"); text && names_bus_device(*text))
    draft.note("/etc/default/grub_installdevice names the old disk; run yast2 bootloader in the guest once, so that "
               "updates of GRUB install it on the new one");
  const auto debconf = draft.try_read("/var/cache/debconf/config.dat");
  const std::size_t at = debconf ? debconf->find("Name: grub-pc/install_devices\n") : std::string::npos;
  if (at == std::string::npos)
    return;
  const std::size_t value = debconf->find("\nValue: ", at), end = debconf->find("\n\n", at);
  if (value < end && debconf->find("/dev/", value) < end)
    draft.note("Debian's grub-pc package remembers the old disk for its own updates; run dpkg-reconfigure grub-pc in "
               "the guest once");
}

} // namespace kvmport::linux_guest
