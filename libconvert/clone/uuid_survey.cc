// SPDX-License-Identifier: Apache-2.0
// What on the disks bears a UUID.
#include "base/error.h"
#include "libconvert/clone/uuid_disks.h"

#include <algorithm>
#include <fmt/format.h>
#include <set>
#include <sstream>

namespace kvmport {
namespace {

using Kind = UuidHolder::Kind;

const std::map<std::string, Kind, std::less<>> filesystem_kinds{
    {"ext2", Kind::ext},    {"ext3", Kind::ext},  {"ext4", Kind::ext}, {"xfs", Kind::xfs},
    {"btrfs", Kind::btrfs}, {"swap", Kind::swap}, {"vfat", Kind::fat}, {"crypto_LUKS", Kind::luks}};

class Collector {
 public:
  Collector(const UuidSurvey& survey, const std::string& seed) : survey_(survey), seed_(seed) {}

  std::vector<UuidHolder> collect() {
    for (const FoundDevice& found : survey_.devices) {
      add_table(found);
      if (!is_inner(found))
        add_content(found);
    }
    for (const auto& one : survey_.lvm) {
      std::string what = one.device.empty() ? "volume group " + one.volume : "LVM on " + name_of(one.device);
      if (one.volume.find('/') != std::string::npos)
        what = "logical volume " + one.volume;
      add({Kind::lvm, one.device, 0, one.volume, {what, one.uuid, {}}});
    }
    return std::move(holders_);
  }

 private:
  void add(UuidHolder holder) {
    holder.change.after = derive_uuid(holder.change.before, seed_);
    holders_.push_back(std::move(holder));
  }

  void add_table(const FoundDevice& found) {
    const BlockDevice& device = found.device;
    if (found.kind == "disk" && (device.table == "gpt" || device.table == "dos")) {
      const auto table = survey_.tables.find(found.appliance);
      if (table != survey_.tables.end() && !table->second.empty())
        add({device.table == "gpt" ? Kind::gpt_disk : Kind::mbr_disk,
             found.appliance,
             0,
             {},
             {fmt::format("partition table of disk {}", device.disk), table->second, {}}});
    } else if (found.kind == "part" && !device.part_uuid.empty()) {
      add({device.table == "gpt" ? Kind::gpt_partition : Kind::mbr_partition,
           disk_of(device),
           device.partition,
           {},
           {fmt::format("partition {} of disk {}", device.partition, device.disk), device.part_uuid, {}}});
    }
  }

  void add_content(const FoundDevice& found) {
    const BlockDevice& device = found.device;
    // Volumes' own UUIDs are LVM's matter; a medium of files that can't be written has none that could clash.
    if (device.uuid.empty() || device.type == "LVM2_member" || device.type == "iso9660" || device.type == "udf")
      return;
    const auto kind = filesystem_kinds.find(device.type);
    if (kind == filesystem_kinds.end())
      throw Error("UUID_UNSUPPORTED", device.source_name + " (" + device.type + ") can't get a new UUID",
                  "known are ext2, ext3, ext4, XFS, btrfs, swap, FAT, LUKS and LVM",
                  "clone the guest without new UUIDs");
    // Several devices of one btrfs are changed at once.
    if (kind->second == Kind::btrfs && !filesystems_.insert(device.uuid).second)
      return;
    add({kind->second, found.appliance, 0, {}, {device.source_name + " (" + device.type + ")", device.uuid, {}}});
  }

  /// A part of a volume that device-mapper shows beside it.
  bool is_inner(const FoundDevice& found) const {
    return found.kind == "lvm" && std::ranges::none_of(survey_.lvm, [&](const UuidSurvey::Lvm& one) {
             return !one.hidden && "/dev/" + one.volume == found.device.source_name;
           });
  }

  /// What the guest calls a device of the appliance.
  std::string name_of(const std::string& device) const {
    const auto found = std::ranges::find(survey_.devices, device, &FoundDevice::appliance);
    return found == survey_.devices.end() ? device : found->device.source_name;
  }

