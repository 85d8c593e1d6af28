// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/inspect_roots.h"

#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <array>
#include <sstream>

namespace kvmport {
namespace {

/// Filesystems that an operating system may live on.
constexpr std::array<std::string_view, 9> system_types{"ext2",     "ext3", "ext4", "xfs", "btrfs",
                                                       "reiserfs", "jfs",  "f2fs", "ntfs"};

/// Guest files are only read when they are plain files: a FIFO would block, a link might lead out of the guest. What
/// comes from the guest is printed behind a mark, so that it can't be taken for an answer of ours.
constexpr const char* functions = R"sh(m=/tmp/kvmport; mkdir -p $m
is_root() {
  { [ -e $1/etc/os-release ] || [ -L $1/etc/os-release ] || [ -e $1/usr/lib/os-release ] || ls $1/etc/*-release; } &&
  { [ -e $1/etc/fstab ] || [ -d $1/usr/lib/systemd ] || [ -d $1/lib/systemd ] || [ -e $1/sbin/init ] ||
    [ -L $1/sbin/init ] || [ -L $1/sbin ]; }
} >/dev/null 2>&1
report() {
  echo "@root $1 $2"
  for f in usr/lib/os-release etc/os-release etc/redhat-release etc/SuSE-release; do
    if [ -f $3/$f ] && [ ! -L $3/$f ]; then
      printf '@name %s\n' "$(head -c 4096 $3/$f | grep -m1 -e '^PRETTY_NAME=' -e '^[^=]*$')"; break
    fi
  done
  if [ -f $3/etc/fstab ] && [ ! -L $3/etc/fstab ]; then
    printf '@fstab %s\n' "$(head -c 65536 $3/etc/fstab | while read -r d p t o rest; do
      case $d in \#*) continue;; esac; if [ "$p" = / ]; then echo "$d $o"; break; fi; done)"
  fi
}
try() {
  if ! e=$(mount -t $2 -o ro$3 $1 $m 2>&1); then
    printf '@error %s %s\n' $1 "$(echo "$e" | head -n1 | head -c300)"; return 1
  fi
}
linux() {
  try $1 $2 $3 || return
  is_root $m && report $1 "" $m
  umount $m
}
btrfs_all() {
  try $1 btrfs || return
  if is_root $m; then report $1 "" $m; umount $m; return; fi
  umount $m
  try $1 btrfs ,subvolid=5 || return
  n=0
  for d in $m/* $m/*/*; do
    [ -d $d ] && [ ! -L $d ] && [ "$(stat -c %i $d)" = 256 ] && is_root $d || continue
    s=${d#$m/}
    case $s in *[!A-Za-z0-9@._/-]*) continue;; esac
    report $1 $s $d; n=$((n+1)); [ $n -lt 20 ] || break
  done
  umount $m
}
windows() {
  try $1 ntfs3 || try $1 ntfs-3g || return
  ls -d $m/[Ww][Ii][Nn][Dd][Oo][Ww][Ss]/[Ss]ystem32 >/dev/null 2>&1 && echo "@windows $1"
  umount $m
}
)sh";

const FoundDevice* by_appliance(const std::vector<FoundDevice>& devices, std::string_view name) {
  const auto it = std::ranges::find_if(devices, [&](const FoundDevice& d) { return d.appliance == name; });
  return it == devices.end() ? nullptr : &*it;
}

std::string pretty(std::string text) {
  if (text.starts_with("PRETTY_NAME="))
    text.erase(0, 12);
  return linux_guest::unquote(linux_guest::trim(text));
}

} // namespace

std::string root_script(const std::vector<FoundDevice>& devices) {
  std::string script = functions;
  std::vector<std::string> seen_pools;
  for (const auto& found : devices) {
    const std::string& type = found.device.type;
    if (std::ranges::find(system_types, type) == system_types.end())
      continue;
    const std::string device = ApplianceHandle::quote(found.appliance);
    if (type == "btrfs") {
      // Devices of one filesystem share its UUID.
      if (std::ranges::find(seen_pools, found.device.uuid) != seen_pools.end())
        continue;
      seen_pools.push_back(found.device.uuid);
      script += "btrfs_all " + device + "\n";
    } else if (type == "ntfs") {
      script += "windows " + device + "\n";
    } else {
      script += "linux " + device + " " + type + (type == "xfs" ? " ,nouuid\n" : " ''\n");
    }
  }
  return script + "true\n";
}

RootSearch parse_roots(std::string_view text, const std::vector<FoundDevice>& devices) {
  RootSearch search;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string mark, first, second;
    words >> mark >> first >> second;
    const FoundDevice* found = by_appliance(devices, first);
    if (mark == "@root" && found) {
      search.roots.push_back({first, found->device.source_name, second, "", "", ""});
    } else if (mark == "@windows" && found) {
      search.windows.push_back(found->device.source_name);
    } else if (mark == "@error" && found) {
      search.problems.push_back(found->device.source_name + " (" + found->device.type +
                                "): " + line.substr(std::min(line.size(), mark.size() + first.size() + 2)));
    } else if (mark == "@name" && !search.roots.empty() && line.size() > 6) {
      search.roots.back().name = pretty(line.substr(6));
    } else if (mark == "@fstab" && !search.roots.empty()) {
      search.roots.back().fstab_root = first;
      search.roots.back().fstab_options = second;
    }
  }
  return search;
}

RootSearch find_roots(const ApplianceHandle& appliance, const std::vector<FoundDevice>& devices) {
  return parse_roots(appliance.script(root_script(devices)), devices);
}

} // namespace kvmport
