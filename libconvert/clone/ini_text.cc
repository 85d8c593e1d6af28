// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/ini_text.h"

#include "libconvert/guest/linux/text.h"

#include <algorithm>

namespace kvmport {

using linux_guest::split_lines;
using linux_guest::trim;

namespace {

/// "[name]" → name; empty: no heading.
std::string_view heading(std::string_view line) {
  const std::string_view body = trim(line);
  return body.size() > 2 && body.front() == '[' && body.back() == ']' ? body.substr(1, body.size() - 2)
                                                                      : std::string_view{};
}

} // namespace

IniText::IniText(std::string_view text) : lines_(split_lines(text)) {
  if (!lines_.empty() && !lines_.back().ends_with('\n'))
    lines_.back() += '\n';
}

std::vector<IniText::Entry> IniText::entries() const {
  std::vector<Entry> all;
  std::string name;
  std::size_t section = 0;
  for (std::size_t i = 0; i < lines_.size(); i++) {
    const std::string_view body = trim(lines_[i]);
    if (const std::string_view found = heading(body); !found.empty()) {
      name = found;
      section++;
    }
    const std::size_t equals = body.find('=');
    if (equals == std::string_view::npos || body.front() == '#' || body.front() == ';' || body.front() == '[')
      continue;
    all.push_back(
        {i, section, name, std::string(trim(body.substr(0, equals))), std::string(trim(body.substr(equals + 1)))});
  }
  return all;
}

void IniText::set(const Entry& entry, const std::string& key, const std::string& value) {
  lines_[entry.line] = key + "=" + value + "\n";
}

void IniText::remove(const Entry& entry) {
  lines_.erase(lines_.begin() + static_cast<std::ptrdiff_t>(entry.line));
}

void IniText::set(std::string_view section, const std::string& key, const std::string& value) {
  bool there = false;
  auto all = entries();
  std::erase_if(all, [&](const Entry& entry) { return entry.name != section || entry.key != key; });
  for (std::size_t i = all.size(); i-- > 0;)
    if (i == 0) {
      set(all[0], key, value);
      there = true;
    } else {
      remove(all[i]);
    }
  if (!there)
    add(section, key, value);
}

void IniText::add(std::string_view section, const std::string& key, const std::string& value) {
  const auto begin = std::ranges::find_if(lines_, [&](const std::string& line) { return heading(line) == section; });
  if (begin == lines_.end()) {
    if (!lines_.empty() && !trim(lines_.back()).empty())
      lines_.emplace_back("\n");
    lines_.push_back("[" + std::string(section) + "]\n");
    lines_.push_back(key + "=" + value + "\n");
    return;
  }
  auto last = begin;
  for (auto at = begin + 1; at != lines_.end() && heading(*at).empty(); at++)
    if (!trim(*at).empty())
      last = at;
  lines_.insert(last + 1, key + "=" + value + "\n");
}

std::string IniText::text() const {
  std::string all;
  for (const std::string& line : lines_)
    all += line;
  return all;
}

} // namespace kvmport
