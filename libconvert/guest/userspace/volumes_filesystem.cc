// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/userspace/volumes_filesystem.h"

#include "base/error.h"
#include "libconvert/guest/filesystem_paths.h"

namespace kvmport {

void VolumesFilesystem::mount(const std::string& path, std::unique_ptr<Volume> volume) {
  volumes_[path] = std::move(volume);
}

void VolumesFilesystem::flush() {
  for (auto& [path, volume] : volumes_)
    volume->flush();
}

VolumesFilesystem::Place VolumesFilesystem::place(const std::string& resolved) const {
  // The longest mount point that the path lies below.
  const std::string* best = nullptr;
  Volume* volume = nullptr;
  for (const auto& [path, candidate] : volumes_)
    if (guest_path::below(resolved, path) && (!best || path.size() > best->size())) {
      best = &path;
      volume = candidate.get();
    }
  if (!volume)
    throw Error("GUEST_READ_FAILED", "no filesystem of the guest is mounted for " + resolved);
  return {volume, *best == "/" ? resolved : guest_path::clean("/" + resolved.substr(best->size())), *best};
}

std::optional<FileStat> VolumesFilesystem::at(const std::string& resolved) const {
  const Place p = place(resolved);
  return p.volume->lstat(p.path);
}

std::string VolumesFilesystem::resolve(const std::string& path, bool follow_last) const {
  const auto link = [this](const std::string& at_path) -> std::optional<std::string> {
    const Place p = place(at_path);
    const auto stat = p.volume->lstat(p.path);
    if (!stat || stat->type != FileType::symlink)
      return std::nullopt;
    return p.volume->readlink(p.path);
  };
  const auto resolved = guest_path::resolve(path, follow_last, link);
  if (!resolved)
    throw Error("GUEST_READ_FAILED", path + " leads through too many links in the guest");
  return *resolved;
}

std::optional<FileStat> VolumesFilesystem::stat(const std::string& path) const {
  const std::string resolved = resolve(path, true);
  auto found = at(resolved);
  if (found && found->type == FileType::symlink)
    return std::nullopt;
  return found;
}

std::optional<FileStat> VolumesFilesystem::lstat(const std::string& path) const {
  return at(resolve(path, false));
}

std::vector<std::string> VolumesFilesystem::list(const std::string& directory) const {
  const Place p = place(resolve(directory, true));
  return p.volume->list(p.path);
}

std::string VolumesFilesystem::read(const std::string& path, std::uint64_t limit) const {
  const Place p = place(resolve(path, true));
  const auto found = p.volume->lstat(p.path);
  if (!found || found->type != FileType::regular)
    throw Error("GUEST_FILE_MISSING", path + " is no file of the guest");
  if (found->size > limit)
    throw Error("GUEST_FILE_TOO_LARGE", path + " is larger than " + std::to_string(limit) + " bytes");
  return p.volume->read(p.path, limit);
}

std::string VolumesFilesystem::read_head(const std::string& path, std::size_t bytes) const {
  const Place p = place(resolve(path, true));
  return p.volume->read(p.path, bytes);
}

std::string VolumesFilesystem::readlink(const std::string& path) const {
  const Place p = place(resolve(path, false));
  return p.volume->readlink(p.path);
}

std::string VolumesFilesystem::realpath(const std::string& path) const {
  return resolve(path, true);
}

std::optional<std::string> VolumesFilesystem::label(const std::string& path) const {
  const Place p = place(resolve(path, false));
  return p.volume->label(p.path);
}

std::optional<FreeSpace> VolumesFilesystem::free_space(const std::string& path) const {
  const Place p = place(resolve(path, true));
  FreeSpace space = p.volume->free_space();
  space.filesystem = p.mount;
  return space;
}

void VolumesFilesystem::write(const std::string& path, std::string_view content, std::uint32_t mode) {
  const Place p = place(resolve(path, true));
  if (p.volume->lstat(p.path))
    p.volume->rewrite(p.path, content);
  else
    p.volume->create(p.path, content, mode);
}

void VolumesFilesystem::append(const std::string& path, std::string_view content) {
  const Place p = place(resolve(path, true));
  p.volume->append(p.path, content);
}

void VolumesFilesystem::remove(const std::string& path) {
  const Place p = place(resolve(path, false));
  p.volume->remove(p.path);
}

void VolumesFilesystem::rename(const std::string& from, const std::string& to) {
  const Place source = place(resolve(from, false)), target = place(resolve(to, false));
  if (source.volume == target.volume) {
    source.volume->rename(source.path, target.path);
    return;
  }
  copy(from, to);
  source.volume->remove(source.path);
}

void VolumesFilesystem::copy(const std::string& from, const std::string& to) {
  const Place source = place(resolve(from, true)), target = place(resolve(to, true));
  const auto found = source.volume->lstat(source.path);
  if (!found || found->type != FileType::regular)
    throw Error("GUEST_FILE_MISSING", from + " is no file of the guest");
  if (source.volume == target.volume) {
    source.volume->copy(source.path, target.path);
    return;
  }
  const std::string content = source.volume->read(source.path, UINT64_MAX);
  if (target.volume->lstat(target.path))
    target.volume->rewrite(target.path, content);
  else
    target.volume->create(target.path, content, found->mode);
  if (const auto selinux = source.volume->label(source.path))
    target.volume->set_label(target.path, *selinux);
}

void VolumesFilesystem::symlink(const std::string& target, const std::string& path) {
  const Place p = place(resolve(path, false));
  p.volume->symlink(target, p.path);
}

void VolumesFilesystem::make_directories(const std::string& path) {
  std::string so_far;
  for (const auto& part : guest_path::split(path)) {
    so_far += "/" + part;
    const Place p = place(resolve(so_far, true));
    if (!p.volume->lstat(p.path))
      p.volume->make_directory(p.path);
  }
}

void VolumesFilesystem::set_label(const std::string& path, const std::string& label) {
  const Place p = place(resolve(path, false));
  p.volume->set_label(p.path, label);
}

} // namespace kvmport
