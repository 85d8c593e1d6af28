// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/block_devices.h"

#include "libconvert/machine/text.h"

#include <algorithm>
#include <set>
#include <sys/sysmacros.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

constexpr std::uint64_t sector = 512; // sysfs counts in these, whatever the disk's own sectors are
constexpr unsigned deepest = 16;

/// The directory of the device, or nothing.
fs::path directory_of(const HostRoots& host, dev_t device) {
  std::error_code failed;
  const fs::path path = fs::canonical(host.sys / "dev" / "block" / device_text(device), failed);
  return failed ? fs::path() : path;
}

/// The first line of an attribute; empty when it is not there.
std::string attribute(const fs::path& path) {
  std::error_code failed;
  if (!fs::is_regular_file(path, failed))
    return {};
  try {
    return std::string(trimmed(read_file(path, 64U << 10)));
  } catch (const Error&) {
    return {}; // the device has just gone
  }
}

std::vector<fs::path> entries(const fs::path& directory) {
  std::vector<fs::path> list;
  std::error_code failed;
  for (fs::directory_iterator at(directory, failed), end; !failed && at != end; at.increment(failed))
    list.push_back(at->path());
  return list;
}

void descend(const HostRoots& host, dev_t device, unsigned depth, std::set<dev_t>& seen, std::set<dev_t>& bottom) {
  if (depth > deepest || !seen.insert(device).second)
    return;
  fs::path directory = directory_of(host, device);
  if (directory.empty())
    return;
  if (std::error_code failed; fs::exists(directory / "partition", failed)) {
    directory = directory.parent_path();
    const auto disk = parse_device(attribute(directory / "dev"));
    if (!disk || (seen.contains(*disk) && !bottom.contains(*disk)))
      return;
    device = *disk;
    seen.insert(device);
  }
  bool stacked = false;
  for (const fs::path& slave : entries(directory / "slaves"))
    if (const auto below = parse_device(attribute(slave / "dev"))) {
      stacked = true;
      descend(host, *below, depth + 1, seen, bottom);
    }
  if (!stacked)
    bottom.insert(device);
}

} // namespace

std::optional<dev_t> parse_device(std::string_view text) {
  const auto colon = text.find(':');
  if (colon == std::string_view::npos)
    return std::nullopt;
  const auto major = parse_number(text.substr(0, colon)), minor = parse_number(text.substr(colon + 1));
  if (!major || !minor || *major >= (1U << 12) || *minor >= (1U << 20)) // MINORBITS of the kernel
    return std::nullopt;
  return ::makedev(static_cast<unsigned>(*major), static_cast<unsigned>(*minor));
}

std::string device_text(dev_t device) {
  return std::to_string(::major(device)) + ":" + std::to_string(::minor(device));
}

std::vector<dev_t> bottom_disks(const HostRoots& host, dev_t device) {
  std::set<dev_t> seen, bottom;
  descend(host, device, 0, seen, bottom);
  return {bottom.begin(), bottom.end()};
}

std::vector<HostPartition> partitions_of(const HostRoots& host, dev_t disk) {
  std::vector<HostPartition> list;
  const fs::path directory = directory_of(host, disk);
  if (directory.empty())
    return list;
  for (const fs::path& entry : entries(directory)) {
    std::error_code failed;
    if (fs::is_symlink(entry, failed) || !fs::exists(entry / "partition", failed))
      continue;
    const auto device = parse_device(attribute(entry / "dev"));
    const auto start = parse_number(attribute(entry / "start")), size = parse_number(attribute(entry / "size"));
    constexpr std::uint64_t most = std::uint64_t{1} << 53;
    if (device && start && size && *start < most && *size < most)
      list.push_back({*device, {*start * sector, *size * sector}});
  }
  std::sort(list.begin(), list.end(),
            [](const HostPartition& a, const HostPartition& b) { return a.range.offset < b.range.offset; });
  return list;
}

std::string kernel_name(const HostRoots& host, dev_t device) {
  return directory_of(host, device).filename().string();
}

bool takes_requests(const HostRoots& host, dev_t disk) {
  const fs::path directory = directory_of(host, disk);
  std::error_code failed;
  // Kernels before blk-mq have no mq, but a scheduler that is chosen.
  return fs::exists(directory / "mq", failed) ||
         attribute(directory / "queue" / "scheduler").find('[') != std::string::npos;
}

} // namespace kvmport
