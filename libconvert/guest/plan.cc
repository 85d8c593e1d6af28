// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/plan.h"

#include "base/error.h"
#include "libconvert/guest/filesystem_paths.h"

#include <algorithm>
#include <set>

namespace kvmport {
namespace {

constexpr std::uint64_t read_limit = 512U << 20;

bool looks_binary(std::string_view content) {
  return content.substr(0, 64U << 10).find('\0') != std::string_view::npos;
}

FileStat stat_of(FileType type, std::uint32_t mode) {
  FileStat st;
  st.type = type;
  st.mode = type == FileType::directory ? 0755 : mode;
  return st;
}

} // namespace

Draft::Draft(const GuestFilesystem& guest, Plan& plan) : guest_(guest), plan_(plan) {}

std::string Draft::resolve(const std::string& path, bool follow_last) const {
  const auto link = [this](const std::string& p) -> std::optional<std::string> {
    if (const auto it = pending_.find(p); it != pending_.end())
      return it->second.present && it->second.type == FileType::symlink ? std::optional(it->second.content)
                                                                        : std::nullopt;
    const auto st = guest_.lstat(p);
    if (!st || st->type != FileType::symlink)
      return std::nullopt;
    return guest_.readlink(p);
  };
  auto resolved = guest_path::resolve(path, follow_last, link);
  if (!resolved)
    throw Error("GUEST_READ_FAILED", "too many links on the way to " + path + " in the guest");
  return *resolved;
}

std::optional<FileStat> Draft::lstat(const std::string& path) const {
  const std::string there = resolve(path, false);
  const auto it = pending_.find(there);
  if (it == pending_.end())
    return guest_.lstat(there);
  const Pending& pending = it->second;
  if (!pending.present)
    return std::nullopt;
  FileStat st = stat_of(pending.type, pending.mode);
  st.size = pending.content.size();
  if (!pending.base.empty())
    if (const auto base = guest_.stat(pending.base))
      st.size += base->size;
  return st;
}

bool Draft::exists(const std::string& path) const {
  return lstat(resolve(path)).has_value();
}

bool Draft::is_directory(const std::string& path) const {
  const auto st = lstat(resolve(path));
  return st && st->type == FileType::directory;
}

std::vector<std::string> Draft::list(const std::string& directory) const {
  const std::string there = resolve(directory);
  const auto names = guest_.list(there);
  std::set<std::string> out(names.begin(), names.end());
  for (const auto& [path, pending] : pending_) {
    if (path == "/" || guest_path::parent(path) != there)
      continue;
    if (pending.present)
      out.insert(guest_path::name(path));
    else
      out.erase(guest_path::name(path));
  }
  return {out.begin(), out.end()};
}

std::optional<std::string> Draft::try_read(const std::string& path) const {
  const std::string there = resolve(path);
  const auto it = pending_.find(there);
  if (it == pending_.end())
    return guest_.try_read(there, read_limit);
  const Pending& pending = it->second;
  if (!pending.present || pending.type != FileType::regular)
    return std::nullopt;
  return pending.base.empty() ? pending.content : guest_.read(pending.base, read_limit) + pending.content;
}

std::string Draft::readlink(const std::string& path) const {
  const std::string there = resolve(path, false);
  const auto it = pending_.find(there);
  if (it == pending_.end())
    return guest_.readlink(there);
  if (!it->second.present || it->second.type != FileType::symlink)
    throw Error("GUEST_FILE_MISSING", "the guest has no link " + path);
  return it->second.content;
}

std::string to_string(Change::Kind kind) {
  switch (kind) {
  case Change::Kind::write:
    return "write";
  case Change::Kind::append:
    return "append";
  case Change::Kind::empty:
    return "empty";
  case Change::Kind::copy:
    return "copy";
  case Change::Kind::rename:
    return "rename";
  case Change::Kind::remove:
    return "remove";
  case Change::Kind::symlink:
    return "symlink";
  case Change::Kind::mkdir:
    return "mkdir";
  }
  return "unknown";
}

Change& Draft::record(Change::Kind kind, const std::string& path, const std::string& reason) {
  Change& change = plan_.changes.emplace_back();
  change.kind = kind;
  change.step = step;
  change.path = path;
  change.reason = reason;
  return change;
}

/// What is there now, as something that can be changed further; Error when it is no file or link.
Draft::Pending Draft::file_at(const std::string& path, const char* doing) const {
  if (const auto it = pending_.find(path);
      it != pending_.end() && it->second.present && it->second.type != FileType::directory)
    return it->second;
  const auto st = lstat(path);
  if (!st || (st->type != FileType::regular && st->type != FileType::symlink))
    throw Error("GUEST_FILE_MISSING", std::string("cannot ") + doing + " " + path + ": the guest has no such file");
  Pending pending;
  pending.type = st->type;
  pending.mode = st->mode;
  if (st->type == FileType::symlink)
    pending.content = guest_.readlink(path);
  else
    pending.base = path;
  return pending;
}

void Draft::write(const std::string& path, const std::string& content, const std::string& reason, std::uint32_t mode) {
  const std::string there = resolve(path);
  const auto st = lstat(there);
  if (st && st->type != FileType::regular)
    throw Error("GUEST_WRITE_FAILED", "cannot write " + path + " in the guest: it is not a file");
  std::string before = st ? *try_read(there) : std::string();
  if (st && before == content)
    return;
  if (!st)
    make_directories(guest_path::parent(there), reason);
  Change& change = record(Change::Kind::write, there, reason);
  change.existed = st.has_value();
  change.mode = st ? st->mode : mode;
  change.binary = looks_binary(content) || looks_binary(before);
  change.before = std::move(before);
  change.after = content;
  pending_[there] = {true, FileType::regular, "", content, change.mode};
}

void Draft::append(const std::string& path, const std::string& bytes, const std::string& reason) {
  if (bytes.empty())
    return;
  const std::string there = resolve(path);
  Pending pending = file_at(there, "append to");
  pending.content += bytes;
  Change& change = record(Change::Kind::append, there, reason);
  change.existed = true;
  change.mode = pending.mode;
  change.binary = looks_binary(bytes);
  change.after = bytes;
  pending_[there] = std::move(pending);
}

void Draft::empty(const std::string& path, const std::string& reason) {
  const std::string there = resolve(path);
  const auto st = lstat(there);
  if (!st || st->type != FileType::regular)
    throw Error("GUEST_WRITE_FAILED", "cannot empty " + path + " in the guest: it is not a file");
  if (st->size == 0)
    return;
  Change& change = record(Change::Kind::empty, there, reason);
  change.existed = true;
  change.mode = st->mode;
  pending_[there] = {true, FileType::regular, "", "", st->mode};
}

void Draft::copy(const std::string& from, const std::string& to, const std::string& reason) {
  const std::string source = resolve(from), target = resolve(to);
  Pending pending = file_at(source, "copy");
  const bool existed = lstat(target).has_value();
  if (!existed)
    make_directories(guest_path::parent(target), reason);
  Change& change = record(Change::Kind::copy, source, reason);
  change.target = target;
  change.existed = existed;
  change.mode = pending.mode;
  pending_[target] = std::move(pending);
}

void Draft::rename(const std::string& from, const std::string& to, const std::string& reason) {
  const std::string source = resolve(from, false), target = resolve(to, false);
  if (source == target)
    return;
  Pending pending = file_at(source, "rename");
  const bool existed = lstat(target).has_value();
  if (!existed)
    make_directories(guest_path::parent(target), reason);
  Change& change = record(Change::Kind::rename, source, reason);
  change.target = target;
  change.existed = existed;
  change.mode = pending.mode;
  pending_[target] = std::move(pending);
  pending_[source] = {false, FileType::regular, "", "", 0};
}

void Draft::remove(const std::string& path, const std::string& reason) {
  const std::string there = resolve(path, false);
  if (!lstat(there))
    return;
  const Pending old = file_at(there, "remove");
  Change& change = record(Change::Kind::remove, there, reason);
  change.existed = true;
  change.mode = old.mode;
  pending_[there] = {false, FileType::regular, "", "", 0};
}

void Draft::remove_directory(const std::string& path, const std::string& reason) {
  const std::string there = resolve(path, false);
  const auto st = lstat(there);
  if (!st)
    return;
  if (st->type != FileType::directory || !list(there).empty())
    throw Error("GUEST_WRITE_FAILED", "cannot remove " + path + " in the guest: it is no empty directory");
  Change& change = record(Change::Kind::remove, there, reason);
  change.existed = true;
  change.mode = st->mode;
  pending_[there] = {false, FileType::directory, "", "", 0};
}

void Draft::symlink(const std::string& target, const std::string& path, const std::string& reason) {
  const std::string there = resolve(path, false);
  if (const auto st = lstat(there)) {
    if (st->type == FileType::symlink && readlink(there) == target)
      return;
    remove(there, reason);
  }
  make_directories(guest_path::parent(there), reason);
  Change& change = record(Change::Kind::symlink, there, reason);
  change.target = target;
  change.mode = 0777;
  pending_[there] = {true, FileType::symlink, "", target, 0777};
}

void Draft::make_directories(const std::string& path, const std::string& reason) {
  const std::string there = resolve(path);
  if (is_directory(there))
    return;
  if (there == "/")
    return;
  if (exists(there))
    throw Error("GUEST_WRITE_FAILED", "cannot make the directory " + path + " in the guest: a file has this name");
  make_directories(guest_path::parent(there), reason);
  record(Change::Kind::mkdir, there, reason).mode = 0755;
  pending_[there] = {true, FileType::directory, "", "", 0755};
}

void Draft::warn(const std::string& text) {
  plan_.warnings.push_back(text);
}
void Draft::note(const std::string& text) {
  plan_.notes.push_back(text);
}

Plan make_plan(const GuestInfo& info, const GuestFilesystem& guest, const std::vector<Step>& steps) {
  Plan plan;
  Draft draft(guest, plan);
  for (const auto& step : steps) {
    draft.step = step.name;
    step.run(info, draft);
  }
  return plan;
}

} // namespace kvmport
