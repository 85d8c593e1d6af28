// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <cctype>
#include <fnmatch.h>

namespace kvmport::linux_guest {

namespace {

bool is_blank(char c) {
  return c == ' ' || c == '\t';
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

} // namespace

std::vector<std::string> split_lines(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    const std::size_t length = end == std::string_view::npos ? text.size() : end + 1;
    lines.emplace_back(text.substr(0, length));
    text.remove_prefix(length);
  }
  return lines;
}

std::string_view line_body(std::string_view line) {
  if (line.ends_with('\n'))
    line.remove_suffix(1);
  if (line.ends_with('\r'))
    line.remove_suffix(1);
  return line;
}

std::vector<Word> split_words(std::string_view line) {
  std::vector<Word> words;
  for (std::size_t at = 0; at < line.size();) {
    if (is_blank(line[at])) {
      at++;
      continue;
    }
    std::size_t end = at;
    while (end < line.size() && !is_blank(line[end]))
      end++;
    words.push_back({at, line.substr(at, end - at)});
    at = end;
  }
  return words;
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())))
    text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())))
    text.remove_suffix(1);
  return text;
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return std::tolower(c); });
  return out;
}

bool equal_nocase(std::string_view a, std::string_view b) {
  return a.size() == b.size() && lower(a) == lower(b);
}

bool starts_with_nocase(std::string_view text, std::string_view prefix) {
  return text.size() >= prefix.size() && equal_nocase(text.substr(0, prefix.size()), prefix);
}

std::string_view base_name(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

std::string_view directory_of(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? std::string_view{} : path.substr(0, slash);
}

std::string join_path(std::string_view directory, std::string_view name) {
  std::string path(directory);
  if (!path.ends_with('/'))
    path += '/';
  return path += name;
}

std::string edit_lines(std::string_view text, const std::function<bool(std::string&, std::size_t)>& edit) {
  std::string out;
  std::size_t number = 0;
  for (const std::string& line : split_lines(text)) {
    std::string body(line_body(line));
    const std::string ending = line.substr(body.size());
    if (edit(body, ++number))
      out += body + ending;
  }
  return out;
}

std::string unquote(std::string_view value) {
  if (value.size() >= 2 && (value.front() == '"' || value.front() == '\'') && value.back() == value.front())
    value = value.substr(1, value.size() - 2);
  return std::string(value);
}

std::optional<std::string> shell_value(std::string_view text, std::string_view name) {
  std::optional<std::string> found;
  for (const std::string& line : split_lines(text)) {
    std::string_view body = trim(line);
    if (body.starts_with("export "))
      body = trim(body.substr(7));
    if (!body.starts_with(name) || body.size() <= name.size() || body[name.size()] != '=')
      continue;
    std::string_view value = trim(body.substr(name.size() + 1));
    if (!value.starts_with('"') && !value.starts_with('\'')) // a comment may follow a bare word
      value = value.substr(0, value.find_first_of(" \t"));
    else if (const std::size_t close = value.find(value.front(), 1); close != std::string_view::npos)
      value = value.substr(0, close + 1);
    found = unquote(value);
  }
  return found;
}

bool glob_match(const std::string& pattern, const std::string& text) {
  return ::fnmatch(pattern.c_str(), text.c_str(), 0) == 0;
}

bool natural_less(std::string_view a, std::string_view b) {
  std::size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (!is_digit(a[i]) || !is_digit(b[j])) {
      if (a[i] != b[j])
        return a[i] < b[j];
      i++;
      j++;
      continue;
    }
    std::size_t x = i, y = j;
    while (x < a.size() && is_digit(a[x]))
      x++;
    while (y < b.size() && is_digit(b[y]))
      y++;
    std::string_view m = a.substr(i, x - i), n = b.substr(j, y - j);
    m.remove_prefix(std::min(m.find_first_not_of('0'), m.size()));
    n.remove_prefix(std::min(n.find_first_not_of('0'), n.size()));
    if (m.size() != n.size())
      return m.size() < n.size();
    if (m != n)
      return m < n;
    i = x;
    j = y;
  }
  return a.size() - i < b.size() - j;
}

} // namespace kvmport::linux_guest
