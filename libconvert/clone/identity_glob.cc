// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/identity_glob.h"

#include "libconvert/guest/filesystem_paths.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>

namespace kvmport::identity {
namespace {

constexpr unsigned deepest = 64;

bool is_wild(const std::string& part) {
  return part.find_first_of("*?[") != std::string::npos;
}

class Finder {
 public:
  Finder(const GuestInfo& info, const Draft& draft) : info_(info), draft_(draft) {}

  void match(const std::string& at, const std::vector<std::string>& parts, std::size_t i, bool wild) {
    const std::string& part = parts[i];
    const bool last = i + 1 == parts.size();
    if (part == "**") {
      below(at, 0);
      return;
    }
    if (!is_wild(part)) {
      step(guest_path::join(at, part), parts, i, wild, last);
      return;
    }
    for (const std::string& name : draft_.list(at))
      if (linux_guest::glob_match(part, name))
        step(guest_path::join(at, name), parts, i, true, last);
  }

  std::vector<FoundPath> found;

 private:
  void step(const std::string& path, const std::vector<std::string>& parts, std::size_t i, bool wild, bool last) {
    const auto st = draft_.lstat(path);
    if (!st)
      return;
    if (last)
      add(path, *st);
    else if (st->type == FileType::directory || (!wild && draft_.is_directory(path)))
      match(path, parts, i + 1, wild);
  }

  void below(const std::string& directory, unsigned depth) {
    if (depth > deepest)
      return;
    for (const std::string& name : draft_.list(directory)) {
      const std::string path = guest_path::join(directory, name);
      const auto st = draft_.lstat(path);
      if (!st || name == "lost+found")
        continue;
      if (st->type == FileType::directory)
        below(path, depth + 1);
      add(path, *st);
    }
  }

  void add(const std::string& path, const FileStat& st) {
    const bool mounted =
        std::ranges::any_of(info_.mounts, [&](const Mount& mount) { return guest_path::clean(mount.path) == path; });
    if (found.size() < most_found && !mounted)
      found.push_back({path, st.type, st.size});
  }

  const GuestInfo& info_;
  const Draft& draft_;
};

} // namespace

std::vector<FoundPath> find_paths(const GuestInfo& info, const Draft& draft, const std::string& pattern) {
  Finder finder(info, draft);
  if (const auto parts = guest_path::split(pattern); !parts.empty())
    finder.match("/", parts, 0, false);
  return std::move(finder.found);
}

std::vector<std::string> find_files(const GuestInfo& info, const Draft& draft,
                                    const std::vector<std::string>& patterns) {
  std::vector<std::string> files;
  for (const std::string& pattern : patterns)
    for (const FoundPath& found : find_paths(info, draft, pattern))
      if (found.type == FileType::regular && std::ranges::find(files, found.path) == files.end())
        files.push_back(found.path);
  return files;
}

} // namespace kvmport::identity
