// SPDX-License-Identifier: Apache-2.0
// UUIDs and volume groups inside an initramfs: resume device, crypttab, dracut's command lines and the devices that it
// waits for, which it names in the names of files (devexists-….sh) and units (dev-disk-by\x2duuid-….device).
#include "base/error.h"
#include "libconvert/clone/uuid_files.h"
#include "libconvert/guest/linux/initramfs_part.h"
#include "libconvert/guest/linux/text.h"

#include <map>
#include <set>

namespace kvmport {
namespace {

using linux_guest::CpioEntry;
using linux_guest::InitramfsPart;

/// Configuration is smaller; programs and modules that are not are told by their first bytes.
constexpr std::uint64_t most_config = 256U << 10, most_initramfs = 1ULL << 30;

/// Something that names an old one, as it shall be.
struct Renewed {
  std::string name, content;
  CpioEntry entry;
};

void add_directories(const std::string& name, std::set<std::string>& made, linux_guest::CpioWriter& writer) {
  const std::string directory(linux_guest::directory_of(name));
  if (directory.empty() || !made.insert(directory).second)
    return;
  add_directories(directory, made, writer);
  writer.directory(directory);
}

/// What of the image names an old one, by name.
std::map<std::string, Renewed> find_in(std::string_view image, const Renaming& renaming,
                                       std::set<std::string>& directories, std::vector<InitramfsPart>& parts) {
  std::map<std::string, Renewed> renewed;
  parts = linux_guest::walk_initramfs(image, [&](const CpioEntry& entry, const std::function<std::string()>& content) {
    renewed.erase(entry.name);
    if (entry.is_directory())
      directories.insert(entry.name);
    if (!entry.is_link() && (!entry.is_file() || entry.size > most_config))
      return;
    const std::string before = content();
    if (before.find('\0') != std::string::npos)
      return;
    Renewed now{renamed_path(entry.name, renaming), renamed_text(entry.name, before, renaming), entry};
    const bool overwritten = entry.is_file() && before.empty(); // by us, for an earlier clone
    if (!overwritten && (now.name != entry.name || now.content != before))
      renewed[entry.name] = std::move(now);
  });
  return renewed;
}

std::string archive_of(const std::map<std::string, Renewed>& renewed, std::set<std::string>& directories) {
  linux_guest::CpioWriter writer;
  for (const auto& [old_name, now] : renewed) {
    constexpr std::uint32_t permission_bits = 07777;
    const std::uint32_t permissions = now.entry.mode & permission_bits;
    if (now.name != old_name)
      writer.file(old_name, {}, permissions);
    add_directories(now.name, directories, writer);
    if (now.entry.is_link())
      writer.symlink(now.name, now.content);
    else
      writer.file(now.name, now.content, permissions);
  }
  return writer.finish();
}

} // namespace

void renew_uuids_in_initramfs(const std::string& path, const std::string& version, const Renaming& renaming,
                              Draft& draft) {
  const std::string image = draft.guest().read(path, most_initramfs);
  std::set<std::string> directories;
  std::vector<InitramfsPart> parts;
  std::map<std::string, Renewed> renewed;
  try {
    renewed = find_in(image, renaming, directories, parts);
  } catch (const Error& error) {
    if (error.code() != "INITRAMFS_UNREADABLE")
      throw;
    draft.warn(path + ": " + error.summary() + "; UUIDs and volume groups in it, if there are any, stay");
    return;
  }
  if (renewed.empty())
    return;
  std::string names;
  for (const auto& [name, now] : renewed)
    names += (names.empty() ? "" : ", ") + name;
  linux_guest::append_to_initramfs(path, version, image, parts, archive_of(renewed, directories),
                                   "files in the initramfs name what only the original has: " + names, draft);
}

} // namespace kvmport
