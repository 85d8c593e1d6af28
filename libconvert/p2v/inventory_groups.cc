// SPDX-License-Identifier: Apache-2.0
// Disks that belong together, as the kernel's own devices show it: md (Documentation/admin-guide/md.rst), device-mapper
// (its UUIDs begin with who made them), and disks that are one LUN seen through several paths.
#include "libconvert/machine/text.h"
#include "libconvert/p2v/inventory_parts.h"

#include <algorithm>
#include <fmt/format.h>
#include <map>
#include <set>

namespace kvmport {
namespace inventory_parts {
namespace {

constexpr unsigned deepest = 16; ///< devices over devices

/// Disks of the inventory below a block device, in its order.
class BaseDisks {
 public:
  BaseDisks(const SysTree& tree, const Inventory& inventory) : tree_(tree) {
    for (const DiskInventory& disk : inventory.disks) {
      disk_of_[disk.name] = disk.name;
      for (const auto& partition : disk.partitions)
        disk_of_[partition.name] = disk.name;
    }
  }
  std::vector<std::string> below(const std::string& device) const {
    std::set<std::string> found, seen;
    collect(device, 0, found, seen);
    std::vector<std::string> names(found.begin(), found.end());
    std::sort(names.begin(), names.end(), natural_less);
    return names;
  }

 private:
  void collect(const std::string& device, unsigned depth, std::set<std::string>& found,
               std::set<std::string>& seen) const {
    if (depth > deepest || !seen.insert(device).second)
      return;
    for (const std::string& slave : tree_.list("/sys/block/" + device + "/slaves"))
      if (const auto disk = disk_of_.find(slave); disk != disk_of_.end())
        found.insert(disk->second);
      else
        collect(slave, depth + 1, found, seen);
  }

