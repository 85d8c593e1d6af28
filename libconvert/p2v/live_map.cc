// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/live_map.h"

#include "formats/block_stack.h"
#include "libconvert/copy/swap_free.h"
#include "libconvert/machine/text.h"
#include "libconvert/p2v/dirty_map.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <set>
#include <sys/stat.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

void add_swap(const Image& disk, const StackDevice& device, std::vector<Range>& list) {
  for (const Range& range : read_swap_free(*device.place.image, device.range()).free) {
    if (device.place.image == &disk) {
      list.push_back(range);
    } else if (const auto* mapped = dynamic_cast<const MappedImage*>(device.place.image)) {
      mapped->walk(range, [&](const MappedImage::Part& part) {
        if (part.targets.size() == 1 && part.targets.front().image == &disk)
          list.push_back({part.targets.front().offset, part.length});
      });
    }
  }
}

FrozenParts frozen_parts(const HostRoots& host, dev_t disk, const std::vector<const MountedFilesystem*>& frozen) {
  FrozenParts parts;
  const auto partitions = partitions_of(host, disk);
  for (const MountedFilesystem* filesystem : frozen) {
    if (filesystem->devices.size() != 1)
      continue;
    const dev_t device = filesystem->devices.front();
    if (device == disk)
      parts.starts.push_back(0);
    for (const HostPartition& one : partitions)
      if (one.device == device)
        parts.starts.push_back(one.range.offset);
    const fs::path dm = host.sys / "dev" / "block" / device_text(device) / "dm";
    if (std::error_code failed; !fs::exists(dm / "uuid", failed))
      continue;
    const std::string uuid = read_file(dm / "uuid", 4096), name = read_file(dm / "name", 4096);
    if (uuid.starts_with("LVM-") && !group_and_volume(trimmed(name)).empty())
      parts.volumes.push_back(group_and_volume(trimmed(name)));
  }
  return parts;
}

/// Something holds the device: a mount in any namespace, swap, a stack of devices.
bool held(const HostRoots& host, dev_t device) {
  std::string name = kernel_name(host, device);
  std::replace(name.begin(), name.end(), '!', '/'); // as sysfs writes cciss/c0d0
  const UniqueFd fd(::open(("/dev/" + name).c_str(), O_RDONLY | O_EXCL | O_CLOEXEC | O_NONBLOCK));
  return !fd && errno == EBUSY;
}

struct InUse {
  Range range;
  std::string name;
};

/// What the kernel swaps to: not still, but nothing of it matters.
std::vector<dev_t> swap_devices(const HostRoots& host) {
  std::vector<dev_t> list;
  std::error_code failed;
  if (!fs::exists(host.proc / "swaps", failed))
    return list;
  const std::string all = read_file(host.proc / "swaps");
  for (std::string_view text = all; !text.empty();) {
    const auto line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    struct stat st {};
    const std::string path(line.substr(0, line.find_first_of(" \t")));
    if (path.starts_with('/') && ::stat(path.c_str(), &st) == 0 && S_ISBLK(st.st_mode))
      list.push_back(st.st_rdev);
  }
  return list;
}

/// Devices above: those that lie on `device` directly.
std::vector<dev_t> holders_of(const HostRoots& host, dev_t device) {
  std::vector<dev_t> list;
  std::error_code failed;
  for (fs::directory_iterator at(host.sys / "dev" / "block" / device_text(device) / "holders", failed), end;
       !failed && at != end; at.increment(failed))
    try {
      if (const auto holder = parse_device(trimmed(read_file(at->path() / "dev", 4096))))
        list.push_back(*holder);
    } catch (const Error&) {
      continue;
    }
  return list;
}

/// `device`, or one above it, is held by something that isn't a device and isn't frozen.
bool moves(const HostRoots& host, dev_t device, const std::set<dev_t>& still, unsigned depth = 0) {
  const auto holders = holders_of(host, device);
  if (holders.empty() || depth > 16)
    return !still.contains(device) && held(host, device);
  return std::any_of(holders.begin(), holders.end(),
                     [&](dev_t holder) { return moves(host, holder, still, depth + 1); });
}

std::vector<InUse> used_by_others(const HostRoots& host, dev_t disk, std::uint64_t size,
                                  const std::vector<const MountedFilesystem*>& frozen) {
  const auto swaps = swap_devices(host);
  std::set<dev_t> still(swaps.begin(), swaps.end());
  for (const MountedFilesystem* filesystem : frozen)
    still.insert(filesystem->devices.begin(), filesystem->devices.end());
  const auto partitions = partitions_of(host, disk);
  std::vector<InUse> list;
  for (const HostPartition& one : partitions)
    if (moves(host, one.device, still))
      list.push_back({one.range, kernel_name(host, one.device)});
  // A disk is also held when a partition of it is.
  if ((partitions.empty() || !holders_of(host, disk).empty()) && moves(host, disk, still))
    list.push_back({{0, size}, kernel_name(host, disk)});
  return list;
}

/// The inside of swap areas on partitions and logical volumes of the disk.
std::vector<Range> swap_ranges(const Image& image) {
  std::vector<Range> list;
  try {
    const BlockStack stack({{&image, nullptr, image.info().logical_sector}});
    for (const StackDevice& device : stack.devices())
      if (device.unsupported.empty() && device.place.image != nullptr && device.content.type == "swap")
        add_swap(image, device, list);
  } catch (const Error&) {
    return {}; // then it is sent
  }
  return united(std::move(list), {});
}

} // namespace

std::string group_and_volume(std::string_view dm_name) {
  // Hyphens of the names are doubled, a single one stands between them.
  std::string name;
  bool parted = false;
  for (std::size_t i = 0; i < dm_name.size(); i++) {
    if (dm_name[i] != '-') {
      name += dm_name[i];
    } else if (i + 1 < dm_name.size() && dm_name[i + 1] == '-') {
      name += '-';
      i++;
    } else if (parted) {
      return {}; // "group-volume-real" and other parts of a volume
    } else {
      name += '/';
      parted = true;
    }
  }
  return parted ? name : std::string();
}

LiveMap read_live_map(const HostRoots& host, dev_t disk, const Image& image,
                      const std::vector<const MountedFilesystem*>& frozen) {
  LiveMap map;
  FreeMap found = find_free_blocks(image, frozen_parts(host, disk, frozen));
  map.notes = std::move(found.notes);
  map.swap = swap_ranges(image);
  std::vector<Range> doubtful;
  for (const InUse& one : used_by_others(host, disk, image.size(), frozen)) {
    doubtful.push_back(one.range);
    map.notes.push_back(one.name + ": in use and can't be frozen, its free blocks are copied too");
  }
  map.free = subtracted(united(std::move(found.free), {}), united(std::move(doubtful), {}));
  return map;
}

} // namespace kvmport
