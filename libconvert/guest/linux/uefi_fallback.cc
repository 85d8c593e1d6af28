// SPDX-License-Identifier: Apache-2.0
// The removable-media boot path EFI/BOOT/BOOTX64.EFI (UEFI 2.10, section 3.5.1.1). The firmware's boot entries do not
// travel with the disks, so without this file the new firmware finds nothing to boot.
//
// A shim loads its second stage, grubx64.efi, from its own directory (shim 15, README.fallback); GRUB images of the
// distributions have the vendor's directory compiled in as prefix ("/EFI/debian"), while others read grub.cfg beside
// themselves. Loader, second stage and grub.cfg are therefore copied together, and both ways find a grub.cfg. shim's
// fallback program fbx64.efi is left out on purpose: with it, shim would write boot entries and reset the machine
// first.
#include "libconvert/guest/linux/boot_config.h"
#include "libconvert/guest/linux/steps.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <array>

namespace kvmport::linux_guest {

namespace {

struct EfiArch {
  std::string_view machine, suffix; ///< "x86_64", "x64"
};
constexpr std::array<EfiArch, 3> efi_archs{{{"x86_64", "x64"}, {"aarch64", "aa64"}, {"i686", "ia32"}}};

std::string_view efi_suffix(const GuestInfo& info) {
  for (const EfiArch& arch : efi_archs)
    if (info.arch == arch.machine)
      return arch.suffix;
  return "x64";
}

/// A boot loader on the ESP: the program that the firmware starts and what it needs beside it.
struct Loader {
  std::string directory;                                   ///< EFI/VENDOR
  std::string first;                                       ///< program to become BOOTX64.EFI
  std::vector<std::pair<std::string, std::string>> beside; ///< path → name in EFI/BOOT
  bool shim = false, grub = false;
};

std::optional<Loader> loader_in(const Draft& draft, const std::string& directory, const std::string& suffix) {
  Loader loader;
  loader.directory = directory;
  const std::string shim = find_nocase(draft, directory, "shim" + suffix + ".efi");
  const std::string grub = find_nocase(draft, directory, "grub" + suffix + ".efi");
  const std::string manager = find_nocase(draft, directory, "mm" + suffix + ".efi");
  const std::string config = find_nocase(draft, directory, "grub.cfg");
  if (!shim.empty() && !grub.empty()) {
    loader.shim = true;
    loader.first = shim;
    loader.beside.emplace_back(grub, "grub" + suffix + ".efi");
    if (!manager.empty())
      loader.beside.emplace_back(manager, "mm" + suffix + ".efi");
  } else if (!grub.empty()) {
    loader.first = grub;
  } else {
    const std::string systemd = find_nocase(draft, directory, "systemd-boot" + suffix + ".efi");
    const std::string refind = find_nocase(draft, directory, "refind_" + suffix + ".efi");
    if (systemd.empty() && refind.empty())
      return std::nullopt;
    loader.first = systemd.empty() ? refind : systemd;
    if (const std::string own = find_nocase(draft, directory, "refind.conf"); systemd.empty() && !own.empty())
      loader.beside.emplace_back(own, "refind.conf");
    return loader;
  }
  loader.grub = true;
  if (!config.empty())
    loader.beside.emplace_back(config, "grub.cfg");
  return loader;
}

/// Directory names that may belong to the system, best guess first.
std::vector<std::string> vendor_names(const GuestInfo& info) {
  std::vector<std::string> names{info.distro};
  if (info.distro == "rhel" || info.distro == "redhat")
    names.emplace_back("redhat");
  if (info.distro.starts_with("opensuse"))
    names.emplace_back("opensuse");
  if (info.distro == "amzn")
    names.emplace_back("amzn");
  if (info.distro == "ol")
    names.emplace_back("redhat");
  names.insert(names.end(), info.like.begin(), info.like.end());
  return names;
}

std::optional<Loader> choose(const GuestInfo& info, std::vector<Loader> loaders, Draft& draft) {
  if (loaders.empty())
    return std::nullopt;
  for (const std::string& vendor : vendor_names(info))
    for (Loader& loader : loaders)
      if (equal_nocase(base_name(loader.directory), vendor))
        return std::move(loader);
  // GRUB that comes with a configuration is in use; a left-over directory often has none.
  std::stable_sort(loaders.begin(), loaders.end(), [](const Loader& a, const Loader& b) {
    const auto rank = [](const Loader& l) { return (l.grub ? 2 : 0) + (l.beside.empty() ? 0 : 1); };
    return rank(a) > rank(b);
  });
  if (loaders.size() > 1) {
    std::string names;
    for (const Loader& loader : loaders)
      names += (names.empty() ? "" : ", ") + std::string(base_name(loader.directory));
    draft.warn("several boot loaders are on the EFI system partition (" + names + "); the fallback loader is made of " +
               std::string(base_name(loaders[0].directory)));
  }
  return std::move(loaders[0]);
}

void make_fallback(const GuestInfo& info, const std::string& esp, Draft& draft) {
  const std::string suffix(efi_suffix(info));
  std::string upper = suffix;
  std::transform(upper.begin(), upper.end(), upper.begin(), [](unsigned char c) { return std::toupper(c); });
  const std::string name = "BOOT" + upper + ".EFI";
  if (!find_nocase(draft, esp, "EFI/BOOT/" + name).empty())
    return;
  const std::string efi = find_nocase(draft, esp, "EFI");
  std::vector<Loader> loaders;
  for (const std::string& vendor : draft.list(efi))
    if (!equal_nocase(vendor, "BOOT"))
      if (auto loader = loader_in(draft, join_path(efi, vendor), suffix))
        loaders.push_back(std::move(*loader));
  const auto loader = choose(info, std::move(loaders), draft);
  if (!loader) {
    draft.warn("the EFI system partition has no " + name +
               " and no loader to make it of (shim, GRUB, systemd-boot); the firmware may find nothing to boot");
    return;
  }
  std::string boot = find_nocase(draft, efi, "BOOT");
  if (boot.empty()) {
    boot = join_path(efi, "BOOT");
    draft.make_directories(boot, "the directory that firmware without boot entries looks into");
  }
  const std::string what = loader->shim   ? "shim, which starts GRUB from its own directory"
                           : loader->grub ? "GRUB"
                                          : "the system's boot loader";
  draft.copy(loader->first, join_path(boot, name),
             "the new firmware has no boot entry for this system and starts only EFI/BOOT/" + name + ": a copy of " +
                 what);
  for (const auto& [from, to] : loader->beside)
    if (find_nocase(draft, boot, to).empty())
      draft.copy(from, join_path(boot, to), "EFI/BOOT/" + name + " needs it in its own directory");
}

} // namespace

void uefi_fallback_step(const GuestInfo& info, Draft& draft) {
  if (info.firmware != Firmware::uefi)
    return;
  const std::vector<std::string> esps = esp_directories(info, draft);
  if (esps.empty()) {
    draft.warn("the machine boots by UEFI, but no EFI system partition is mounted; the fallback loader "
               "EFI/BOOT/BOOTX64.EFI could not be checked");
    return;
  }
  make_fallback(info, esps.front(), draft);
}

} // namespace kvmport::linux_guest
