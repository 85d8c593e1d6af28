// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/uuid_disks.h"

#include "base/error.h"
#include "formats/lvm.h"

#include <algorithm>
#include <charconv>
#include <fmt/format.h>
#include <functional>
#include <set>

namespace kvmport {
namespace {

using Kind = UuidHolder::Kind;

/// A device of the appliance.
class ApplianceDevice final : public WritableImage {
 public:
  ApplianceDevice(const ApplianceHandle& appliance, std::string name) : appliance_(appliance), name_(std::move(name)) {
    const std::int64_t size = GUESTFS(guestfs_blockdev_getsize64)(appliance_.get(), name_.c_str());
    check(size >= 0);
    size_ = static_cast<std::uint64_t>(size);
  }

  std::uint64_t size() const override { return size_; }
  ImageInfo info() const override { return {}; }
  std::vector<Extent> extents(Range range) const override { return {{range, ExtentKind::data}}; }

  void read(std::uint64_t offset, std::span<std::byte> out) const override {
    for (std::size_t done = 0; done < out.size();) {
      std::size_t got = 0;
      const std::size_t most = std::min<std::size_t>(out.size() - done, 1U << 20);
      const GuestfsText bytes(GUESTFS(guestfs_pread_device)(appliance_.get(), name_.c_str(), static_cast<int>(most),
                                                            static_cast<std::int64_t>(offset + done), &got));
      check(bytes && got > 0);
      std::memcpy(out.data() + done, bytes.get(), got);
      done += got;
    }
  }
  void write(std::uint64_t offset, ByteSpan data) override {
    for (std::size_t done = 0; done < data.size();) {
      const int put = GUESTFS(guestfs_pwrite_device)(
          appliance_.get(), name_.c_str(), reinterpret_cast<const char*>(data.data() + done),
          std::min<std::size_t>(data.size() - done, 1U << 20), static_cast<std::int64_t>(offset + done));
      check(put > 0);
      done += static_cast<std::size_t>(put);
    }
  }

 private:
  void check(bool done) const {
    if (!done)
      throw Error("APPLIANCE_FAILED", "a device could not be read or written in the appliance", appliance_.failure());
  }
  const ApplianceHandle& appliance_;
  std::string name_;
  std::uint64_t size_ = 0;
};

std::uint32_t hex_number(const std::string& text) {
  std::uint32_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number, 16);
  return number;
}

/// What changes one of these by its own tools; empty: no tool does. Logs are replayed first: XFS and btrfs do that when
/// they are mounted, and tune2fs wants a filesystem that was just checked.
std::string script_for(const UuidHolder& holder) {
  const std::string& device = holder.device;
  const std::string& uuid = holder.change.after;
  const std::string replay = "mkdir -p /tmp/replay; mount -o {} " + device + " /tmp/replay; umount /tmp/replay; ";
  switch (holder.kind) {
  case Kind::ext:
    return fmt::format("e2fsck -f -p {0} >&2 || [ $? -eq 1 ]; tune2fs -U {1} {0} >&2", device, uuid);
  case Kind::xfs:
    return fmt::format(fmt::runtime(replay), "nouuid") + fmt::format("xfs_admin -U {} {} >&2", uuid, device);
  case Kind::btrfs:
    return fmt::format(fmt::runtime(replay), "noatime") + fmt::format("btrfstune -f -U {} {} >&2", uuid, device);
  case Kind::swap:
    return fmt::format("swaplabel -U {} {} >&2", uuid, device);
  case Kind::luks:
    return fmt::format("cryptsetup -q luksUUID --uuid {} {} >&2", uuid, device);
  default:
    return {};
  }
}

const char* tool_for(Kind kind) {
  switch (kind) {
  case Kind::ext:
    return "tune2fs";
  case Kind::xfs:
    return "xfs_admin";
  case Kind::btrfs:
    return "btrfstune";
  case Kind::swap:
    return "swaplabel";
  case Kind::luks:
    return "cryptsetup";
  case Kind::gpt_disk:
  case Kind::gpt_partition:
    return "sgdisk";
  default:
    return nullptr;
  }
}

void change_content(const ApplianceHandle& appliance, const UuidHolder& holder) {
  if (const std::string script = script_for(holder); !script.empty()) {
    appliance.script("set -e; " + script);
  } else if (holder.kind == Kind::fat) {
    ApplianceDevice volume(appliance, holder.device);
    set_fat_serial(volume, holder.change.after);
  } else if (holder.kind == Kind::mbr_disk) {
    ApplianceDevice disk(appliance, holder.device);
    set_mbr_signature(disk, holder.change.after);
  }
}

/// Physical volumes hold the UUIDs of their group and its volumes as well, and their names.
void change_lvm(const ApplianceHandle& appliance, const UuidHolder& holder, const Renaming& renaming) {
  ApplianceDevice volume(appliance, holder.device);
  const auto renew = [&](const std::string& text) { return renamed_metadata(text, renaming); };
  if (!renew_lvm_uuids(volume, {0, volume.size()}, renew))
    throw Error("UUID_NOT_CHANGED", holder.device + " has no label of LVM");
}

/// All GUIDs of one disk at once. Partitions that are in use keep their old ones in the appliance's kernel.
void change_gpt(const ApplianceHandle& appliance, const std::string& disk, const std::vector<UuidHolder>& holders) {
  std::string command = "sgdisk";
  for (const UuidHolder& holder : holders)
    if (holder.device == disk && holder.kind == Kind::gpt_disk)
      command += " -U " + holder.change.after;
    else if (holder.device == disk && holder.kind == Kind::gpt_partition)
      command += fmt::format(" -u {}:{}", holder.partition, holder.change.after);
  appliance.script(command + " " + disk + " >&2");
}

} // namespace

