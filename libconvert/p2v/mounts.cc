// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/mounts.h"

#include "libconvert/machine/text.h"
#include "libconvert/p2v/tracefs.h"

#include <algorithm>
#include <map>
#include <set>
#include <sys/stat.h>
#include <sys/sysmacros.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> words;
  while (!line.empty()) {
    const auto end = line.find(' ');
    if (end != 0)
      words.push_back(line.substr(0, end));
    line.remove_prefix(end == std::string_view::npos ? line.size() : end + 1);
  }
  return words;
}

/// "\040" is a space.
std::string unescaped(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); i++) {
    const auto octal = [&](std::size_t at) { return at < text.size() && text[at] >= '0' && text[at] <= '7'; };
    if (text[i] == '\\' && octal(i + 1) && octal(i + 2) && octal(i + 3)) {
      result += static_cast<char>((text[i + 1] - '0') << 6 | (text[i + 2] - '0') << 3 | (text[i + 3] - '0'));
      i += 3;
    } else {
      result += text[i];
    }
  }
  return result;
}

bool has_option(std::string_view options, std::string_view wanted) {
  return ("," + std::string(options) + ",").find("," + std::string(wanted) + ",") != std::string::npos;
}

/// All devices of the btrfs that `member` belongs to.
std::vector<dev_t> btrfs_devices(const HostRoots& host, dev_t member) {
  std::error_code failed;
  for (fs::directory_iterator at(host.sys / "fs" / "btrfs", failed), end; !failed && at != end; at.increment(failed)) {
    std::vector<dev_t> list;
    std::error_code bad;
    for (fs::directory_iterator one(at->path() / "devices", bad), last; !bad && one != last; one.increment(bad))
      try {
        if (const auto device = parse_device(trimmed(read_file(one->path() / "dev", 4096))))
          list.push_back(*device);
      } catch (const Error&) {
        continue;
      }
    if (std::find(list.begin(), list.end(), member) != list.end())
      return list;
  }
  return {member};
}

/// The block devices below a superblock. Those with an anonymous device name theirs as the source.
std::vector<dev_t> devices_of(const HostRoots& host, const MountPoint& mount) {
  if (::major(mount.device) != 0)
    return {mount.device};
  struct stat st {};
  if (!mount.source.starts_with('/') || ::stat(mount.source.c_str(), &st) != 0 || !S_ISBLK(st.st_mode))
    return {};
  return mount.type == "btrfs" ? btrfs_devices(host, st.st_rdev) : std::vector<dev_t>{st.st_rdev};
}

std::map<std::uint64_t, unsigned> depths_of(const std::vector<MountPoint>& mounts) {
  std::map<std::uint64_t, std::uint64_t> parents;
  for (const MountPoint& one : mounts)
    parents[one.id] = one.parent;
  std::map<std::uint64_t, unsigned> depths;
  for (const MountPoint& one : mounts) {
    unsigned depth = 0;
    std::uint64_t at = one.id;
    // The root's parent is itself or not in the list.
    for (auto up = parents.find(at);
         up != parents.end() && up->second != at && parents.contains(up->second) && depth < mounts.size();
         up = parents.find(at)) {
      at = up->second;
      depth++;
    }
    depths[one.id] = depth;
  }
  return depths;
}

std::vector<MountedFilesystem> group(const HostRoots& host, const std::vector<MountPoint>& mounts,
                                     std::span<const dev_t> disks) {
  std::map<dev_t, MountedFilesystem> found;
  const auto depths = depths_of(mounts);
  for (const MountPoint& one : mounts) {
    if (one.read_only)
      continue;
    const bool known = found.contains(one.device);
    MountedFilesystem& filesystem = found[one.device];
    if (!known) {
      filesystem.device = one.device;
      filesystem.type = one.type;
      filesystem.source = one.source;
      filesystem.devices = devices_of(host, one);
      std::set<dev_t> below;
      for (const dev_t device : filesystem.devices)
        below.merge([&] {
          const auto bottom = bottom_disks(host, device);
          return std::set<dev_t>(bottom.begin(), bottom.end());
        }());
      filesystem.disks.assign(below.begin(), below.end());
      filesystem.depth = depths.at(one.id);
    }
    filesystem.depth = std::min(filesystem.depth, depths.at(one.id));
    filesystem.places.push_back(one);
  }
  std::vector<MountedFilesystem> list;
  for (auto& [device, filesystem] : found)
    if (std::any_of(filesystem.disks.begin(), filesystem.disks.end(),
                    [&](dev_t disk) { return std::find(disks.begin(), disks.end(), disk) != disks.end(); }))
      list.push_back(std::move(filesystem));
  std::stable_sort(list.begin(), list.end(),
                   [](const MountedFilesystem& a, const MountedFilesystem& b) { return a.depth > b.depth; });
  return list;
}

} // namespace

std::vector<MountPoint> parse_mountinfo(std::string_view text) {
  std::vector<MountPoint> list;
  while (!text.empty()) {
    const auto end = text.find('\n');
    const auto words = words_of(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    const auto dash = std::find(words.begin(), words.end(), "-");
    if (dash == words.end() || dash - words.begin() < 6 || words.end() - dash < 4)
      continue;
    const auto id = parse_number(words[0]), parent = parse_number(words[1]);
    const auto device = parse_device(words[2]);
    if (id && parent && device)
      list.push_back({*id, *parent, *device, unescaped(words[4]), std::string(dash[1]), unescaped(dash[2]),
                      has_option(dash[3], "ro")});
  }
  return list;
}

std::vector<MountPoint> read_mountinfo(const fs::path& path) {
  return parse_mountinfo(read_file(path));
}

std::vector<MountedFilesystem> filesystems_on(const HostRoots& host, std::span<const dev_t> disks) {
  auto list = group(host, read_mountinfo(host.proc / "self" / "mountinfo"), disks);
  const fs::path first = host.proc / "1" / "mountinfo";
  if (std::error_code failed; fs::exists(first, failed))
    for (const MountedFilesystem& other : group(host, read_mountinfo(first), disks))
      if (std::none_of(list.begin(), list.end(),
                       [&](const MountedFilesystem& one) { return one.device == other.device; }))
        throw live_not_possible("the filesystem on " + printable(other.source) +
                                " is mounted where this process doesn't see it: it runs in a container");
  return list;
}

} // namespace kvmport
