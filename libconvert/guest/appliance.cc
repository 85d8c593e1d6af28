// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/appliance.h"

#include "base/error.h"
#include "libconvert/guest/appliance_handle.h"
#include "libconvert/guest/filesystem_guestfs.h"
#include "libconvert/guest/filesystem_paths.h"
#include "libconvert/guest/inspect_devices.h"
#include "libconvert/guest/inspect_roots.h"
#include "libconvert/guest/inspect_system.h"
#include "libconvert/guest/kernels.h"
#include "libconvert/guest/linux/device_names.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <cerrno>
#include <set>

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

struct Appliance::State {
  State(const Machine& machine, const std::vector<NbdServer*>& disks, EventSink& event_sink, const StopToken& stop)
      : sink(event_sink), handle(machine, disks, event_sink, stop) {
    info.machine = machine;
  }

  /// A filesystem that is, or will again be, mounted.
  struct Mounted {
    std::string guestfs, path, options;
  };

  void survey();
  void open_encrypted(const std::vector<Key>& keys);
  bool open_container(const FoundDevice& container, const std::vector<Key>& keys);
  RootCandidate choose_root(const RootSearch& search, const ApplianceOptions& options);
  [[noreturn]] void refuse_without_root(const RootSearch& search, const ApplianceOptions& options) const;
  void mount(const FoundDevice& found, const std::string& path, const std::string& options, const std::string& type);
  void mount_root(const RootCandidate& root);
  void mount_fstab(const ApplianceOptions& options);
  void mount_boot_partitions();
  void refuse_hibernated() const;
  void refuse_hibernated_files() const;
  void refuse_full() const;
  void name_encrypted();
  void find_firmware();

  const FoundDevice* by_source_name(const std::string& name) const {
    const auto it = std::ranges::find_if(devices, [&](const FoundDevice& d) { return d.device.source_name == name; });
    return it == devices.end() ? nullptr : &*it;
  }
  const FoundDevice* by_spec(const std::string& spec) const {
    const BlockDevice* device = linux_guest::DeviceTranslator(info).find(spec);
    if (!device && spec.starts_with("/dev/mapper/")) // volume groups are mapped there as well
      return by_source_name(volume_name(spec.substr(12)));
    return device ? by_source_name(device->source_name) : nullptr;
  }

  EventSink& sink;
  ApplianceHandle handle;
  GuestInfo info;
  std::vector<FoundDevice> devices;
  std::set<std::string> opened; ///< LUKS containers, by name in the appliance
  std::vector<Mounted> mounts;
  std::unique_ptr<GuestfsFilesystem> filesystem;
};

void Appliance::State::survey() {
  devices = survey_devices(handle, info.machine);
  info.devices.clear();
  for (const auto& found : devices)
    info.devices.push_back(found.device);
}

bool Appliance::State::open_container(const FoundDevice& container, const std::vector<Key>& keys) {
  const BlockDevice& device = container.device;
  for (const auto& key : keys) {
    const BlockDevice* named = linux_guest::DeviceTranslator(info).find(key.selector);
    if (key.selector != "all" && key.selector != device.source_name &&
        !linux_guest::equal_nocase(key.selector, device.uuid) && (!named || named->source_name != device.source_name))
      continue;
    const std::string name = "luks-" + device.uuid;
    struct guestfs_cryptsetup_open_argv none {};
    if (::guestfs_cryptsetup_open_argv(handle.get(), container.guestfs.c_str(), key.passphrase.c_str(), name.c_str(),
                                       &none) == 0)
      return true;
    const std::string why = handle.failure();
    if (key.selector != "all")
      throw Error("KEY_MISSING", "the passphrase given for " + device.source_name + " does not open it", why,
                  "give the right one with --key");
  }
  return false;
}

/// Opens what can be opened, until nothing new appears (volumes inside containers inside volumes).
void Appliance::State::open_encrypted(const std::vector<Key>& keys) {
  for (bool again = true; again;) {
    again = false;
    for (const auto& found : devices) {
      if (found.device.type != "crypto_LUKS" || opened.contains(found.appliance))
        continue;
      if (open_container(found, keys)) {
        opened.insert(found.appliance);
        again = true;
      }
    }
    if (again) {
      handle.script("mdadm -As --auto=yes --run; lvm vgchange -aay --sysinit; udevadm settle; true");
      survey();
    }
  }
}

