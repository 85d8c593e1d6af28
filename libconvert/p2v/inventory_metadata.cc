// SPDX-License-Identifier: Apache-2.0
// Arrays and volume groups by what is written on the disks: nothing runs them on a boot medium, and the kernel does not
// tell which physical volumes a group lacks.
#include "formats/lvm.h"
#include "formats/md_array.h"
#include "libconvert/machine/text.h"
#include "libconvert/p2v/inventory_parts.h"

#include <algorithm>
#include <fmt/format.h>
#include <map>
#include <set>

namespace kvmport {
namespace {

void add_names(std::vector<std::string>& names, const std::vector<std::string>& more) {
  std::set<std::string> all(names.begin(), names.end());
  all.insert(more.begin(), more.end());
  names.assign(all.begin(), all.end());
  std::sort(names.begin(), names.end(), natural_less);
}

/// Members of one array that doesn't run.
struct FoundArray {
  MdMember first;
  std::set<std::uint32_t> roles;
  std::vector<std::string> disks;
};

struct FoundGroup {
  LvmGroup group; ///< of the newest text
  std::set<std::string> members;
  std::vector<std::string> disks;
};

std::string level_name(int level) {
  return level == -1 ? "linear" : fmt::format("raid{}", level);
}

DiskGroup to_group(const FoundArray& array) {
  DiskGroup group;
  group.kind = DiskGroup::Kind::array;
  group.name = printable(array.first.name.empty() ? array.first.array_uuid : array.first.name);
  group.level = level_name(array.first.level);
  group.disks = array.disks;
  group.wanted = std::min(array.first.disks, 4096U);
  const auto found = static_cast<unsigned>(
      std::count_if(array.roles.begin(), array.roles.end(), [&](auto role) { return role < group.wanted; }));
  group.missing = group.wanted - found;
  group.complete = group.missing == 0;
  if (!group.complete)
    group.problem = fmt::format("of the array {} ({}) {} of {} members are on the disks", group.name, group.level,
                                found, group.wanted);
  return group;
}

/// Notes the groups and arrays of all places.
class Survey {
 public:
  void look(const DiskPlace& place) {
    try {
      if (auto member = read_md_member(*place.image, place.range)) {
        add_member(std::move(*member), place);
        return;
      }
    } catch (const Error& e) {
      notes_.push_back(fmt::format("{}: {}: {}", fmt::join(place.disks, ", "), e.summary(), e.why()));
    }
    try {
      if (auto member = read_lvm_member(*place.image, place.range))
        members_.emplace_back(std::move(*member), place.disks);
    } catch (const Error& e) {
      notes_.push_back(fmt::format("{}: {}: {}", fmt::join(place.disks, ", "), e.summary(), e.why()));
    }
  }
  void finish(Inventory& inventory) {
    for (const auto& [uuid, array] : arrays_)
      add(to_group(array), inventory);
    for (const auto& [uuid, group] : groups())
      finish_group(group, inventory);
    inventory.notes.insert(inventory.notes.end(), notes_.begin(), notes_.end());
  }

 private:
  void add_member(MdMember member, const DiskPlace& place) {
    if (place.running)
      return; // the kernel knows more of it
    FoundArray& array = arrays_.try_emplace(member.array_uuid, FoundArray{member, {}, {}}).first->second;
    array.roles.insert(member.role);
    add_names(array.disks, place.disks);
  }

  std::map<std::string, FoundGroup> groups() {
    std::map<std::string, FoundGroup> found;
    for (const auto& [member, disks] : members_) {
      if (member.metadata.empty())
        continue;
      try {
        LvmGroup group = parse_lvm_metadata(member.metadata);
        FoundGroup& known = found[group.uuid];
        if (known.group.uuid.empty() || group.sequence > known.group.sequence)
          known.group = std::move(group);
      } catch (const Error& e) {
        notes_.push_back(fmt::format("{}: {}: {}", fmt::join(disks, ", "), e.summary(), e.why()));
      }
    }
    for (auto& [uuid, group] : found)
      for (const auto& [member, disks] : members_)
        if (std::find(group.group.members.begin(), group.group.members.end(), member.uuid) !=
            group.group.members.end()) {
          group.members.insert(member.uuid);
          add_names(group.disks, disks);
        }
    return found;
  }

