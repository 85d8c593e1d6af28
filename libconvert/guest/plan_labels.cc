// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/plan_labels.h"

#include "libconvert/guest/filesystem_paths.h"

#include <algorithm>
#include <regex>
#include <sstream>

namespace kvmport {
namespace {

constexpr const char* config_file = "/etc/selinux/config";

/// NAME=value in a file of shell-like lines; the last one counts.
std::string value_of(const std::string& text, const std::string& name) {
  std::string value;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    line.erase(0, line.find_first_not_of(" \t"));
    if (!line.starts_with(name + "="))
      continue;
    value = line.substr(name.size() + 1);
    value.erase(std::remove_if(value.begin(), value.end(), [](char c) { return c == '"' || c == '\'' || c == ' '; }),
                value.end());
  }
  return value;
}

/// The part of a regular expression before its first special character.
std::string fixed_stem(const std::string& pattern) {
  std::string stem;
  for (std::size_t i = 0; i < pattern.size(); i++) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size() && std::ispunct(static_cast<unsigned char>(pattern[i + 1]))) {
      stem += pattern[++i];
      continue;
    }
    if (std::string_view(".^$?*+|[](){}\\").find(c) != std::string_view::npos) {
      // The character before a quantifier belongs to it.
      if ((c == '?' || c == '*' || c == '{') && !stem.empty())
        stem.pop_back();
      // An alternative at the top level may begin with anything.
      if (pattern.find('|') != std::string::npos && pattern.find('(') == std::string::npos)
        stem.clear();
      break;
    }
    stem += c;
  }
  return stem;
}

std::string_view type_letter(FileType type) {
  switch (type) {
  case FileType::regular:
    return "--";
  case FileType::directory:
    return "-d";
  case FileType::symlink:
    return "-l";
  case FileType::other:
    break;
  }
  return "";
}

} // namespace

LabelPolicy::LabelPolicy(const GuestFilesystem& guest) {
  const auto config = guest.try_read(config_file);
  if (!config)
    return;
  const std::string state = value_of(*config, "SELINUX");
  active_ = state == "enforcing" || state == "permissive";
  if (!active_)
    return;
  const std::string directory = "/etc/selinux/" + value_of(*config, "SELINUXTYPE") + "/contexts/files/";
  for (const char* name : {"file_contexts", "file_contexts.homedirs", "file_contexts.local"})
    if (const auto text = guest.try_read(directory + name))
      read_rules(*text);
  for (const char* name : {"file_contexts.subs_dist", "file_contexts.subs"})
    if (const auto text = guest.try_read(directory + name))
      read_substitutions(*text);
}

void LabelPolicy::read_rules(const std::string& text) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string pattern, second, third;
    words >> pattern >> second >> third;
    if (pattern.empty() || pattern.front() != '/' || second.empty())
      continue;
    Rule rule{pattern, fixed_stem(pattern), third.empty() ? "" : second, third.empty() ? second : third};
    rules_.push_back(std::move(rule));
  }
}

void LabelPolicy::read_substitutions(const std::string& text) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string from, to;
    if (words >> from >> to && from.starts_with('/') && to.starts_with('/'))
      substitutions_.emplace_back(from, to);
  }
}

std::optional<std::string> LabelPolicy::label_for(const std::string& path, FileType type) const {
  std::string known = path;
  for (const auto& [from, to] : substitutions_)
    if (guest_path::below(known, from)) {
      known = guest_path::clean(to + known.substr(from.size()));
      break;
    }
  // The last rule that matches counts, except that one without special characters beats all others.
  const Rule* best = nullptr;
  bool best_exact = false;
  for (const auto& rule : rules_) {
    if (!known.starts_with(rule.stem) || (!rule.type.empty() && rule.type != type_letter(type)))
      continue;
    const bool exact = rule.stem == known && rule.pattern.find_first_of(".^$?*+|[](){}") == std::string::npos;
    if (best_exact && !exact)
      continue;
    try {
      if (!exact && !std::regex_match(known, std::regex(rule.pattern, std::regex::ECMAScript | std::regex::optimize)))
        continue;
    } catch (const std::regex_error&) {
      continue;
    }
    best = &rule;
    best_exact = exact;
  }
  if (!best || best->label == "<<none>>")
    return std::nullopt;
  return best->label;
}

} // namespace kvmport