void Appliance::State::refuse_without_root(const RootSearch& search, const ApplianceOptions& options) const {
  std::vector<std::string> there, closed;
  for (const auto& found : devices) {
    if (found.device.type == "crypto_LUKS" && !opened.contains(found.appliance))
      closed.push_back(found.device.source_name);
    if (found.device.type == "BitLocker")
      throw Error("GUEST_UNSUPPORTED", "the guest is Windows with BitLocker (" + found.device.source_name + ")",
                  "only Linux guests are converted", "use --disk-only to copy its disks as they are");
    if (!found.device.type.empty())
      there.push_back(found.device.source_name + " (" + found.device.type + ")");
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

RootCandidate Appliance::State::choose_root(const RootSearch& search, const ApplianceOptions& options) {
  const auto label = [](const RootCandidate& root) {
    return root.source_name + (root.subvolume.empty() ? "" : ":" + root.subvolume);
  };
  std::vector<std::string> list;
  for (const auto& root : search.roots)
    list.push_back(label(root) + (root.name.empty() ? "" : " (" + root.name + ")"));
  if (!options.root.empty()) {
    const FoundDevice* named = by_spec(options.root);
    for (const auto& root : search.roots)
      if (label(root) == options.root || (named && named->device.source_name == root.source_name))
        return root;
    throw Error("GUEST_NOT_FOUND", "there is no operating system on " + options.root,
                list.empty() ? "none was found at all" : "found: " + joined(list, ", "),
                "name one of these with --root");
  }
  if (search.roots.size() == 1)
    return search.roots.front();
  // A copy of a system (backup, snapshot) has the fstab of the original, which names the original.
  std::vector<RootCandidate> own;
  for (const auto& root : search.roots) {
    const FoundDevice* named = root.fstab_root.empty() ? nullptr : by_spec(root.fstab_root);
    const std::string subvolume = linux_guest::glob_match("*subvol=*", root.fstab_options)
                                      ? root.fstab_options.substr(root.fstab_options.find("subvol=") + 7)
                                      : "";
    const std::string wanted = guest_path::clean("/" + subvolume.substr(0, subvolume.find(',')));
    const bool same_volume = subvolume.empty() || root.subvolume.empty() || wanted == "/" + root.subvolume;
    if (!named || (named->appliance == root.appliance && same_volume))
      own.push_back(root);
  }
  if (own.size() == 1)
    return own.front();
  throw Error("GUEST_AMBIGUOUS", "the disks hold several operating systems", joined(list, ", "),
              "name the one to convert with --root");
}

void Appliance::State::mount(const FoundDevice& found, const std::string& path, const std::string& options,
                             const std::string& type) {
  if (::guestfs_mount_options(handle.get(), options.c_str(), found.guestfs.c_str(), path.c_str()) != 0) {
    const std::string why = handle.failure();
    const std::string log = handle.script("dmesg | grep -v audit | tail -n 3");
    const bool feature = log.find("unsupported") != std::string::npos;
    throw Error(feature ? "GUEST_UNSUPPORTED" : "GUEST_UNCLEAN",
                "the guest's filesystem " + found.device.source_name + " (" + found.device.type +
                    ") cannot be mounted for writing",
                why + "; " + log,
                feature ? "the kernel of this host (/boot/vmlinuz-*) is too old for this filesystem"
                        : "repair it where the guest comes from (fsck), shut the guest down, and convert again");
  }
  mounts.push_back({found.guestfs, path, options});
  info.mounts.push_back({path, found.device.source_name, type.empty() ? found.device.type : type, options});
  if (filesystem)
    filesystem->mounted(path);
}

void Appliance::State::mount_root(const RootCandidate& root) {
  const FoundDevice* found = by_source_name(root.source_name);
  std::string options = "noatime";
  if (!root.subvolume.empty())
    options += ",subvol=" + root.subvolume;
  if (found->device.type == "xfs")
    options += ",nouuid";
  mount(*found, "/", options, found->device.type);
  filesystem = std::make_unique<GuestfsFilesystem>(handle, std::vector<std::string>{"/"});
  info.root_device = root.source_name;
  const std::unique_ptr<struct guestfs_statvfs, void (*)(struct guestfs_statvfs*)> st(
      ::guestfs_statvfs(handle.get(), "/"), ::guestfs_free_statvfs);
  constexpr std::int64_t read_only = 1; // ST_RDONLY
  if (st && (st->flag & read_only) != 0)
    throw Error("GUEST_UNCLEAN", "the guest's root filesystem " + root.source_name + " can only be mounted read-only",
                handle.script("dmesg | tail -n 3"), "repair it where the guest comes from (fsck), and convert again");
}

void Appliance::State::mount_fstab(const ApplianceOptions& options) {
  const auto text = filesystem->try_read("/etc/fstab");
  if (!text)
    return;
  auto entries = parse_fstab(*text);
  std::erase_if(entries, [](const FstabEntry& e) { return !needed_mount(e); });
  std::ranges::stable_sort(entries, {}, [](const FstabEntry& e) { return std::ranges::count(e.path, '/'); });
  for (const auto& entry : entries) {
    const std::string path = guest_path::clean(entry.path);
    if (std::ranges::any_of(info.mounts, [&](const Mount& m) { return m.path == path; }))
      continue;
    const FoundDevice* found = by_spec(entry.spec);
    if (!found && !options.keys.empty()) {
      open_encrypted(options.keys);
      name_encrypted();
      found = by_spec(entry.spec);
    }
    if (!found || !filesystem->is_directory(path)) {
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
void Appliance::State::mount_boot_partitions() {
  const auto mounted = [&](const BlockDevice& device) -> const Mount* {
    const auto it =
        std::ranges::find_if(info.mounts, [&](const Mount& m) { return m.source_name == device.source_name; });
    return it == info.mounts.end() ? nullptr : &*it;
  };
  for (const auto& found : devices)
    if (is_extended_boot(found.device) && !mounted(found.device) && filesystem->is_directory("/boot") &&
        filesystem->list("/boot").empty() &&
        std::ranges::none_of(info.mounts, [](const Mount& m) { return m.path == "/boot"; }))
      mount(found, "/boot", "noatime", found.device.type);
  std::vector<const FoundDevice*> esps;
  for (const auto& found : devices)
    if (is_esp(found.device) && found.device.type == "vfat") {
      if (const Mount* there = mounted(found.device)) {
        info.esp_path = there->path;
        return;
      }
      esps.push_back(&found);
    }
  // An fstab may mount one as /boot/efi although its partition type says otherwise.
  for (const auto& m : info.mounts)
    if (m.type == "vfat" && (m.path == "/boot/efi" || m.path == "/efi" || m.path == "/boot")) {
      info.esp_path = m.path;
      return;
    }
  const FoundDevice* root = by_source_name(info.root_device);
  if (esps.size() > 1 && root && root->device.disk >= 0)
    std::erase_if(esps, [&](const FoundDevice* esp) { return esp->device.disk != root->device.disk; });
  if (esps.size() != 1) {
    if (!esps.empty())
      info.notes.push_back("there are several EFI system partitions, and fstab names none: they were left alone");
    return;
  }
  const std::string place = place_for_esp(*filesystem, info.mounts);
  if (place.empty()) {
    info.notes.push_back("the EFI system partition " + esps.front()->device.source_name +
                         " is not in fstab, and no empty directory was there to mount it on");
    return;
  }
  mount(*esps.front(), place, "noatime", "vfat");
  info.esp_path = place;
  info.notes.push_back("the EFI system partition " + esps.front()->device.source_name +
                       " is not in fstab: mounted on " + place + " for the conversion");
}

void Appliance::State::refuse_hibernated() const {
  for (const auto& found : devices)
    if (found.device.type == "swsuspend" || found.device.type == "swsupend")
      throw hibernated("the swap space " + found.device.source_name);
}

void Appliance::State::refuse_hibernated_files() const {
  const auto text = filesystem->try_read("/etc/fstab");
  if (!text)
    return;
  for (const auto& entry : parse_fstab(*text)) {
    if (entry.type != "swap" || entry.spec.starts_with("/dev/") || !entry.spec.starts_with('/') ||
        !filesystem->is_file(entry.spec))
      continue;
    const std::string page = filesystem->read_head(entry.spec, swap_page);
    const std::string_view signature = page.size() == swap_page ? std::string_view(page).substr(swap_page - 10) : "";
    for (const char* image : {"S1SUSPEND", "S2SUSPEND", "ULSUSPEND", "LINHIB0001"})
      if (signature.starts_with(image))
        throw hibernated("the swap file " + entry.spec);
  }
}

void Appliance::State::refuse_full() const {
  for (const char* path : {"/", "/boot"}) {
    const auto space = filesystem->free_space(path);
    if (space && space->bytes < least_free)
      throw Error("GUEST_NO_SPACE", "the guest's filesystem on " + space->filesystem + " is full",
                  std::to_string(space->bytes / 1024) + " KiB (or too few inodes) are free",
                  "free some space in the guest, then convert it again");
  }
}

/// Opened containers get the names that the guest's crypttab gives them.
void Appliance::State::name_encrypted() {
  for (std::size_t i = 0; i < devices.size(); i++) {
    if (devices[i].kind != "crypt")
      continue;
    const std::string own = devices[i].device.source_name;
    for (const auto& container : devices) {
      if (container.device.type != "crypto_LUKS" || own != "/dev/mapper/luks-" + container.device.uuid)
        continue;
      const std::string name = crypttab_name(*filesystem, info, container.device);
      if (name.empty())
        continue;
      for (auto& mounted : info.mounts)
        if (mounted.source_name == own)
          mounted.source_name = "/dev/mapper/" + name;
      if (info.root_device == own)
        info.root_device = "/dev/mapper/" + name;
      devices[i].device.source_name = "/dev/mapper/" + name;
      info.devices[i].source_name = "/dev/mapper/" + name;
    }
  }
}

void Appliance::State::find_firmware() {
  const bool loader = !info.esp_path.empty() && has_efi_loader(*filesystem, info.esp_path);
  // Disks made for both (cloud images) have a BIOS boot partition as well: there the description decides.
  bool both = std::ranges::any_of(devices, [](const FoundDevice& d) { return is_bios_boot(d.device); });
  const FoundDevice* root = by_source_name(info.root_device);
  if (loader && !both && root && root->table == "dos" && root->device.disk >= 0) {
    std::size_t got = 0;
    const std::string disk = root->appliance.substr(0, root->appliance.find_last_not_of("0123456789") + 1);
    const GuestfsText sector(::guestfs_pread_device(handle.get(), disk.c_str(), 440, 0, &got));
    both = sector && std::string_view(sector.get(), got).find("GRUB") != std::string_view::npos;
  }
  if (!loader)
    info.firmware = Firmware::bios;
  else if (both)
    info.firmware = info.machine.firmware == MachineFirmware::uefi ? Firmware::uefi : Firmware::bios;
  else
    info.firmware = Firmware::uefi;
}

Appliance::Appliance(const Machine& machine, const std::vector<NbdServer*>& disks, EventSink& sink,
                     const StopToken& stop)
    : state_(std::make_unique<State>(machine, disks, sink, stop)) {}

Appliance::~Appliance() = default;

GuestInfo Appliance::inspect(const ApplianceOptions& options) {
  State& s = *state_;
  s.survey();
  s.refuse_hibernated();
  RootSearch search = find_roots(s.handle, s.devices);
  const auto encrypted = [&] {
    return std::ranges::any_of(s.devices, [&](const FoundDevice& d) {
      return d.device.type == "crypto_LUKS" && !s.opened.contains(d.appliance);
    });
  };
  const bool named = options.root.empty() || std::ranges::any_of(search.roots, [&](const RootCandidate& root) {
                       const FoundDevice* device = s.by_spec(options.root);
                       return device && device->appliance == root.appliance;
                     });
  // Opening takes seconds of key derivation: only when the system is not found without.
  if ((search.roots.empty() || !named) && !options.keys.empty() && encrypted()) {
    s.open_encrypted(options.keys);
    s.refuse_hibernated();
    search = find_roots(s.handle, s.devices);
  }
  if (search.roots.empty())
    s.refuse_without_root(search, options);
  s.mount_root(s.choose_root(search, options));
  s.name_encrypted();
  s.mount_fstab(options);
  s.mount_boot_partitions();
  s.refuse_hibernated_files();
  s.refuse_full();
  read_identity(*s.filesystem, s.info);
  s.find_firmware();
  s.info.kernels = find_kernels(*s.filesystem, {s.info.esp_path});
  for (const auto& problem : search.problems)
    s.info.notes.push_back("could not be looked at: " + problem);
  if (encrypted())
    s.info.notes.push_back("encrypted devices that the system does not start from were not opened");
  return s.info;
}

GuestFilesystem& Appliance::filesystem() {
  return *state_->filesystem;
}

void Appliance::unmount() {
  State& s = *state_;
  if (::guestfs_umount_all(s.handle.get()) != 0 || ::guestfs_sync(s.handle.get()) != 0)
    throw Error("APPLIANCE_FAILED", "the guest's filesystems could not be unmounted", s.handle.failure());
  s.filesystem->forget();
  // An array that was written stays marked as such for a moment.
  if (std::ranges::any_of(s.devices, [](const FoundDevice& d) { return d.kind.starts_with("raid"); }))
    s.handle.script("mdadm --wait-clean --scan; sync; true");
}

void Appliance::remount() {
  State& s = *state_;
  for (const auto& m : s.mounts)
    if (::guestfs_mount_options(s.handle.get(), m.options.c_str(), m.guestfs.c_str(), m.path.c_str()) != 0)
      throw Error("APPLIANCE_FAILED", "the guest's filesystem " + m.path + " could not be mounted again",
                  s.handle.failure());
  s.filesystem->forget();
}

void Appliance::shutdown() {
  state_->handle.shutdown();
}

} // namespace kvmport
