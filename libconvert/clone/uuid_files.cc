// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/uuid_files.h"

#include "base/error.h"
#include "libconvert/clone/identity_rules.h"
#include "libconvert/guest/filesystem_paths.h"
#include "libconvert/guest/linux/boot_config.h"
#include "libconvert/guest/linux/pe_sections.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <array>

namespace kvmport {
namespace {

using linux_guest::base_name;
using linux_guest::lower;

constexpr std::uint64_t most_config = 1U << 20, most_program = 256U << 20, most_in_all = 512U << 20;
constexpr int most_levels = 16;
constexpr std::size_t most_files = 50000;
constexpr const char* why = "it names disks, volumes or filesystems as only the original calls them";

/// Files and links below directories.
struct Found {
  std::string path;
  FileStat stat;
};

void walk(const Draft& draft, const std::string& directory, int level, std::vector<Found>& found) {
  for (const std::string& name : draft.list(directory)) {
    const std::string path = guest_path::join(directory, name);
    const auto st = draft.lstat(path);
    if (!st || found.size() >= most_files)
      continue;
    if (st->type == FileType::directory && level < most_levels)
      walk(draft, path, level + 1, found);
    else if (st->type != FileType::directory)
      found.push_back({path, *st});
  }
}

bool is_initramfs(const GuestInfo& info, const std::string& path) {
  const std::string name = lower(base_name(path));
  return name.starts_with("initrd") || name.starts_with("initramfs") ||
         std::ranges::any_of(info.kernels, [&](const Kernel& k) { return k.initramfs == path; });
}

/// GRUB's own files come in hundreds.
bool is_grub_module(const std::string& path) {
  return std::ranges::any_of(std::array{".mod", ".lst", ".mo", ".pf2"},
                             [&](const char* ending) { return path.ends_with(ending); });
}

/// The version of the kernel that unpacks it: of the oldest when it isn't known, since that can do least.
std::string version_for(const GuestInfo& info, const std::string& initramfs) {
  for (const Kernel& kernel : info.kernels)
    if (kernel.initramfs == initramfs)
      return kernel.version;
  return info.kernels.empty() ? std::string() : info.kernels.back().version;
}

/// GRUB and unified kernels have configuration built in, not compressed.
void renew_program(const std::string& path, const Renaming& renaming, Draft& draft) {
  const std::string before = draft.guest().read(path, most_program);
  const std::string after = renamed_text(path, before, renaming);
  if (after == before)
    return;
  if (linux_guest::pe_signed(before))
    throw Error("UUID_UNSUPPORTED", "the signed boot program " + path + " names disks or volumes of the guest",
                "a change would void its signature, and without one it would look for the original's disk",
                "clone the guest without new UUIDs");
  draft.write(path, after, "the boot program has names built in that only the original's disks have");
}

void renew_file(const Found& file, const Renaming& renaming, Draft& draft) {
  if (file.stat.size > most_config || is_grub_module(file.path))
    return;
  const auto before = draft.try_read(file.path);
  const std::string after = before ? renamed_text(file.path, *before, renaming) : std::string();
  if (!before || after == *before)
    return;
  if (before->find('\0') != std::string::npos)
    draft.warn(file.path + " names an old UUID or volume group and is no text: it stays as it is");
  else
    identity::write_discreetly(draft, file.path, after, why);
}

void renew_link(const std::string& path, const Renaming& renaming, Draft& draft) {
  const std::string target = draft.readlink(path), renewed = renamed_path(target, renaming);
  if (renewed != target)
    draft.symlink(renewed, path, why);
}

/// Units are called after devices ("dev-disk-by\x2duuid-….swap"), and so are directories with their settings.
void renew_name(const std::string& path, const Renaming& renaming, Draft& draft) {
  const std::string renewed = renamed_path(path, renaming);
  if (renewed == path)
    return;
  const std::string reason = "it is called after what only the original's disks have";
  draft.rename(path, renewed, reason);
  for (std::string above = guest_path::parent(path);
       above != renamed_path(above, renaming) && draft.list(above).empty(); above = guest_path::parent(above))
    draft.remove_directory(above, reason);
}

/// Where old names are looked for: directories that the guest has.
std::vector<std::string> uuid_directories(const GuestInfo& info, const Draft& draft) {
  std::vector<std::string> all{"/etc", "/boot", "/efi", "/usr/lib/systemd/system", "/usr/lib/dracut/dracut.conf.d"};
  for (const std::string& esp : linux_guest::esp_directories(info, draft))
    if (std::ranges::none_of(all, [&](const std::string& d) { return guest_path::below(esp, d); }))
      all.push_back(esp);
  std::erase_if(all, [&](const std::string& d) { return !draft.is_directory(d); });
  return all;
}

} // namespace

void renew_uuids_in_files(const GuestInfo& info, const Renaming& renaming, Draft& draft) {
  std::vector<Found> found;
  for (const std::string& directory : uuid_directories(info, draft))
    walk(draft, directory, 0, found);
  std::uint64_t read = 0; // of configuration
  for (const Found& file : found) {
    const bool in_boot = !file.path.starts_with("/etc/") && !file.path.starts_with("/usr/");
    if (file.stat.type == FileType::symlink)
      renew_link(file.path, renaming, draft);
    else if (file.stat.type != FileType::regular || file.stat.size == 0)
      continue;
    else if (in_boot && is_initramfs(info, file.path))
      renew_uuids_in_initramfs(file.path, version_for(info, file.path), renaming, draft);
    else if (in_boot && lower(file.path).ends_with(".efi"))
      renew_program(file.path, renaming, draft);
    else if ((read += std::min(file.stat.size, most_config)) <= most_in_all)
      renew_file(file, renaming, draft);
  }
  if (found.size() >= most_files || read > most_in_all)
    draft.warn("there is too much in /etc and /boot: not all was searched for old UUIDs and names");
  for (const Found& file : found)
    renew_name(file.path, renaming, draft);
}

} // namespace kvmport
