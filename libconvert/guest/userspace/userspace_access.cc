// SPDX-License-Identifier: Apache-2.0
// The plain case, without an appliance: one Linux system on ext2/3/4 partitions, all of them clean, BIOS boot. Whatever
// is not plain is left to the appliance, which also knows how to refuse it.
#include "formats/partitions.h"
#include "libconvert/guest/access.h"
#include "libconvert/guest/filesystem_paths.h"
#include "libconvert/guest/inspect_system.h"
#include "libconvert/guest/kernels.h"
#include "libconvert/guest/linux/device_names.h"
#include "libconvert/guest/userspace/volumes_filesystem.h"

#include <algorithm>
#include <cctype>
#include <fmt/format.h>

namespace kvmport {
namespace {

constexpr std::uint64_t least_free = 2U << 20;
constexpr std::size_t swap_page = 4096;

bool is_ext(const std::string& type) {
  return type == "ext2" || type == "ext3" || type == "ext4";
}

/// A disk or partition and where it lies.
struct FoundRange {
  BlockDevice device;
  Range range;
};

/// Thrown inside this file only: the guest is left to the appliance.
struct NotPlain {
  std::string why;
};

class UserspaceAccess final : public GuestAccess {
 public:
  UserspaceAccess(const Machine& machine, std::vector<Overlay*> disks, const ApplianceOptions& options)
      : disks_(std::move(disks)) {
    info_.machine = machine;
    survey();
    const FoundRange& root = find_root();
    if (!options.root.empty()) {
      const BlockDevice* named = linux_guest::DeviceTranslator(info_).find(options.root);
      if (!named || named->source_name != root.device.source_name)
        throw NotPlain{"--root names another device than the one system that was found"};
    }
    info_.root_device = root.device.source_name;
    info_.mounts.push_back({"/", root.device.source_name, root.device.type, ""});
    mount_all();
    add_fstab_mounts();
    look_around();
  }

  const GuestInfo& info() const override { return info_; }
  GuestFilesystem& filesystem() override { return *filesystem_; }

  void continue_on(const std::vector<Overlay*>& next) override {
    filesystem_->flush();
    disks_ = next;
    mount_all();
  }

  void finish() override {
    filesystem_->flush();
    filesystem_.reset();
  }

 private:
  void survey() {
    for (std::size_t i = 0; i < disks_.size(); i++) {
      const MachineDisk& disk = info_.machine.disks[i];
      const DiskPartitions table = read_partitions(*disks_[i], disk.logical_sector);
      FoundRange whole;
      whole.range = {0, disks_[i]->size()};
      whole.device.disk = static_cast<int>(i);
      whole.device.source_name = "/dev/" + disk.source_name;
      whole.device.size = whole.range.length;
      if (table.kind.empty())
        describe(whole);
      found_.push_back(whole);
      if (!table.notes.empty())
        throw NotPlain{table.notes.front()};
      for (const DiskPartition& partition : table.partitions)
        add_partition(whole, partition);
    }
    for (const auto& found : found_)
      info_.devices.push_back(found.device);
  }

  void add_partition(const FoundRange& disk, const DiskPartition& partition) {
    FoundRange found;
    found.range = partition.range;
    found.device.disk = disk.device.disk;
    found.device.partition = partition.number;
    const std::string& name = disk.device.source_name;
    found.device.source_name = name + (std::isdigit(static_cast<unsigned char>(name.back())) != 0 ? "p" : "") +
                               std::to_string(partition.number);
    found.device.part_uuid = partition.uuid;
    found.device.part_label = partition.label;
    found.device.part_type = partition.type;
    found.device.size = partition.range.length;
    describe(found);
    if (is_esp(found.device))
      throw NotPlain{"it has an EFI system partition"};
    found_.push_back(std::move(found));
  }

  void describe(FoundRange& found) const {
    const Content content = probe_content(*disks_[static_cast<std::size_t>(found.device.disk)], found.range);
    found.device.type = content.type;
    found.device.uuid = content.uuid;
    found.device.label = content.label;
    if (!is_ext(content.type) && !content.type.empty() && content.type != "swap" && content.type != "crypto_LUKS")
      throw NotPlain{found.device.source_name + " holds " + content.type};
  }