  std::string disk_of(const BlockDevice& partition) const {
    const auto disk = std::ranges::find_if(
        survey_.devices, [&](const FoundDevice& d) { return d.kind == "disk" && d.device.disk == partition.disk; });
    return disk == survey_.devices.end() ? std::string() : disk->appliance;
  }

  const UuidSurvey& survey_;
  const std::string& seed_;
  std::vector<UuidHolder> holders_;
  std::set<std::string> filesystems_;
};

} // namespace

std::string uuid_survey_script() {
  return "for d in $(lsblk -dnp -o KNAME); do\n"
         "  echo \"@table $d $(blkid -p -s PTUUID -o value $d)\"\n"
         "done\n"
         "lvm pvs --noheadings -o pv_uuid,pv_name | sed 's/^ */@pv /'\n"
         "lvm vgs --noheadings -o vg_uuid,vg_name | sed 's/^ */@vg /'\n"
         "lvm lvs -a --noheadings -o lv_uuid,vg_name,lv_name | sed 's/^ */@lv /'\n"
         "true\n";
}

UuidSurvey parse_uuid_survey(std::string_view text) {
  UuidSurvey survey;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string kind, first, second, third;
    words >> kind >> first >> second >> third;
    if (kind == "@table" && !second.empty())
      survey.tables[first] = second;
    else if (kind == "@pv")
      survey.lvm.push_back({first, second, {}});
    else if (kind == "@vg")
      survey.lvm.push_back({first, {}, second});
    else if (kind == "@lv" && third.starts_with("["))
      survey.lvm.push_back({first, {}, second + "/" + third.substr(1, third.size() - 2), true});
    else if (kind == "@lv")
      survey.lvm.push_back({first, {}, second + "/" + third});
  }
  return survey;
}

UuidSurvey survey_uuids(const ApplianceHandle& appliance, const Machine& machine) {
  UuidSurvey survey = parse_uuid_survey(appliance.script(uuid_survey_script()));
  survey.devices = survey_devices(appliance, machine);
  return survey;
}

std::vector<UuidHolder> uuid_holders(const UuidSurvey& survey, const std::string& seed) {
  return Collector(survey, seed).collect();
}

std::vector<GroupChange> group_changes(const UuidSurvey& survey, const std::string& seed,
                                       std::vector<std::string>& warnings) {
  std::map<std::string, std::vector<std::string>> groups; // with their volumes
  std::set<std::string> taken;
  for (const UuidSurvey::Lvm& one : survey.lvm) {
    const std::string name = one.volume.substr(0, one.volume.find('/'));
    if (name.empty())
      continue;
    taken.insert(name);
    groups.try_emplace(name);
    if (name != one.volume)
      groups[name].push_back(one.volume.substr(name.size() + 1));
  }
  std::vector<GroupChange> changes;
  for (const auto& [name, volumes] : groups) {
    const std::string renamed = derive_group_name(name, seed, taken);
    if (renamed.empty())
      warnings.push_back("volume group " + name + " keeps its name: no other of its form is left");
    else
      changes.push_back({name, renamed, volumes});
    taken.insert(renamed);
  }
  return changes;
}

void check_changed(const UuidSurvey& survey, const std::vector<UuidHolder>& holders,
                   const std::vector<GroupChange>& groups) {
  std::set<std::string> there;
  for (const FoundDevice& found : survey.devices)
    there.insert({found.device.uuid, found.device.part_uuid});
  for (const auto& [disk, table] : survey.tables)
    there.insert(table);
  for (const auto& one : survey.lvm)
    there.insert(one.uuid);
  for (const auto& [kind, device, partition, volume, change] : holders)
    if (there.contains(change.before) || !there.contains(change.after))
      throw Error("UUID_NOT_CHANGED", "the UUID of " + change.what + " did not change",
                  change.before + " should have become " + change.after);
  std::set<std::string> names;
  for (const auto& one : survey.lvm)
    names.insert(one.volume);
  for (const GroupChange& group : groups)
    if (names.contains(group.before) || !names.contains(group.after))
      throw Error("UUID_NOT_CHANGED", "the name of volume group " + group.before + " did not change",
                  "it should have become " + group.after);
}

} // namespace kvmport
