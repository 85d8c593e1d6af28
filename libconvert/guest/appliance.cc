// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/appliance.h"

#include "base/error.h"
#include "libconvert/guest/appliance_handle.h"
#include "libconvert/guest/assembly.h"
#include "libconvert/guest/filesystem_guestfs.h"
#include "libconvert/guest/inspect_devices.h"
#include "libconvert/guest/inspect_roots.h"
#include "libconvert/guest/inspect_system.h"
#include "libconvert/guest/linux/device_names.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <cerrno>
#include <set>

namespace kvmport {

struct Appliance::State final : GuestAssembly {
  State(const Machine& machine, const std::vector<NbdServer*>& disks, EventSink& event_sink, const StopToken& stop)
      : GuestAssembly(machine), sink(event_sink), handle(machine, disks, event_sink, stop) {}

  /// A filesystem that is, or will again be, mounted.
  struct Mounted {
    std::string guestfs, path, options;
  };

  void survey();
  void open_encrypted();
  bool open_container(const FoundDevice& container);
  void mount_root(const RootCandidate& root);
  void name_encrypted();
  GuestInfo inspect(const ApplianceOptions& wished);

  void mount(const BlockDevice& device, const std::string& path, const std::string& options,
             const std::string& type) override;
  GuestFilesystem& tree() override { return *filesystem; }
  std::string boot_code(int disk) override;
  bool is_open(const BlockDevice& container) const override {
    return opened.contains(found(container.source_name).appliance);
  }
  bool open_more() override;

  const FoundDevice& found(const std::string& source_name) const {
    return *std::ranges::find_if(devices, [&](const FoundDevice& d) { return d.device.source_name == source_name; });
  }

