// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/filesystem_paths.h"

#include <algorithm>
#include <deque>

namespace kvmport::guest_path {
namespace {

constexpr int most_links = 40;

std::string join_all(const std::vector<std::string>& parts) {
  std::string path;
  for (const auto& part : parts)
    path += "/" + part;
  return path.empty() ? "/" : path;
}

} // namespace

std::vector<std::string> split(std::string_view path) {
  std::vector<std::string> parts;
  while (!path.empty()) {
    const std::string_view part = path.substr(0, path.find('/'));
    path.remove_prefix(std::min(path.size(), part.size() + 1));
    if (!part.empty() && part != ".")
      parts.emplace_back(part);
  }
  return parts;
}

std::string clean(std::string_view path) {
  std::vector<std::string> out;
  for (auto& part : split(path)) {
    if (part != "..")
      out.push_back(std::move(part));
    else if (!out.empty())
      out.pop_back();
  }
  return join_all(out);
}

std::string parent(std::string_view path) {
  const std::string whole = clean(path);
  const auto slash = whole.rfind('/');
  return slash == 0 ? "/" : whole.substr(0, slash);
}

std::string name(std::string_view path) {
  const std::string whole = clean(path);
  return whole.substr(whole.rfind('/') + 1);
}

std::string join(std::string_view directory, std::string_view name) {
  return clean(std::string(directory) + "/" + std::string(name));
}

bool below(std::string_view path, std::string_view directory) {
  return directory == "/" || path == directory ||
         (path.size() > directory.size() && path.starts_with(directory) && path[directory.size()] == '/');
}

std::optional<std::string> resolve(std::string_view path, bool follow_last, const LinkReader& link) {
  const auto parts = split(path);
  std::deque<std::string> todo(parts.begin(), parts.end());
  std::vector<std::string> done;
  int links = 0;
  while (!todo.empty()) {
    std::string part = std::move(todo.front());
    todo.pop_front();
    if (part == "..") {
      if (!done.empty())
        done.pop_back();
      continue;
    }
    done.push_back(std::move(part));
    if (todo.empty() && !follow_last)
      break;
    const auto target = link(join_all(done));
    if (!target)
      continue;
    if (++links > most_links)
      return std::nullopt;
    done.pop_back();
    if (target->starts_with('/'))
      done.clear();
    const auto more = split(*target);
    todo.insert(todo.begin(), more.begin(), more.end());
  }
  return join_all(done);
}

} // namespace kvmport::guest_path
