// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/assembly.h"

#include "base/error.h"
#include "libconvert/guest/filesystem_paths.h"
#include "libconvert/guest/inspect_system.h"
#include "libconvert/guest/kernels.h"
#include "libconvert/guest/linux/device_names.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>

namespace kvmport {
namespace {

constexpr std::uint64_t least_free = 2U << 20;
/// Signatures at the end of a swap file's first page that holds a memory image (kernel and uswsusp).
constexpr std::size_t swap_page = 4096;

std::string joined(const std::vector<std::string>& items, const char* separator) {
  std::string text;
  for (const auto& item : items)
    text += (text.empty() ? "" : separator) + item;
  return text;
}

Error hibernated(const std::string& where) {
  return {
      "GUEST_HIBERNATED", "the guest is hibernated: " + where + " holds a saved memory image",
      "on new hardware the image would be resumed over changed disks, or be lost with all unsaved work",
      "start the guest where it comes from, shut it down completely (not \"suspend to disk\"), and convert it then"};
}

} // namespace

const BlockDevice* GuestAssembly::by_source_name(const std::string& name) const {
  const auto it = std::ranges::find(info.devices, name, &BlockDevice::source_name);
  return it == info.devices.end() ? nullptr : &*it;
}

const BlockDevice* GuestAssembly::by_spec(const std::string& spec) const {
  const BlockDevice* device = linux_guest::DeviceTranslator(info).find(spec);
  if (!device && spec.starts_with("/dev/mapper/")) // volume groups are mapped there as well
    return by_source_name(volume_name(spec.substr(12)));
  return device;
}

void GuestAssembly::refuse_without_root(const RootSearch& search, const ApplianceOptions& options) const {
  std::vector<std::string> there, closed;
  for (const BlockDevice& device : info.devices) {
    if (device.type == "crypto_LUKS" && !is_open(device))
      closed.push_back(device.source_name);
    if (device.type == "BitLocker")
      throw Error("GUEST_UNSUPPORTED", "the guest is Windows with BitLocker (" + device.source_name + ")",
                  "only Linux guests are converted", "use --disk-only to copy its disks as they are");
    if (!device.type.empty())
      there.push_back(device.source_name + " (" + device.type + ")");
  }
  if (!search.windows.empty())
    throw Error("GUEST_UNSUPPORTED", "the guest is Windows (" + joined(search.windows, ", ") + ")",
                "only Linux guests are converted", "use --disk-only to copy its disks as they are");
  if (!closed.empty())
    throw Error("KEY_MISSING", "no operating system was found, but " + joined(closed, ", ") + " is encrypted",
                options.keys.empty() ? "no passphrase was given" : "no passphrase that was given opens it",
                "give its passphrase with --key");
  if (search.roots.empty() && !search.problems.empty())
    throw Error("GUEST_UNCLEAN", "no operating system was found; some filesystems could not be mounted",
                joined(search.problems, "; "), "repair them where the guest comes from (fsck), then convert again");
  throw Error("GUEST_NOT_FOUND", "no Linux system was found on the disks",
              there.empty() ? "no filesystem was found" : "found: " + joined(there, ", "),
              "use --disk-only to copy the disks as they are");
}

RootCandidate GuestAssembly::choose_root(const RootSearch& search, const ApplianceOptions& options) const {
  if (search.roots.empty())
    refuse_without_root(search, options);
  const auto label = [](const RootCandidate& root) {
    return root.source_name + (root.subvolume.empty() ? "" : ":" + root.subvolume);
  };
  std::vector<std::string> list;
  for (const auto& root : search.roots)
    list.push_back(label(root) + (root.name.empty() ? "" : " (" + root.name + ")"));
  if (!options.root.empty()) {
    const BlockDevice* named = by_spec(options.root);
    for (const auto& root : search.roots)
      if (label(root) == options.root || (named && named->source_name == root.source_name))
        return root;
    throw Error("GUEST_NOT_FOUND", "there is no operating system on " + options.root,
                list.empty() ? "none was found at all" : "found: " + joined(list, ", "),
                "name one of these with --root");
  }
  if (search.roots.size() == 1)
    return search.roots.front();
  // A copy of a system (backup, snapshot) has the fstab of the original, which names the original; but names that go by
  // the place of a disk name whatever is there.
  std::vector<RootCandidate> own;
  for (const auto& root : search.roots) {
    const bool tells = !root.fstab_root.empty() && !linux_guest::DeviceTranslator::depends_on_bus(root.fstab_root);
    const BlockDevice* named = tells ? by_spec(root.fstab_root) : nullptr;
    const std::string subvolume = linux_guest::glob_match("*subvol=*", root.fstab_options)
                                      ? root.fstab_options.substr(root.fstab_options.find("subvol=") + 7)
                                      : "";
    const std::string wanted = guest_path::clean("/" + subvolume.substr(0, subvolume.find(',')));
    const bool same_volume = subvolume.empty() || root.subvolume.empty() || wanted == "/" + root.subvolume;
    if (!named || (named->source_name == root.source_name && same_volume))
      own.push_back(root);
  }
  if (own.size() == 1)
    return own.front();
  throw Error("GUEST_AMBIGUOUS", "the disks hold several operating systems", joined(list, ", "),
              "name the one to convert with --root");
}

void GuestAssembly::mount_fstab() {
  const auto text = tree().try_read("/etc/fstab");
  if (!text)
    return;
  auto entries = parse_fstab(*text);
  std::erase_if(entries, [](const FstabEntry& e) { return !needed_mount(e); });
  std::ranges::stable_sort(entries, {}, [](const FstabEntry& e) { return std::ranges::count(e.path, '/'); });
  for (const auto& entry : entries) {
    const std::string path = guest_path::clean(entry.path);
    if (std::ranges::any_of(info.mounts, [&](const Mount& m) { return m.path == path; }))
      continue;
    const BlockDevice* found = by_spec(entry.spec);
    if (!found && open_more())
      found = by_spec(entry.spec);
    if (!found || !tree().is_directory(path)) {
      const bool vital = path == "/boot" || path == "/usr";
      const std::string what = "/etc/fstab line " + std::to_string(entry.line) + ": " + entry.spec + " for " + path +
                               (found ? " has no directory to be mounted on" : " is on none of the disks");
      if (vital && entry.options.find("noauto") == std::string::npos &&
          entry.options.find("nofail") == std::string::npos)
        throw Error("GUEST_INCOMPLETE", what, "without it the conversion would miss what the guest boots from",
                    "name all disks of the guest");
      info.notes.push_back(what);
      continue;
    }
    mount(*found, path, mount_options(entry), entry.type);
  }
}

/// Partitions that systemd finds by their type, without fstab: the ESP and the extended boot partition. Only those on
/// the disk of the root, or when there is but one.
void GuestAssembly::mount_boot_partitions() {
  const auto mounted = [&](const BlockDevice& device) -> const Mount* {
    const auto it =
        std::ranges::find_if(info.mounts, [&](const Mount& m) { return m.source_name == device.source_name; });
    return it == info.mounts.end() ? nullptr : &*it;
  };
  for (const BlockDevice& device : info.devices)
    if (is_extended_boot(device) && !mounted(device) && tree().is_directory("/boot") && tree().list("/boot").empty() &&
        std::ranges::none_of(info.mounts, [](const Mount& m) { return m.path == "/boot"; }))
      mount(device, "/boot", "noatime", device.type);
  std::vector<const BlockDevice*> esps;
  for (const BlockDevice& device : info.devices)
    if (is_esp(device) && device.type == "vfat") {
      if (const Mount* there = mounted(device)) {
        info.esp_path = there->path;
        return;
      }
      esps.push_back(&device);
    }
  // An fstab may mount one as /boot/efi although its partition type says otherwise.
  for (const auto& m : info.mounts)
    if (m.type == "vfat" && (m.path == "/boot/efi" || m.path == "/efi" || m.path == "/boot")) {
      info.esp_path = m.path;
      return;
    }
  const BlockDevice* root = by_source_name(info.root_device);
  if (esps.size() > 1 && root && root->disk >= 0)
    std::erase_if(esps, [&](const BlockDevice* esp) { return esp->disk != root->disk; });
  if (esps.size() != 1) {
    if (!esps.empty())
      info.notes.push_back("there are several EFI system partitions, and fstab names none: they were left alone");
    return;
  }
  const std::string place = place_for_esp(tree(), info.mounts);
  if (place.empty()) {
    info.notes.push_back("the EFI system partition " + esps.front()->source_name +
                         " is not in fstab, and no empty directory was there to mount it on");
    return;
  }
  mount(*esps.front(), place, "noatime", "vfat");
  info.esp_path = place;
  info.notes.push_back("the EFI system partition " + esps.front()->source_name + " is not in fstab: mounted on " +
                       place + " for the conversion");
}

void GuestAssembly::refuse_hibernated() const {
  for (const BlockDevice& device : info.devices)
    if (device.type == "swsuspend" || device.type == "swsupend")
      throw hibernated("the swap space " + device.source_name);
}

void GuestAssembly::refuse_hibernated_files() {
  const auto text = tree().try_read("/etc/fstab");
  if (!text)
    return;
  for (const auto& entry : parse_fstab(*text)) {
    if (entry.type != "swap" || entry.spec.starts_with("/dev/") || !entry.spec.starts_with('/') ||
        !tree().is_file(entry.spec))
      continue;
    const std::string page = tree().read_head(entry.spec, swap_page);
    const std::string_view signature = page.size() == swap_page ? std::string_view(page).substr(swap_page - 10) : "";
    for (const char* image : {"S1SUSPEND", "S2SUSPEND", "ULSUSPEND", "LINHIB0001"})
      if (signature.starts_with(image))
        throw hibernated("the swap file " + entry.spec);
  }
}

void GuestAssembly::refuse_full() {
  for (const char* path : {"/", "/boot"}) {
    const auto space = tree().free_space(path);
    if (space && space->bytes < least_free)
      throw Error("GUEST_NO_SPACE", "the guest's filesystem on " + space->filesystem + " is full",
                  std::to_string(space->bytes / 1024) + " KiB (or too few inodes) are free",
                  "free some space in the guest, then convert it again");
  }
}

void GuestAssembly::find_firmware() {
  const bool loader = !info.esp_path.empty() && has_efi_loader(tree(), info.esp_path);
  // Disks made for both (cloud images) have a BIOS boot partition as well: there the description decides.
  bool both = std::ranges::any_of(info.devices, is_bios_boot);
  const BlockDevice* root = by_source_name(info.root_device);
  if (loader && !both && root && root->table == "dos" && root->disk >= 0)
    both = boot_code(root->disk).find("GRUB") != std::string::npos;
  if (!loader)
    info.firmware = Firmware::bios;
  else if (both)
    info.firmware = info.machine.firmware == MachineFirmware::uefi ? Firmware::uefi : Firmware::bios;
  else
    info.firmware = Firmware::uefi;
}

void GuestAssembly::read_system() {
  read_identity(tree(), info);
  find_firmware();
  read_boot_loaders(tree(), info);
  info.kernels = find_kernels(tree(), {info.esp_path});
}

} // namespace kvmport