  void finish_group(const FoundGroup& found, Inventory& inventory) {
    DiskGroup group;
    group.kind = DiskGroup::Kind::lvm;
    group.name = printable(found.group.name);
    group.disks = found.disks;
    group.wanted = static_cast<unsigned>(found.group.members.size());
    group.missing = group.wanted - static_cast<unsigned>(found.members.size());
    // A volume may lie on an array that doesn't run: it can't be seen then.
    group.complete = group.missing == 0 || !arrays_.empty();
    if (!group.complete)
      group.problem =
          fmt::format("the volume group {} lacks {} of {} physical volumes", group.name, group.missing, group.wanted);
    const auto known = std::find_if(inventory.groups.begin(), inventory.groups.end(), [&](const DiskGroup& g) {
      return g.kind == DiskGroup::Kind::lvm && g.name == group.name;
    });
    if (known == inventory.groups.end()) {
      add(std::move(group), inventory);
      return;
    }
    add_names(known->disks, group.disks);
    known->wanted = group.wanted;
    known->missing = group.missing;
    known->complete = group.complete;
    known->problem = group.problem;
    if (!group.complete)
      inventory.notes.push_back(group.problem);
  }

  static void add(DiskGroup group, Inventory& inventory) {
    if (!group.complete)
      inventory.notes.push_back(group.problem);
    inventory.groups.push_back(std::move(group));
  }

  std::map<std::string, FoundArray> arrays_; ///< by UUID
  std::vector<std::pair<LvmMember, std::vector<std::string>>> members_;
  std::vector<std::string> notes_;
};

} // namespace

void add_groups_on_disks(const std::vector<DiskPlace>& places, Inventory& inventory) {
  Survey survey;
  for (const DiskPlace& place : places)
    survey.look(place);
  survey.finish(inventory);
}

namespace inventory_parts {
namespace {

bool held_by_array(const std::vector<std::string>& holders) {
  return std::any_of(holders.begin(), holders.end(), [](const std::string& h) { return h.starts_with("md"); });
}

/// A device of this machine for reading; nothing when that isn't permitted or it has no medium.
std::unique_ptr<Image> open_device(const std::filesystem::path& path) {
  OpenOptions options;
  options.format = "raw";
  try {
    return open_image(path, options);
  } catch (const Error&) {
    return nullptr;
  }
}

} // namespace

void read_metadata(const SysTree& tree, Inventory& inventory) {
  if (!tree.live())
    return;
  std::vector<std::unique_ptr<Image>> images;
  std::vector<DiskPlace> places;
  for (const DiskInventory& disk : inventory.disks) {
    if (!disk.selected)
      continue;
    images.push_back(open_device(disk.device()));
    const Image* image = images.back().get();
    if (image == nullptr)
      continue;
    for (const DiskPartitionInventory& part : disk.partitions)
      if (part.start < image->size() && part.size <= image->size() - part.start)
        places.push_back({{disk.name}, image, {part.start, part.size}, held_by_array(part.holders)});
    if (disk.partitions.empty())
      places.push_back({{disk.name}, image, {0, image->size()}, held_by_array(disk.holders)});
  }
  for (const DiskGroup& array : inventory.groups) {
    if (array.kind != DiskGroup::Kind::array || !array.name.starts_with("md"))
      continue;
    images.push_back(open_device("/dev/" + array.name));
    if (const Image* image = images.back().get(); image != nullptr && image->size() > 0)
      places.push_back({array.disks, image, {0, image->size()}, false});
  }
  add_groups_on_disks(places, inventory);
}

} // namespace inventory_parts
} // namespace kvmport