  EventSink& sink;
  ApplianceHandle handle;
  ApplianceOptions options;
  std::vector<FoundDevice> devices; ///< as info.devices
  std::set<std::string> opened;     ///< LUKS containers, by name in the appliance
  std::vector<Mounted> mounts;
  std::unique_ptr<GuestfsFilesystem> filesystem;
};

void Appliance::State::survey() {
  devices = survey_devices(handle, info.machine);
  info.devices.clear();
  for (const auto& one : devices)
    info.devices.push_back(one.device);
}

bool Appliance::State::open_container(const FoundDevice& container) {
  const BlockDevice& device = container.device;
  for (const auto& key : options.keys) {
    const BlockDevice* named = linux_guest::DeviceTranslator(info).find(key.selector);
    if (key.selector != "all" && key.selector != device.source_name &&
        !linux_guest::equal_nocase(key.selector, device.uuid) && (!named || named->source_name != device.source_name))
      continue;
    const std::string name = "luks-" + device.uuid;
    struct guestfs_cryptsetup_open_argv none {};
    if (GUESTFS(guestfs_cryptsetup_open_argv)(handle.get(), container.guestfs.c_str(), key.passphrase.c_str(),
                                              name.c_str(), &none) == 0)
      return true;
    const std::string why = handle.failure();
    if (key.selector != "all")
      throw Error("KEY_MISSING", "the passphrase given for " + device.source_name + " does not open it", why,
                  "give the right one with --key");
  }
  return false;
}

/// Opens what can be opened, until nothing new appears (volumes inside containers inside volumes).
void Appliance::State::open_encrypted() {
  for (bool again = true; again;) {
    again = false;
    for (const auto& container : devices) {
      if (container.device.type != "crypto_LUKS" || opened.contains(container.appliance))
        continue;
      if (open_container(container)) {
        opened.insert(container.appliance);
        again = true;
      }
    }
    if (again) {
      handle.script("mdadm -As --auto=yes --run; lvm vgchange -aay --sysinit; udevadm settle; true");
      survey();
    }
  }
}

void Appliance::State::mount(const BlockDevice& device, const std::string& path, const std::string& how,
                             const std::string& type) {
  const std::string& guestfs = found(device.source_name).guestfs;
  if (GUESTFS(guestfs_mount_options)(handle.get(), how.c_str(), guestfs.c_str(), path.c_str()) != 0) {
    const std::string why = handle.failure();
    const std::string log = handle.script("dmesg | grep -v audit | tail -n 3");
    const bool feature = log.find("unsupported") != std::string::npos;
    throw Error(feature ? "GUEST_UNSUPPORTED" : "GUEST_UNCLEAN",
                "the guest's filesystem " + device.source_name + " (" + device.type + ") cannot be mounted for writing",
                why + "; " + log,
                feature ? "the kernel of this host (/boot/vmlinuz-*) is too old for this filesystem"
                        : "repair it where the guest comes from (fsck), shut the guest down, and convert again");
  }
  mounts.push_back({guestfs, path, how});
  info.mounts.push_back({path, device.source_name, type.empty() ? device.type : type, how});
  if (filesystem)
    filesystem->mounted(path);
}

void Appliance::State::mount_root(const RootCandidate& root) {
  const BlockDevice& device = found(root.source_name).device;
  std::string how = "noatime";
  if (!root.subvolume.empty())
    how += ",subvol=" + root.subvolume;
  if (device.type == "xfs")
    how += ",nouuid";
  mount(device, "/", how, device.type);
  filesystem = std::make_unique<GuestfsFilesystem>(handle, std::vector<std::string>{"/"});
  info.root_device = root.source_name;
  const std::unique_ptr<struct guestfs_statvfs, void (*)(struct guestfs_statvfs*)> st(
      GUESTFS(guestfs_statvfs)(handle.get(), "/"), GUESTFS(guestfs_free_statvfs));
  constexpr std::int64_t read_only = 1; // ST_RDONLY
  if (st && (st->flag & read_only) != 0)
    throw Error("GUEST_UNCLEAN", "the guest's root filesystem " + root.source_name + " can only be mounted read-only",
                handle.script("dmesg | tail -n 3"), "repair it where the guest comes from (fsck), and convert again");
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

Appliance::Appliance(const Machine& machine, const std::vector<NbdServer*>& disks, EventSink& sink,
                     const StopToken& stop)
    : state_(std::make_unique<State>(machine, disks, sink, stop)) {}

Appliance::~Appliance() = default;

GuestInfo Appliance::State::inspect(const ApplianceOptions& wished) {
  options = wished;
  survey();
  refuse_hibernated();
  RootSearch search = find_roots(handle, devices);
  const auto encrypted = [&] {
    return std::ranges::any_of(
        devices, [&](const FoundDevice& d) { return d.device.type == "crypto_LUKS" && !opened.contains(d.appliance); });
  };
  const bool named = options.root.empty() || std::ranges::any_of(search.roots, [&](const RootCandidate& root) {
                       const BlockDevice* device = by_spec(options.root);
                       return device && device->source_name == root.source_name;
                     });
  // Opening takes seconds of key derivation: only when the system is not found without.
  if ((search.roots.empty() || !named) && !options.keys.empty() && encrypted()) {
    open_encrypted();
    refuse_hibernated();
    search = find_roots(handle, devices);
  }
  mount_root(choose_root(search, options));
  name_encrypted();
  mount_fstab();
  mount_boot_partitions();
  refuse_hibernated_files();
  refuse_full();
  read_system();
  for (const auto& problem : search.problems)
    info.notes.push_back("could not be looked at: " + problem);
  if (encrypted())
    info.notes.push_back("encrypted devices that the system does not start from were not opened");
  return info;
}

std::string Appliance::State::boot_code(int disk) {
  std::size_t got = 0;
  const std::string device = "/dev/sd" + disk_letters(static_cast<unsigned>(disk));
  const GuestfsText sector(GUESTFS(guestfs_pread_device)(handle.get(), device.c_str(), 440, 0, &got));
  return sector ? std::string(sector.get(), got) : std::string();
}

bool Appliance::State::open_more() {
  if (options.keys.empty())
    return false;
  open_encrypted();
  name_encrypted();
  return true;
}

GuestInfo Appliance::inspect(const ApplianceOptions& options) {
  return state_->inspect(options);
}

void Appliance::open_encrypted() {
  state_->open_encrypted();
}

GuestFilesystem& Appliance::filesystem() {
  return *state_->filesystem;
}

const ApplianceHandle& Appliance::handle() const {
  return state_->handle;
}

void Appliance::unmount() {
  State& s = *state_;
  if (GUESTFS(guestfs_umount_all)(s.handle.get()) != 0 || GUESTFS(guestfs_sync)(s.handle.get()) != 0)
    throw Error("APPLIANCE_FAILED", "the guest's filesystems could not be unmounted", s.handle.failure());
  s.filesystem->forget();
  // An array that was written stays marked as such for a moment.
  if (std::ranges::any_of(s.devices, [](const FoundDevice& d) { return d.kind.starts_with("raid"); }))
    s.handle.script("mdadm --wait-clean --scan; sync; true");
}

void Appliance::remount() {
  State& s = *state_;
  for (const auto& m : s.mounts)
    if (GUESTFS(guestfs_mount_options)(s.handle.get(), m.options.c_str(), m.guestfs.c_str(), m.path.c_str()) != 0)
      throw Error("APPLIANCE_FAILED", "the guest's filesystem " + m.path + " could not be mounted again",
                  s.handle.failure());
  s.filesystem->forget();
}

bool Appliance::can_forget_disks() const {
  const State& s = *state_;
  const auto known = [](const FoundDevice& d) {
    return d.kind == "disk" || d.kind == "part" || d.kind == "lvm" || d.kind == "crypt";
  };
  if (!std::ranges::all_of(s.devices, known))
    return false;
  const std::string targets = s.handle.script("dmsetup table 2>/dev/null | cut -d ' ' -f 4 | sort -u; true");
  for (const std::string& line : linux_guest::split_lines(targets)) {
    const std::string_view target = linux_guest::trim(line);
    if (!target.empty() && target != "linear" && target != "striped" && target != "crypt")
      return false;
  }
  return true;
}

void Appliance::forget_disks() {
  state_->handle.script("sync; for d in /dev/sd* /dev/dm-* /dev/nvme*; do [ -b $d ] && blockdev --flushbufs $d; done; "
                        "btrfs device scan --forget >/dev/null 2>&1; echo 3 > /proc/sys/vm/drop_caches; "
                        "btrfs device scan >/dev/null 2>&1; true");
}

void Appliance::shutdown() {
  state_->handle.shutdown();
}

} // namespace kvmport
