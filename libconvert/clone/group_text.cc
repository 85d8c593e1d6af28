// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/group_text.h"

#include "formats/lvm.h"
#include "libconvert/clone/identity_rules.h"

#include <algorithm>
#include <cctype>
#include <fmt/format.h>

namespace kvmport {
namespace {

/// Of which names of groups and volumes are made (lvm(8), "VALID NAMES"), but for '.', which also ends them:
/// "….device".
bool is_name(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '+' || c == '-';
}

/// As device-mapper has it in names that consist of two.
std::string doubled(std::string_view name) {
  std::string text;
  for (const char c : name)
    text += c == '-' ? "--" : std::string(1, c);
  return text;
}

/// As systemd-escape(1) has it.
std::string escaped(std::string_view name) {
  std::string text;
  for (const char c : name)
    if (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.' || c == ':')
      text += c;
    else
      text += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return text;
}

/// A head that is a word must not be the end of a longer one; dracut writes "\x2f" for '/' in names of files.
bool begins_there(std::string_view text, std::size_t at) {
  const auto is_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; };
  return at == 0 || !is_word(text[at]) || !is_word(text[at - 1]) || text.substr(0, at).ends_with("\\x2f");
}

bool ends_there(std::string_view text, std::size_t at, bool is_escaped) {
  return at == text.size() || !(is_name(text[at]) || (is_escaped && text.substr(at).starts_with("\\x")));
}

/// Into `result`, what it replaces of `text`; both are equally long.
void replace_notation(std::string_view text, const GroupNotation& notation, std::string& result) {
  const std::string wanted = notation.head + notation.before + notation.tail;
  const bool is_escaped = wanted.find('\\') != std::string::npos;
  for (std::size_t at = text.find(wanted); at != std::string_view::npos; at = text.find(wanted, at + wanted.size())) {
    const std::size_t volume = at + wanted.size();
    const auto follows = [&](const std::string& name) {
      return text.substr(volume).starts_with(name) && ends_there(text, volume + name.size(), is_escaped);
    };
    if (begins_there(text, at) && std::ranges::any_of(notation.volumes, follows))
      result.replace(at + notation.head.size(), notation.after.size(), notation.after);
  }
}

/// In every notation that means the same in any file.
std::string replaced(std::string_view text, const Renaming& renaming) {
  std::string result = replace_uuids(text, renaming.uuids);
  for (const GroupChange& group : renaming.groups)
    for (const GroupNotation& notation : group_notations(group))
      replace_notation(text, notation, result);
  return result;
}

/// Whether the line is a comment up to there.
bool in_comment(std::string_view text, std::size_t at) {
  const std::size_t line = at == 0 ? std::string_view::npos : text.rfind('\n', at - 1);
  const std::size_t begin = line == std::string_view::npos ? 0 : line + 1;
  return text.substr(begin, at - begin).find('#') != std::string_view::npos;
}

/// "volume_list", "auto_activation_volume_list", "read_only_volume_list" of lvm.conf(5): `["vg0", "vg1/root", "@tag"]`.
std::string renamed_lists(std::string text, const std::vector<GroupChange>& groups) {
  constexpr std::string_view key = "volume_list";
  for (std::size_t at = text.find(key); at != std::string::npos; at = text.find(key, at + key.size())) {
    const std::size_t value = text.find_first_not_of(" \t=", at + key.size());
    if (value == std::string::npos || in_comment(text, at))
      continue;
    const std::size_t end = std::min(text.find(text[value] == '[' ? ']' : '\n', value), text.size());
    for (const GroupChange& group : groups) {
      const std::string wanted = '"' + group.before;
      for (std::size_t in = text.find(wanted, value); in < end; in = text.find(wanted, in + 1)) {
        const std::size_t next = in + wanted.size();
        if (next < end && (text[next] == '"' || text[next] == '/'))
          text.replace(in + 1, group.after.size(), group.after);
      }
    }
  }
  return text;
}

/// "vg0_00012-1234567890.vg"; "vg0_1" may be the name of another group.
bool is_archive(std::string_view file, const std::string& group) {
  if (!file.starts_with(group + "_") || !file.ends_with(".vg"))
    return false;
  file.remove_prefix(group.size() + 1);
  return file.find_first_not_of("0123456789") == file.find('-');
}

} // namespace

std::string derive_group_name(std::string_view old_name, const std::string& seed, const std::set<std::string>& taken) {
  constexpr std::string_view digits = "0123456789bcdfghjklmnpqrstvwxyz"; // no vowels, no words
  constexpr std::size_t most_replaced = 5, tries = 1000;
  std::vector<std::size_t> places; // from the end; what is no letter or digit is written otherwise in some notations
  for (std::size_t at = old_name.size(); at-- > 0 && places.size() < most_replaced;)
    if (std::isalnum(static_cast<unsigned char>(old_name[at])) != 0)
      places.push_back(at);
  CloneIdentity identity;
  identity.seed = seed;
  for (std::size_t i = 0; i < tries && !places.empty(); i++) {
    const std::string hex = identity::derived_hex(identity, fmt::format("volume group {} {}", i, old_name), 64);
    std::string name(old_name);
    for (std::size_t p = 0; p < places.size(); p++) {
      const bool first = p + 1 == places.size(); // a number: no "sda", which /dev may have
      name[places[p]] = digits[std::stoul(hex.substr(4 * p, 4), nullptr, 16) % (first ? 10 : digits.size())];
    }
    if (name != old_name && !taken.contains(name))
      return name;
  }
  return {};
}

std::vector<GroupNotation> group_notations(const GroupChange& group) {
  const std::string &before = group.before, &after = group.after;
  std::vector<GroupNotation> all;
  for (const char* head : {"/dev/", "rd.lvm.lv=", "rd_LVM_LV="})
    all.push_back({head, before, after, "/", group.volumes});
  all.push_back({R"(\x2fdev\x2f)", before, after, R"(\x2f)", group.volumes});
  for (const char* head : {"rd.lvm.vg=", "rd_LVM_VG=", R"(DM_VG_NAME}==")"})
    all.push_back({head, before, after, "", {""}});

  GroupNotation mapper{"", doubled(before), doubled(after), "-", {}},
      unit{"dev-", escaped(before), escaped(after), "-", {}};
  GroupNotation mapper_unit{"", escaped(mapper.before), escaped(mapper.after), R"(\x2d)", {}};
  for (const std::string& volume : group.volumes) {
    mapper.volumes.push_back(doubled(volume));
    unit.volumes.push_back(escaped(volume));
    mapper_unit.volumes.push_back(escaped(doubled(volume)));
  }
  all.push_back(unit);
  for (const char* head : {"mapper/", R"(mapper\x2f)", "dm-name-", "lvm/", "lvm=", R"(DM_NAME}==")"}) {
    mapper.head = head;
    all.push_back(mapper);
  }
  for (const char* head : {"dev-mapper-", R"(dm\x2dname\x2d)"}) {
    mapper_unit.head = head;
    all.push_back(mapper_unit);
  }
  return all;
}

std::string old_name_pattern(const GroupNotation& notation) {
  const auto literal = [](const std::string& text) {
    std::string pattern;
    for (const char c : text)
      pattern += std::string_view(".+}\\").find(c) != std::string_view::npos ? std::string{'\\', c} : std::string{c};
    return pattern;
  };
  std::string volumes;
  for (const std::string& volume : notation.volumes)
    volumes += (volumes.empty() ? "" : "|") + literal(volume);
  return literal(notation.head + notation.before + notation.tail) + "(" + volumes + R"()([^A-Za-z0-9_+\-]|$))";
}

std::string renamed_text(const std::string& path, std::string_view text, const Renaming& renaming) {
  if (path.find("etc/lvm/") != std::string::npos) {
    if (text.find("contents = \"Text Format Volume Group\"") != std::string_view::npos)
      return renamed_metadata(text, renaming);
    return renamed_lists(replaced(text, renaming), renaming.groups);
  }
  return replaced(text, renaming);
}

std::string renamed_path(std::string_view path, const Renaming& renaming) {
  std::string result = replaced(path, renaming);
  const std::size_t slash = result.rfind('/');
  if (slash == std::string::npos)
    return result;
  const std::string directory = result.substr(0, slash), name = result.substr(slash + 1);
  for (const GroupChange& group : renaming.groups)
    if ((directory.ends_with("etc/lvm/backup") && name == group.before) ||
        (directory.ends_with("etc/lvm/archive") && is_archive(name, group.before)))
      result.replace(slash + 1, group.after.size(), group.after);
  return result;
}

std::string renamed_metadata(std::string_view text, const Renaming& renaming) {
  std::string result = replaced(text, renaming);
  for (const GroupChange& group : renaming.groups)
    result = rename_lvm_group(result, group.before, group.after);
  return result;
}

} // namespace kvmport
