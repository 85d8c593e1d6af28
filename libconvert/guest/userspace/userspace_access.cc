// SPDX-License-Identifier: Apache-2.0
// A guest without an appliance: partitions, md arrays and logical volumes as maps over the overlays, ext2/3/4 by
// libext2fs, EFI system partitions by mtools. What can't be done safely here is left to the appliance.
#include "formats/block_stack.h"
#include "formats/ntfs_records.h"
#include "libconvert/guest/access.h"
#include "libconvert/guest/assembly.h"
#include "libconvert/guest/inspect_system.h"
#include "libconvert/guest/linux/text.h"
#include "libconvert/guest/userspace/volumes_filesystem.h"

#include <algorithm>
#include <array>

namespace kvmport {
namespace {

/// What a filesystem may be called that holds a system, but can't be read here.
constexpr std::array<std::string_view, 8> foreign_systems{"xfs",      "btrfs", "jfs",      "f2fs",
                                                          "reiserfs", "ufs",   "bcachefs", "zfs_member"};

bool is_ext(const std::string& type) {
  return type == "ext2" || type == "ext3" || type == "ext4";
}

/// Thrown inside this file only: the guest is left to the appliance.
struct NotPlain {
  std::string why;
};

/// A disk whose overlay may be changed for another one.
class Slot final : public WritableImage {
 public:
  explicit Slot(Overlay* overlay) : now_(overlay) {}
  void change(Overlay* next) { now_ = next; }

  std::uint64_t size() const override { return now_->size(); }
  ImageInfo info() const override { return now_->info(); }
  std::vector<Extent> extents(Range range) const override { return now_->extents(range); }
  void read(std::uint64_t offset, std::span<std::byte> out) const override { now_->read(offset, out); }
  void write(std::uint64_t offset, ByteSpan data) override { now_->write(offset, data); }

 private:
  Overlay* now_;
};

class UserspaceAccess final : public GuestAccess, private GuestAssembly {
 public:
  UserspaceAccess(const Machine& machine, const std::vector<Overlay*>& disks, const ApplianceOptions& options)
      : GuestAssembly(machine), options_(options) {
    for (Overlay* disk : disks)
      slots_.push_back(std::make_unique<Slot>(disk));
    survey();
    refuse_hibernated();
    const RootCandidate root = choose_root(find_roots(), options);
    info_().root_device = root.source_name;
    mount(*by_source_name(root.source_name), "/", "noatime", "");
    mount_fstab();
    mount_boot_partitions();
    refuse_hibernated_files();
    refuse_full();
    read_system();
  }

  std::string name() const override { return "userspace"; }
  const GuestInfo& info() const override { return GuestAssembly::info; }
  GuestFilesystem& filesystem() override { return *filesystem_; }

  void continue_on(const std::vector<Overlay*>& next) override {
    filesystem_->flush();
    for (std::size_t i = 0; i < slots_.size(); i++)
      slots_[i]->change(next[i]);
    const auto mounts = info().mounts;
    filesystem_ = std::make_unique<VolumesFilesystem>();
    for (const Mount& one : mounts)
      filesystem_->mount(one.path, open(*by_source_name(one.source_name)));
  }

  void finish() override {
    filesystem_->flush();
    filesystem_.reset();
  }

 private:
  GuestInfo& info_() { return GuestAssembly::info; }

  void survey() {
    std::vector<StackDisk> disks;
    for (std::size_t i = 0; i < slots_.size(); i++)
      disks.push_back({slots_[i].get(), slots_[i].get(), info().machine.disks[i].logical_sector});
    stack_ = std::make_unique<BlockStack>(std::move(disks));
    if (!stack_->notes().empty())
      throw NotPlain{stack_->notes().front()};
    for (const StackDevice& found : stack_->devices()) {
      if (!found.unsupported.empty())
        throw NotPlain{describe(found) + " can't be used in user space: " + found.unsupported};
      BlockDevice device;
      device.source_name = source_name(found);
      if (found.kind == StackDevice::Kind::disk || found.kind == StackDevice::Kind::partition)
        device.disk = static_cast<int>(found.disk);
      device.partition = found.partition.number;
      device.type = found.content.type;
      device.uuid = found.content.uuid;
      device.label = found.content.label;
      device.part_uuid = found.partition.uuid;
      device.part_label = found.partition.label;
      device.part_type = found.partition.type;
      device.table = found.table;
      device.size = found.size;
      info_().devices.push_back(std::move(device));
    }
  }

  std::string source_name(const StackDevice& found) const {
    const auto disk = [&] { return "/dev/" + info().machine.disks[found.disk].source_name; };
    switch (found.kind) {
    case StackDevice::Kind::disk:
      return disk();
    case StackDevice::Kind::partition:
      return partition_name(disk(), found.partition.number);
    case StackDevice::Kind::array:
      if (found.name.empty())
        throw NotPlain{"an array has no name"};
      return array_name(found.name);
    case StackDevice::Kind::volume:
      return "/dev/" + found.name;
    }
    return {};
  }