  const SysTree& tree_;
  std::map<std::string, std::string> disk_of_;
};

DiskGroup read_array(const SysTree& tree, const std::string& name, std::vector<std::string> disks) {
  const std::string at = "/sys/block/" + name + "/md/";
  DiskGroup group;
  group.kind =
      tree.word(at + "metadata_version").starts_with("external:") ? DiskGroup::Kind::fake_raid : DiskGroup::Kind::array;
  group.name = name;
  group.level = tree.word(at + "level");
  group.disks = std::move(disks);
  const auto bounded = [](std::uint64_t n) { return static_cast<unsigned>(std::min<std::uint64_t>(n, 4096)); };
  group.wanted = bounded(tree.number(at + "raid_disks").value_or(0));
  group.missing = bounded(tree.number(at + "degraded").value_or(0));
  const std::string state = tree.word(at + "array_state");
  const bool container = group.level == "container";
  if (group.missing > 0)
    group.problem = fmt::format("{} ({}) runs with {} of {} members", name, group.level,
                                group.wanted - std::min(group.missing, group.wanted), group.wanted);
  else if (!container && (state == "inactive" || state == "clear" || state == "broken"))
    group.problem = fmt::format("{} is {}: members are missing", name, state);
  group.complete = group.problem.empty();
  return group;
}

/// The group in the name of a logical volume, where a '-' of its own is written twice: "my--vg-root" → "my-vg".
std::string group_of_volume(const std::string& name) {
  std::string group;
  for (std::size_t i = 0; i < name.size(); i++) {
    if (name[i] == '-' && (i + 1 == name.size() || name[i + 1] != '-'))
      break;
    if (name[i] == '-')
      i++;
    group += name[i];
  }
  return group;
}

void add_mapped(const SysTree& tree, const std::string& device, const std::vector<std::string>& disks,
                std::map<std::string, DiskGroup>& groups) {
  const std::string at = "/sys/block/" + device + "/dm/";
  const std::string uuid = tree.word(at + "uuid"), name = tree.word(at + "name");
  constexpr std::size_t lvm_group_end = 4 + 32;
  DiskGroup group;
  std::string key = uuid;
  if (uuid.starts_with("LVM-") && uuid.size() >= lvm_group_end) {
    group.kind = DiskGroup::Kind::lvm;
    group.name = group_of_volume(name);
    key = uuid.substr(0, lvm_group_end);
  } else if (uuid.starts_with("mpath-")) {
    group.kind = DiskGroup::Kind::multipath;
    group.name = name;
  } else if (uuid.starts_with("DMRAID-")) {
    group.kind = DiskGroup::Kind::fake_raid;
    group.name = name;
  } else {
    return; // a partition, encryption, a cache: of what lies below, whose group is another device
  }
  DiskGroup& known = groups.emplace(key, group).first->second;
  std::set<std::string> all(known.disks.begin(), known.disks.end());
  all.insert(disks.begin(), disks.end());
  known.disks.assign(all.begin(), all.end());
  std::sort(known.disks.begin(), known.disks.end(), natural_less);
}

/// Disks of one world-wide name are one disk.
void add_same_names(const Inventory& inventory, std::map<std::string, DiskGroup>& groups) {
  std::map<std::string, std::vector<std::string>> by_name;
  for (const DiskInventory& disk : inventory.disks)
    if (disk.wwid.starts_with("naa.") || disk.wwid.starts_with("eui."))
      by_name[disk.wwid].push_back(disk.name);
  for (const auto& [wwid, disks] : by_name) {
    const std::string& first = disks.front();
    const bool known = std::any_of(groups.begin(), groups.end(), [&first](const auto& entry) {
      const DiskGroup& group = entry.second;
      return group.kind == DiskGroup::Kind::multipath &&
             std::find(group.disks.begin(), group.disks.end(), first) != group.disks.end();
    });
    if (disks.size() > 1 && !known) {
      DiskGroup group;
      group.kind = DiskGroup::Kind::multipath;
      group.name = wwid;
      group.disks = disks;
      groups.emplace("wwid-" + wwid, group);
    }
  }
}

/// Of a disk with several paths, the first is enough.
void select_one_path(const DiskGroup& group, Inventory& inventory) {
  for (DiskInventory& disk : inventory.disks)
    if (std::find(group.disks.begin() + 1, group.disks.end(), disk.name) != group.disks.end()) {
      disk.selected = false;
      disk.reason = fmt::format("another path to {} ({})", group.disks.front(), group.name);
    }
}

} // namespace

void read_groups(const SysTree& tree, Inventory& inventory) {
  const BaseDisks base(tree, inventory);
  std::map<std::string, DiskGroup> groups;
  for (const std::string& device : tree.list("/sys/block")) {
    std::vector<std::string> disks = base.below(device);
    if (device.starts_with("md") && tree.exists("/sys/block/" + device + "/md"))
      groups.emplace(device, read_array(tree, device, std::move(disks)));
    else if (device.starts_with("dm-"))
      add_mapped(tree, device, disks, groups);
  }
  add_same_names(inventory, groups);
  for (auto& [key, group] : groups) {
    if (group.kind == DiskGroup::Kind::multipath && !group.disks.empty())
      select_one_path(group, inventory);
    if (!group.complete)
      inventory.notes.push_back(group.problem);
    inventory.groups.push_back(std::move(group));
  }
}

} // namespace inventory_parts

std::vector<std::string> selection_problems(const Inventory& inventory) {
  std::set<std::string> chosen;
  for (const DiskInventory& disk : inventory.disks)
    if (disk.selected)
      chosen.insert(disk.name);
  std::vector<std::string> problems;
  for (const DiskGroup& group : inventory.groups) {
    std::string left_out;
    std::size_t taken = 0;
    for (const std::string& disk : group.disks)
      if (chosen.contains(disk))
        taken++;
      else
        left_out += (left_out.empty() ? "" : ", ") + disk;
    const bool one_is_enough = group.kind == DiskGroup::Kind::multipath;
    if (taken > 0 && !left_out.empty() && !one_is_enough)
      problems.push_back(fmt::format("{} needs {} too", group.name, left_out));
    if (taken > 1 && one_is_enough)
      problems.push_back(fmt::format("{} is taken {} times", group.name, taken));
    if (taken > 0 && !group.complete)
      problems.push_back(group.problem);
  }
  return problems;
}

} // namespace kvmport
