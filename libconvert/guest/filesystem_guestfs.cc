// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/filesystem_guestfs.h"

#include "base/error.h"
#include "libconvert/guest/filesystem_paths.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <sys/stat.h>

namespace kvmport {
namespace {

/// What one message to the appliance carries safely (the protocol ends at 4 MiB). Small messages are far cheaper than
/// libguestfs' file transfers.
constexpr std::size_t read_chunk = 3U << 20;
constexpr std::size_t write_chunk = 1U << 20;
constexpr std::size_t remember_limit = 1U << 20;
constexpr std::size_t names_per_call = 1000;
constexpr const char* label_attribute = "security.selinux";

FileStat to_file_stat(const struct guestfs_statns& st) {
  FileStat out;
  const auto mode = static_cast<mode_t>(st.st_mode);
  out.type = S_ISREG(mode)   ? FileType::regular
             : S_ISDIR(mode) ? FileType::directory
             : S_ISLNK(mode) ? FileType::symlink
                             : FileType::other;
  out.mode = mode & 07777;
  out.uid = static_cast<std::uint32_t>(st.st_uid);
  out.gid = static_cast<std::uint32_t>(st.st_gid);
  out.size = static_cast<std::uint64_t>(std::max<std::int64_t>(st.st_size, 0));
  return out;
}

struct TextList {
  char** items;
  explicit TextList(char** list) : items(list) {}
  TextList(const TextList&) = delete;
  TextList& operator=(const TextList&) = delete;
  ~TextList() {
    for (char** item = items; item && *item; item++)
      ::free(*item);
    ::free(items);
  }
};

std::vector<char*> c_list(std::vector<std::string>& names) {
  std::vector<char*> list;
  for (auto& name : names)
    list.push_back(name.data());
  list.push_back(nullptr);
  return list;
}

} // namespace

GuestfsFilesystem::GuestfsFilesystem(const ApplianceHandle& appliance, std::vector<std::string> mount_points)
    : appliance_(appliance), mount_points_(std::move(mount_points)) {}

void GuestfsFilesystem::mounted(const std::string& path) {
  mount_points_.push_back(path);
  forget();
}

void GuestfsFilesystem::forget() {
  seen_.clear();
  lists_.clear();
  contents_.clear();
}

void GuestfsFilesystem::check(int result, const char* doing, const std::string& path) const {
  if (result != 0)
    throw Error("GUEST_WRITE_FAILED", std::string("cannot ") + doing + " " + path + " in the guest",
                appliance_.failure());
}

void GuestfsFilesystem::changed(const std::string& resolved) {
  const auto drop = [&](auto& map) {
    std::erase_if(map, [&](const auto& item) { return guest_path::below(item.first, resolved); });
  };
  drop(seen_);
  drop(lists_);
  drop(contents_);
  lists_.erase(guest_path::parent(resolved));
}

std::optional<GuestfsFilesystem::Seen> GuestfsFilesystem::at(const std::string& resolved) const {
  if (const auto it = seen_.find(resolved); it != seen_.end())
    return it->second;
  // Nothing lies below what is not there, and what isn't in a known list isn't there.
  const std::string parent = guest_path::parent(resolved);
  if (resolved != "/") {
    const auto above = at(parent);
    if (!above || above->stat.type != FileType::directory)
      return std::nullopt;
    if (const auto list = lists_.find(parent);
        list != lists_.end() && !std::ranges::binary_search(list->second, guest_path::name(resolved)))
      return std::nullopt;
  }
  std::optional<Seen> seen;
  const std::unique_ptr<struct guestfs_statns, void (*)(struct guestfs_statns*)> st(
      GUESTFS(guestfs_lstatns)(appliance_.get(), resolved.c_str()), GUESTFS(guestfs_free_statns));
  if (st) {
    seen = Seen{to_file_stat(*st), {}};
    if (seen->stat.type == FileType::symlink) {
      const GuestfsText target(GUESTFS(guestfs_readlink)(appliance_.get(), resolved.c_str()));
      if (!target)
        throw Error("GUEST_READ_FAILED", "cannot read the link " + resolved + " in the guest", appliance_.failure());
      seen->link = target.get();
    }
  } else if (const int error = appliance_.error_number(); error != ENOENT && error != ENOTDIR) {
    throw Error("GUEST_READ_FAILED", "cannot look at " + resolved + " in the guest", appliance_.failure());
  }
  seen_[resolved] = seen;
  return seen;
}

std::string GuestfsFilesystem::resolve(const std::string& path, bool follow_last) const {
  const auto link = [this](const std::string& p) -> std::optional<std::string> {
    const auto seen = at(p);
    if (!seen || seen->stat.type != FileType::symlink)
      return std::nullopt;
    return seen->link;
  };
  auto resolved = guest_path::resolve(path, follow_last, link);
  if (!resolved)
    throw Error("GUEST_READ_FAILED", "too many links on the way to " + path + " in the guest");
  return *resolved;
}

std::optional<FileStat> GuestfsFilesystem::stat(const std::string& path) const {
  return lstat(resolve(path, true));
}

std::optional<FileStat> GuestfsFilesystem::lstat(const std::string& path) const {
  const auto seen = at(resolve(path, false));
  if (!seen)
    return std::nullopt;
  return seen->stat;
}

const std::vector<std::string>& GuestfsFilesystem::entries(const std::string& resolved) const {
  static const std::vector<std::string> none;
  if (const auto it = lists_.find(resolved); it != lists_.end())
    return it->second;
  const auto seen = at(resolved);
  if (!seen || seen->stat.type != FileType::directory)
    return none;
  const TextList names(GUESTFS(guestfs_ls)(appliance_.get(), resolved.c_str()));
  if (!names.items)
    throw Error("GUEST_READ_FAILED", "cannot list " + resolved + " in the guest", appliance_.failure());
  std::vector<std::string> list;
  for (char** name = names.items; *name; name++)
    list.emplace_back(*name);
  std::ranges::sort(list);
  // What they are, all in one call: a step that lists a directory looks at its files next.
  for (std::size_t from = 0; from < list.size(); from += names_per_call) {
    const auto first = list.begin() + static_cast<std::ptrdiff_t>(from);
    std::vector<std::string> part(first,
                                  first + static_cast<std::ptrdiff_t>(std::min(names_per_call, list.size() - from)));
    const auto c_names = c_list(part);
    const std::unique_ptr<struct guestfs_statns_list, void (*)(struct guestfs_statns_list*)> stats(
        GUESTFS(guestfs_lstatnslist)(appliance_.get(), resolved.c_str(), c_names.data()),
        GUESTFS(guestfs_free_statns_list));
    if (!stats || stats->len != part.size())
      continue;
    for (std::size_t i = 0; i < part.size(); i++) {
      const struct guestfs_statns& st = stats->val[i];
      const FileStat file = to_file_stat(st);
      // A link's target takes a call of its own: at() does that when it is asked for.
      if (st.st_ino != -1 && file.type != FileType::symlink)
        seen_.try_emplace(guest_path::join(resolved, part[i]), Seen{file, {}});
    }
  }
  return lists_[resolved] = std::move(list);
}

std::vector<std::string> GuestfsFilesystem::list(const std::string& directory) const {
  return entries(resolve(directory, true));
}

std::string GuestfsFilesystem::pread(const std::string& resolved, std::uint64_t size, const std::string& path) const {
  std::string content;
  content.reserve(size);
  while (content.size() < size) {
    std::size_t got = 0;
    const auto want = static_cast<int>(std::min<std::uint64_t>(read_chunk, size - content.size()));
    const GuestfsText part(GUESTFS(guestfs_pread)(appliance_.get(), resolved.c_str(), want,
                                                  static_cast<std::int64_t>(content.size()), &got));
    if (!part)
      throw Error("GUEST_READ_FAILED", "cannot read " + path + " in the guest", appliance_.failure());
    if (got == 0)
      break;
    content.append(part.get(), got);
  }
  return content;
}

std::string GuestfsFilesystem::read(const std::string& path, std::uint64_t limit) const {
  const std::string there = resolve(path, true);
  const auto seen = at(there);
  if (!seen || seen->stat.type != FileType::regular)
    throw Error("GUEST_FILE_MISSING", "the guest has no file " + path);
  if (seen->stat.size > limit)
    throw Error("GUEST_FILE_TOO_LARGE", path + " in the guest is too large",
                std::to_string(seen->stat.size) + " bytes; at most " + std::to_string(limit) + " are read");
  if (const auto it = contents_.find(there); it != contents_.end())
    return it->second;
  std::string content = pread(there, seen->stat.size, path);
  if (content.size() <= remember_limit)
    contents_[there] = content;
  return content;
}

std::string GuestfsFilesystem::read_head(const std::string& path, std::size_t bytes) const {
  const std::string there = resolve(path, true);
  const auto seen = at(there);
  if (!seen || seen->stat.type != FileType::regular)
    throw Error("GUEST_FILE_MISSING", "the guest has no file " + path);
  return pread(there, std::min<std::uint64_t>(bytes, seen->stat.size), path);
}

std::string GuestfsFilesystem::readlink(const std::string& path) const {
  const auto seen = at(resolve(path, false));
  if (!seen || seen->stat.type != FileType::symlink)
    throw Error("GUEST_FILE_MISSING", "the guest has no link " + path);
  return seen->link;
}

std::string GuestfsFilesystem::realpath(const std::string& path) const {
  std::string there = resolve(path, true);
  if (!at(there))
    throw Error("GUEST_FILE_MISSING", "the guest has no " + path);
  return there;
}

std::optional<std::string> GuestfsFilesystem::label(const std::string& path) const {
  std::size_t size = 0;
  const GuestfsText value(
      GUESTFS(guestfs_lgetxattr)(appliance_.get(), resolve(path, true).c_str(), label_attribute, &size));
  if (!value)
    return std::nullopt;
  std::string text(value.get(), size);
  while (text.ends_with('\0'))
    text.pop_back();
  return text;
}

std::optional<FreeSpace> GuestfsFilesystem::free_space(const std::string& path) const {
  const std::string there = resolve(path, true);
  const std::string* best = nullptr;
  for (const auto& point : mount_points_)
    if (guest_path::below(there, point) && (!best || point.size() > best->size()))
      best = &point;
  if (!best)
    return std::nullopt;
  const std::unique_ptr<struct guestfs_statvfs, void (*)(struct guestfs_statvfs*)> st(
      GUESTFS(guestfs_statvfs)(appliance_.get(), best->c_str()), GUESTFS(guestfs_free_statvfs));
  if (!st)
    return std::nullopt;
  const auto blocks = static_cast<std::uint64_t>(std::max<std::int64_t>(st->bfree, 0));
  // FAT reports no inodes at all.
  if (st->files > 0 && st->ffree < 16)
    return FreeSpace{*best, 0};
  return FreeSpace{*best, checked_mul(blocks, static_cast<std::uint64_t>(std::max<std::int64_t>(st->frsize, 1)),
                                      "the free space of " + *best)};
}

void GuestfsFilesystem::write(const std::string& path, std::string_view content, std::uint32_t mode) {
  const std::string there = resolve(path, true);
  const bool existed = at(there).has_value();
  changed(there);
  const std::string_view first = content.substr(0, write_chunk);
  check(GUESTFS(guestfs_write)(appliance_.get(), there.c_str(), first.data(), first.size()), "write", path);
  if (!existed)
    check(GUESTFS(guestfs_chmod)(appliance_.get(), static_cast<int>(mode), there.c_str()), "set the mode of", path);
  content.remove_prefix(first.size());
  if (!content.empty())
    append(there, content);
}

void GuestfsFilesystem::append(const std::string& path, std::string_view content) {
  const std::string there = resolve(path, true);
  if (!at(there))
    throw Error("GUEST_FILE_MISSING", "the guest has no file " + path);
  changed(there);
  while (!content.empty()) {
    const std::string_view part = content.substr(0, write_chunk);
    check(GUESTFS(guestfs_write_append)(appliance_.get(), there.c_str(), part.data(), part.size()), "write", path);
    content.remove_prefix(part.size());
  }
}

void GuestfsFilesystem::remove(const std::string& path) {
  const std::string there = resolve(path, false);
  const auto seen = at(there);
  const bool directory = seen && seen->stat.type == FileType::directory;
  changed(there);
  check(directory ? GUESTFS(guestfs_rmdir)(appliance_.get(), there.c_str())
                  : GUESTFS(guestfs_rm)(appliance_.get(), there.c_str()),
        "remove", path);
}

void GuestfsFilesystem::rename(const std::string& from, const std::string& to) {
  const std::string source = resolve(from, false), target = resolve(to, false);
  changed(source);
  changed(target);
  check(GUESTFS(guestfs_rename)(appliance_.get(), source.c_str(), target.c_str()), "rename", from);
}

void GuestfsFilesystem::copy(const std::string& from, const std::string& to) {
  const std::string source = resolve(from, true), target = resolve(to, true);
  changed(target);
  // Keeps mode, owner, times and extended attributes.
  check(GUESTFS(guestfs_cp_a)(appliance_.get(), source.c_str(), target.c_str()), "copy", from);
}

void GuestfsFilesystem::symlink(const std::string& target, const std::string& path) {
  const std::string there = resolve(path, false);
  changed(there);
  check(GUESTFS(guestfs_ln_s)(appliance_.get(), target.c_str(), there.c_str()), "make the link", path);
}

void GuestfsFilesystem::make_directories(const std::string& path) {
  const std::string there = resolve(path, true);
  if (at(there))
    return;
  make_directories(guest_path::parent(there));
  changed(there);
  check(GUESTFS(guestfs_mkdir)(appliance_.get(), there.c_str()), "make the directory", path);
}

void GuestfsFilesystem::set_label(const std::string& path, const std::string& label) {
  const std::string there = resolve(path, false);
  // The attribute holds the final NUL as well.
  check(GUESTFS(guestfs_lsetxattr)(appliance_.get(), label_attribute, label.c_str(), static_cast<int>(label.size() + 1),
                                   there.c_str()),
        "set the SELinux label of", path);
}

} // namespace kvmport