void check_uuid_tools(const ApplianceHandle& appliance, const std::vector<UuidHolder>& holders) {
  std::set<std::string> tools;
  for (const UuidHolder& holder : holders)
    if (const char* tool = tool_for(holder.kind))
      tools.insert(tool);
  std::string script;
  for (const std::string& tool : tools)
    script += "command -v " + tool + " >/dev/null || echo " + tool + "\n";
  const std::string missing = appliance.script(script + "true\n");
  if (!missing.empty())
    throw Error("PROGRAM_MISSING", "the libguestfs appliance has no " + missing.substr(0, missing.find('\n')),
                "it gives filesystems new UUIDs", "install libguestfs-xfs, gdisk, btrfs-progs and cryptsetup");
}

void change_uuids(const ApplianceHandle& appliance, const std::vector<UuidHolder>& holders,
                  const std::vector<GroupChange>& groups) {
  Renaming lvm{{}, groups};
  for (const UuidHolder& holder : holders)
    if (holder.kind == Kind::lvm)
      lvm.uuids.push_back(holder.change);
  std::set<std::string> tables;
  const auto all = [&](const std::function<void(const UuidHolder&)>& change) {
    for (const UuidHolder& holder : holders)
      try {
        change(holder);
      } catch (const Error& error) {
        if (error.code() != "APPLIANCE_FAILED")
          throw;
        throw Error("UUID_NOT_CHANGED", "the UUID of " + holder.change.what + " could not be changed", error.why(),
                    "check its filesystem where the guest comes from, or clone it without new UUIDs");
      }
  };
  // What lies on a device before the device: a new table makes the kernel take partitions away for a moment.
  all([&](const UuidHolder& holder) { change_content(appliance, holder); });
  all([&](const UuidHolder& holder) {
    if (holder.kind == Kind::lvm && !holder.device.empty())
      change_lvm(appliance, holder, lvm);
  });
  all([&](const UuidHolder& holder) {
    const bool gpt = holder.kind == Kind::gpt_disk || holder.kind == Kind::gpt_partition;
    if (gpt && tables.insert(holder.device).second)
      change_gpt(appliance, holder.device, holders);
  });
  appliance.script("sync; udevadm trigger -c change -s block; udevadm settle");
}

void set_fat_serial(WritableImage& volume, const std::string& serial) {
  constexpr std::size_t sector = 512;
  Bytes boot(sector);
  volume.read(0, boot);
  const bool fat32 = load_le<std::uint16_t>(boot, 17) == 0 && load_le<std::uint16_t>(boot, 22) == 0;
  const std::size_t at = fat32 ? 0x43 : 0x27; // BS_VolID, behind BS_BootSig
  const auto signature = std::to_integer<unsigned>(boot[at - 1]);
  if (signature != 0x28 && signature != 0x29)
    throw Error("UUID_UNSUPPORTED", "a FAT filesystem has no place for a serial number");
  Bytes number(4);
  store_le<std::uint32_t>(number, 0, hex_number(serial.substr(0, 4) + serial.substr(5)));
  volume.write(at, number);
  const std::uint64_t backup = fat32 ? load_le<std::uint16_t>(boot, 0x32) : 0; // BPB_BkBootSec
  const std::uint64_t backup_at = backup * load_le<std::uint16_t>(boot, 11);
  if (backup == 0 || backup == 0xffff || backup_at + sector > volume.size())
    return;
  Bytes copy(sector);
  volume.read(backup_at, copy);
  if (std::ranges::equal(std::span(copy).first(11), std::span(boot).first(11)))
    volume.write(backup_at + at, number);
}

void set_mbr_signature(WritableImage& disk, const std::string& signature) {
  Bytes number(4);
  store_le<std::uint32_t>(number, 0, hex_number(signature));
  disk.write(440, number);
}

} // namespace kvmport
