// SPDX-License-Identifier: Apache-2.0
#include "formats/block_stack.h"

#include "formats/lvm.h"
#include "formats/md_array.h"

#include <algorithm>
#include <optional>

namespace kvmport {
namespace {

constexpr std::size_t most_devices = 8192;

/// What lies on a member, or a note when it is damaged.
template <class Read> auto try_read(const StackDevice& device, std::vector<std::string>& notes, Read read) {
  decltype(read(*device.place.image, device.range())) found;
  try {
    found = read(*device.place.image, device.range());
  } catch (const Error& error) {
    if (error.code() != "IMAGE_CORRUPT")
      throw;
    notes.push_back(describe(device) + ": " + error.summary());
  }
  return found;
}

} // namespace

std::string describe(const StackDevice& device) {
  switch (device.kind) {
  case StackDevice::Kind::disk:
    return "disk " + std::to_string(device.disk + 1);
  case StackDevice::Kind::partition:
    return "partition " + std::to_string(device.partition.number) + " of disk " + std::to_string(device.disk + 1);
  case StackDevice::Kind::array:
    return "the array " + device.name;
  case StackDevice::Kind::volume:
    return "the volume " + device.name;
  }
  return {};
}

BlockStack::BlockStack(std::vector<StackDisk> disks) : disks_(std::move(disks)) {
  add_disks();
  add_arrays();
  add_volumes();
}

void BlockStack::add_disks() {
  for (std::size_t i = 0; i < disks_.size(); i++) {
    const StackDisk& disk = disks_[i];
    const DiskPartitions table = read_partitions(*disk.image, disk.logical_sector);
    StackDevice whole;
    whole.disk = i;
    whole.table = table.kind;
    whole.place = {disk.image, disk.writable, 0};
    whole.size = disk.image->size();
    for (const std::string& note : table.notes)
      notes_.push_back(describe(whole) + ": " + note);
    if (table.kind.empty())
      whole.content = probe_content(*disk.image, whole.range());
    devices_.push_back(whole);
    for (const DiskPartition& partition : table.partitions) {
      StackDevice part = whole;
      part.kind = StackDevice::Kind::partition;
      part.partition = partition;
      part.place.offset = partition.range.offset;
      part.size = partition.range.length;
      part.content = probe_content(*disk.image, partition.range);
      devices_.push_back(std::move(part));
    }
  }
}

/// Adds a device that is a map, or is unsupported by its own account or because the map is impossible.
void BlockStack::add_mapped(StackDevice device, std::vector<MapPiece> pieces) {
  if (devices_.size() >= most_devices) {
    notes_.push_back("there are too many devices: " + describe(device) + " is left out");
    return;
  }
  if (device.unsupported.empty()) {
    try {
      auto map = std::make_unique<MappedImage>(std::move(pieces));
      device.size = map->size();
      device.content = probe_content(*map, {0, map->size()});
      device.place = {map.get(), map.get(), 0};
      maps_.push_back(std::move(map));
    } catch (const Error& error) {
      if (error.code() != "IMAGE_CORRUPT")
        throw;
      device.unsupported = error.summary();
    }
  }
  devices_.push_back(std::move(device));
}

void BlockStack::add_arrays() {
  std::map<std::string, std::vector<PlacedMdMember>> arrays;
  for (const StackDevice& device : devices_) {
    if (device.content.type != "linux_raid_member")
      continue;
    if (auto member = try_read(device, notes_, read_md_member))
      arrays[member->array_uuid].push_back({std::move(*member), device.place});
    else
      notes_.push_back(describe(device) + ": its RAID superblock is not of version 1, or damaged");
  }
  for (const auto& [uuid, members] : arrays) {
    StackDevice array;
    array.kind = StackDevice::Kind::array;
    array.name = members.front().member.name;
    std::vector<MapPiece> pieces;
    array.unsupported = assemble_md(members, pieces);
    add_mapped(std::move(array), std::move(pieces));
    if (StackDevice& added = devices_.back(); added.kind == StackDevice::Kind::array && added.unsupported.empty() &&
                                              added.content.type.empty() &&
                                              !read_partitions(*added.place.image).kind.empty()) {
      added.unsupported = "it is partitioned";
      added.place = {};
    }
  }
}

/// Where the parts of a volume lie; `members` says which device each physical volume is. Error IMAGE_CORRUPT.
std::vector<MapPiece> BlockStack::pieces_of(const LvmVolume& volume, const Members& members) const {
  std::vector<MapPiece> pieces;
  for (const LvmSegment& segment : volume.segments) {
    MapPiece piece{MapPiece::Kind::striped, segment.length, segment.stripe_size, {}};
    const std::uint64_t of_each = segment.length / segment.stripes.size();
    for (const LvmStripe& stripe : segment.stripes) {
      const StackDevice& device = devices_[members.at(stripe.member).front()];
      if (stripe.offset > device.size || of_each > device.size - stripe.offset)
        throw Error("IMAGE_CORRUPT", "it reaches past the end of " + describe(device));
      MapTarget target = device.place;
      target.offset += stripe.offset;
      piece.targets.push_back(target);
    }
    pieces.push_back(std::move(piece));
  }
  return pieces;
}

void BlockStack::add_group(const LvmGroup& group, std::string unsupported, const Members& members) {
  if (!group.unsupported.empty())
    unsupported = group.unsupported;
  for (const std::string& member : group.members)
    if (const auto at = members.find(member); at == members.end() || at->second.size() != 1)
      unsupported = at == members.end() ? "a physical volume of its group is missing"
                                        : "a physical volume of its group is there twice";
  for (const LvmVolume& volume : group.volumes) {
    StackDevice device;
    device.kind = StackDevice::Kind::volume;
    device.name = group.name + "/" + volume.name;
    device.unsupported = unsupported.empty() ? volume.unsupported : unsupported;
    std::vector<MapPiece> pieces;
    try {
      if (device.unsupported.empty())
        pieces = pieces_of(volume, members);
    } catch (const Error& error) {
      device.unsupported = error.summary();
    }
    add_mapped(std::move(device), std::move(pieces));
  }
  if (!unsupported.empty())
    return;
  for (const LvmFree& free : group.free)
    if (const std::size_t device = members.at(free.member).front(); free.range.end() <= devices_[device].size)
      free_.push_back({device, free.range});
}

void BlockStack::add_volumes() {
  std::map<std::string, LvmGroup> groups; // the newest text about each, by UUID
  Members members;
  for (std::size_t i = 0; i < devices_.size(); i++) {
    if (devices_[i].content.type != "LVM2_member" || !devices_[i].unsupported.empty())
      continue;
    const auto member = try_read(devices_[i], notes_, read_lvm_member);
    if (!member)
      continue;
    members[member->uuid].push_back(i);
    if (member->metadata.empty())
      continue;
    try {
      LvmGroup group = parse_lvm_metadata(member->metadata);
      if (const auto known = groups.find(group.uuid); known == groups.end() || known->second.sequence < group.sequence)
        groups[group.uuid] = std::move(group);
    } catch (const Error& error) {
      notes_.push_back(describe(devices_[i]) + ": " + error.summary());
    }
  }
  std::map<std::string, int> names;
  for (const auto& [uuid, group] : groups)
    names[group.name]++;
  for (const auto& [uuid, group] : groups)
    add_group(group, names[group.name] > 1 ? "there are several volume groups of that name" : "", members);
}

} // namespace kvmport
