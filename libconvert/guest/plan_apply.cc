// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"
#include "libconvert/guest/filesystem_paths.h"
#include "libconvert/guest/plan.h"
#include "libconvert/guest/plan_labels.h"

#include <map>
#include <set>

namespace kvmport {
namespace {

constexpr const char* relabel_flag = "/.autorelabel";
constexpr std::uint64_t block = 4096;

/// Gives new files their labels.
class Labeller {
 public:
  explicit Labeller(GuestFilesystem& guest) : guest_(guest), policy_(guest) {}

  void created(const std::string& path, FileType type) {
    if (!policy_.active() || relabel_)
      return;
    auto label = policy_.label_for(path, type);
    if (!label)
      label = neighbour(path, type);
    if (label)
      guest_.set_label(path, *label);
    else
      relabel_ = true;
  }
  void finish() {
    if (relabel_ && !guest_.exists(relabel_flag))
      guest_.write(relabel_flag, "");
  }

 private:
  /// The label of a file of the same kind in the same directory.
  std::optional<std::string> neighbour(const std::string& path, FileType type) const {
    const std::string directory = guest_path::parent(path);
    const auto ending = [](const std::string& name) {
      const auto dot = name.rfind('.');
      return dot == std::string::npos ? std::string() : name.substr(dot);
    };
    for (const auto& name : guest_.list(directory)) {
      const std::string other = guest_path::join(directory, name);
      const auto st = guest_.lstat(other);
      if (other != path && st && st->type == type && ending(name) == ending(guest_path::name(path)))
        if (auto label = guest_.label(other))
          return label;
    }
    return std::nullopt;
  }

  GuestFilesystem& guest_;
  LabelPolicy policy_;
  bool relabel_ = false;
};

/// True when the next change to the same path writes it anew and nothing in between looks at it.
bool overwritten_later(const std::vector<Change>& changes, std::size_t i) {
  const std::string& path = changes[i].path;
  for (std::size_t k = i + 1; k < changes.size(); k++)
    if (changes[k].path == path || changes[k].target == path)
      return changes[k].path == path && changes[k].kind == Change::Kind::write;
  return false;
}

void apply_change(const Change& change, GuestFilesystem& guest, Labeller& labels) {
  switch (change.kind) {
  case Change::Kind::write: {
    const bool is_new = !guest.exists(change.path);
    guest.write(change.path, change.after, change.mode);
    if (is_new)
      labels.created(change.path, FileType::regular);
    break;
  }
  case Change::Kind::append:
    guest.append(change.path, change.after);
    break;
  case Change::Kind::empty:
    guest.write(change.path, "");
    break;
  case Change::Kind::copy:
    guest.copy(change.path, change.target);
    break;
  case Change::Kind::rename:
    guest.rename(change.path, change.target);
    break;
  case Change::Kind::remove:
    guest.remove(change.path);
    break;
  case Change::Kind::symlink:
    guest.symlink(change.target, change.path);
    labels.created(change.path, FileType::symlink);
    break;
  case Change::Kind::mkdir:
    guest.make_directories(change.path);
    labels.created(change.path, FileType::directory);
    break;
  }
}

std::uint64_t size_on_disk(std::uint64_t bytes) {
  return round_up(bytes, block);
}

/// Bytes that a change adds to its filesystem. What a change frees is not counted: it may be freed later than needed.
std::uint64_t growth(const Change& change, const GuestFilesystem& guest) {
  switch (change.kind) {
  case Change::Kind::write: {
    const std::uint64_t after = size_on_disk(change.after.size()), before = size_on_disk(change.before.size());
    return after > before ? after - before : 0;
  }
  case Change::Kind::append:
    return size_on_disk(change.after.size());
  case Change::Kind::copy: {
    const auto st = guest.stat(change.path);
    return st ? size_on_disk(st->size) : 0;
  }
  case Change::Kind::mkdir:
  case Change::Kind::symlink:
    return block;
  case Change::Kind::empty:
  case Change::Kind::rename:
  case Change::Kind::remove:
    break;
  }
  return 0;
}

std::string megabytes(std::uint64_t bytes) {
  return std::to_string(div_round_up(bytes, 1U << 20)) + " MiB";
}

} // namespace

void check_room(const Plan& plan, const GuestFilesystem& guest) {
  struct Need {
    FreeSpace space;
    std::string path;
    std::uint64_t bytes = 0;
  };
  std::map<std::string, std::optional<FreeSpace>> by_directory;
  std::map<std::string, Need> needs;
  for (const auto& change : plan.changes) {
    const std::string& path = change.kind == Change::Kind::copy ? change.target : change.path;
    const std::string directory = guest_path::parent(path);
    auto it = by_directory.find(directory);
    if (it == by_directory.end())
      it = by_directory.emplace(directory, guest.free_space(path)).first;
    if (!it->second)
      continue;
    Need& need = needs.try_emplace(it->second->filesystem, Need{*it->second, path}).first->second;
    need.bytes = checked_add(need.bytes, growth(change, guest), "the size of the changes");
  }
  for (const auto& [filesystem, need] : needs)
    if (need.bytes > 0 && need.space.bytes < need.bytes + free_space_reserve)
      throw Error("GUEST_NO_SPACE", "the guest's filesystem that holds " + need.path + " has no room for the changes",
                  megabytes(need.space.bytes) + " free, " + megabytes(need.bytes + free_space_reserve) + " needed",
                  "free some space in the guest (old kernels are often the cause) and convert it again");
}

void apply_plan(const Plan& plan, GuestFilesystem& guest) {
  check_room(plan, guest);
  Labeller labels(guest);
  for (std::size_t i = 0; i < plan.changes.size(); i++)
    if (plan.changes[i].kind != Change::Kind::write || !overwritten_later(plan.changes, i))
      apply_change(plan.changes[i], guest, labels);
  labels.finish();
}

} // namespace kvmport