  RootSearch find_roots() {
    RootSearch search;
    for (const BlockDevice& device : info().devices) {
      if (device.type == "ntfs" && holds_windows(device))
        search.windows.push_back(device.source_name);
      if (std::ranges::find(foreign_systems, device.type) != foreign_systems.end())
        throw NotPlain{device.source_name + " holds " + device.type};
      if (!is_ext(device.type))
        continue;
      auto tree = std::make_unique<VolumesFilesystem>();
      tree->mount("/", open(device));
      if (!is_system(*tree))
        continue;
      search.roots.push_back(candidate(*tree, device));
      filesystem_ = search.roots.size() == 1 ? std::move(tree) : nullptr;
    }
    const bool encrypted =
        std::ranges::any_of(info().devices, [](const BlockDevice& d) { return d.type == "crypto_LUKS"; });
    if (search.roots.empty() && encrypted && !options_.keys.empty())
      throw NotPlain{"it is encrypted"};
    return search;
  }

  bool holds_windows(const BlockDevice& device) const {
    const StackDevice& found = stack_device(device);
    try {
      return ntfs_holds_windows(*found.place.image, found.range());
    } catch (const Doubt& doubt) {
      throw NotPlain{device.source_name + " holds an NTFS that can't be understood: " + doubt.why};
    }
  }

  /// As find_roots() of the appliance has it.
  static bool is_system(const GuestFilesystem& tree) {
    const auto there = [&](const char* path) { return tree.lstat(path).has_value(); };
    const auto etc = tree.list("/etc");
    const bool named = there("/etc/os-release") || there("/usr/lib/os-release") ||
                       std::ranges::any_of(etc, [](const std::string& name) { return name.ends_with("-release"); });
    return named && (there("/etc/fstab") || tree.is_directory("/usr/lib/systemd") ||
                     tree.is_directory("/lib/systemd") || there("/sbin/init") || there("/sbin"));
  }

  static RootCandidate candidate(const GuestFilesystem& tree, const BlockDevice& device) {
    RootCandidate root;
    root.source_name = device.source_name;
    for (const char* path : {"/etc/os-release", "/usr/lib/os-release"})
      if (root.name.empty())
        root.name = linux_guest::shell_value(tree.try_read(path).value_or(""), "PRETTY_NAME").value_or("");
    for (const FstabEntry& entry : parse_fstab(tree.try_read("/etc/fstab").value_or("")))
      if (entry.path == "/" && root.fstab_root.empty()) {
        root.fstab_root = entry.spec;
        root.fstab_options = entry.options;
      }
    return root;
  }

  const StackDevice& stack_device(const BlockDevice& device) const {
    return stack_->devices()[static_cast<std::size_t>(&device - info().devices.data())];
  }
  std::unique_ptr<Volume> open(const BlockDevice& device) const {
    const StackDevice& found = stack_device(device);
    std::string why_not = "it holds " + (device.type.empty() ? "no known filesystem" : device.type);
    std::unique_ptr<Volume> volume;
    if (is_ext(device.type))
      volume = open_confined_ext4_volume(*found.place.writable, found.range(), why_not);
    else if (device.type == "vfat")
      volume = open_fat_volume(*found.place.writable, found.range(), why_not);
    if (!volume)
      throw NotPlain{device.source_name + ": " + why_not};
    return volume;
  }

  // GuestAssembly
  void mount(const BlockDevice& device, const std::string& path, const std::string& options,
             const std::string& type) override {
    // The only root was mounted when it was found.
    if (!filesystem_)
      filesystem_ = std::make_unique<VolumesFilesystem>();
    if (path != "/" || !filesystem_->mounted("/"))
      filesystem_->mount(path, open(device));
    info_().mounts.push_back({path, device.source_name, type.empty() ? device.type : type, options});
  }
  GuestFilesystem& tree() override { return *filesystem_; }
  std::string boot_code(int disk) override {
    std::string code(440, '\0');
    slots_[static_cast<std::size_t>(disk)]->read(0, std::as_writable_bytes(std::span(code)));
    return code;
  }
  bool is_open(const BlockDevice&) const override { return false; }

  const ApplianceOptions options_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::unique_ptr<BlockStack> stack_; ///< its devices are those of info, in the same order
  std::unique_ptr<VolumesFilesystem> filesystem_;
};

/// Codes of what may be no more than a limit of user space: the appliance looks again.
bool is_own_limit(const Error& error) {
  return error.code() == "IMAGE_CORRUPT" || error.code() == "GUEST_READ_FAILED" ||
         error.code() == "GUEST_WRITE_FAILED" || error.code() == "GUEST_FILE_MISSING";
}

} // namespace

std::unique_ptr<GuestAccess> open_guest_in_userspace(const Machine& machine, const std::vector<Overlay*>& disks,
                                                     const ApplianceOptions& options, std::string& why_not) {
  try {
    return std::make_unique<UserspaceAccess>(machine, disks, options);
  } catch (const NotPlain& reason) {
    why_not = reason.why;
  } catch (const Error& error) {
    if (!is_own_limit(error))
      throw;
    why_not = error.what();
  }
  return nullptr;
}

} // namespace kvmport