  std::unique_ptr<Volume> open(const FoundRange& found) const {
    std::string why_not;
    auto volume = open_ext4_volume(*disks_[static_cast<std::size_t>(found.device.disk)], found.range, why_not);
    if (!volume)
      throw NotPlain{found.device.source_name + ": " + why_not};
    return volume;
  }

  /// The one ext filesystem that holds a system.
  const FoundRange& find_root() const {
    const FoundRange* root = nullptr;
    for (const auto& found : found_) {
      if (!is_ext(found.device.type))
        continue;
      const auto volume = open(found);
      const auto there = [&](const char* path) { return volume->lstat(path).has_value(); };
      const bool system = (there("/etc/os-release") || there("/usr/lib/os-release")) && there("/etc/fstab") &&
                          (there("/sbin") || there("/usr/sbin"));
      if (!system && (there("/etc") && there("/usr")))
        throw NotPlain{found.device.source_name + " may hold a system of an unknown kind"};
      if (system && root)
        throw NotPlain{"several systems were found"};
      if (system)
        root = &found;
    }
    if (!root)
      throw NotPlain{"no system was found on an ext filesystem"};
    return *root;
  }

  const FoundRange* by_source_name(const std::string& name) const {
    const auto it = std::ranges::find_if(found_, [&](const FoundRange& f) { return f.device.source_name == name; });
    return it == found_.end() ? nullptr : &*it;
  }

  void mount_all() {
    filesystem_ = std::make_unique<VolumesFilesystem>();
    for (const auto& mount : info_.mounts)
      filesystem_->mount(mount.path, open(*by_source_name(mount.source_name)));
  }

  void add_fstab_mounts() {
    const linux_guest::DeviceTranslator names(info_, *filesystem_);
    auto entries = parse_fstab(filesystem_->try_read("/etc/fstab").value_or(""));
    std::erase_if(entries, [](const FstabEntry& e) { return !needed_mount(e); });
    std::ranges::stable_sort(entries, {}, [](const FstabEntry& e) { return std::ranges::count(e.path, '/'); });
    for (const auto& entry : entries) {
      const std::string path = guest_path::clean(entry.path);
      const BlockDevice* device = names.find(entry.spec);
      const FoundRange* found = device ? by_source_name(device->source_name) : nullptr;
      if (path == "/") {
        if (found && found->device.source_name != info_.root_device)
          throw NotPlain{"its fstab has another device for /"};
        continue;
      }
      if (!found || !is_ext(found->device.type) || !filesystem_->is_directory(path))
        throw NotPlain{"/etc/fstab: " + entry.spec + " for " + path + " can't be mounted in user space"};
      info_.mounts.push_back({path, found->device.source_name, found->device.type, mount_options(entry)});
      filesystem_->mount(path, open(*found));
    }
  }

  void look_around() {
    for (const auto& entry : parse_fstab(filesystem_->try_read("/etc/fstab").value_or("")))
      if (entry.type == "swap" && entry.spec.starts_with('/') && !entry.spec.starts_with("/dev/") &&
          filesystem_->is_file(entry.spec) &&
          filesystem_->read_head(entry.spec, swap_page).find("SWAPSPACE2", swap_page - 10) == std::string::npos)
        throw NotPlain{"its swap file " + entry.spec + " may hold a memory image"};
    for (const char* path : {"/", "/boot"})
      if (filesystem_->free_space(path)->bytes < least_free)
        throw NotPlain{"a filesystem is nearly full"};
    read_identity(*filesystem_, info_);
    info_.firmware = Firmware::bios;
    info_.kernels = find_kernels(*filesystem_, {});
  }

  std::vector<Overlay*> disks_;
  GuestInfo info_;
  std::vector<FoundRange> found_;
  std::unique_ptr<VolumesFilesystem> filesystem_;
};

} // namespace

std::unique_ptr<GuestAccess> open_guest_in_userspace(const Machine& machine, const std::vector<Overlay*>& disks,
                                                     const ApplianceOptions& options, std::string& why_not) {
  try {
    return std::make_unique<UserspaceAccess>(machine, disks, options);
  } catch (const NotPlain& reason) {
    why_not = reason.why;
  } catch (const Error& error) {
    why_not = error.what();
  }
  return nullptr;
}

} // namespace kvmport
