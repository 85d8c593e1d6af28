// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/sys_tree.h"

#include "base/file.h"
#include "libconvert/machine/text.h"

#include <algorithm>
#include <charconv>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

constexpr std::uint64_t file_limit = 1U << 20;

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

/// A run of digits, or of other characters, taken from the front of `text`.
std::string_view take_run(std::string_view& text) {
  const bool digits = is_digit(text.front());
  std::size_t length = 1;
  while (length < text.size() && is_digit(text[length]) == digits)
    length++;
  const std::string_view run = text.substr(0, length);
  text.remove_prefix(length);
  return run;
}

/// Digits without leading zeros.
std::string_view significant(std::string_view digits) {
  while (digits.size() > 1 && digits.front() == '0')
    digits.remove_prefix(1);
  return digits;
}

} // namespace

SysTree::SysTree(const fs::path& root) {
  std::error_code ec;
  root_ = fs::canonical(root, ec);
  if (ec || !fs::is_directory(root_, ec))
    throw Error("NOT_FOUND", "there is no directory " + root.string());
  live_ = root_ == "/";
}

std::optional<fs::path> SysTree::host_path(const std::string& path) const {
  std::error_code ec;
  fs::path found = fs::canonical(root_ / fs::path(path).relative_path(), ec);
  if (ec || std::mismatch(root_.begin(), root_.end(), found.begin(), found.end()).first != root_.end())
    return std::nullopt;
  return found;
}

std::string SysTree::resolved(const std::string& path) const {
  const auto found = host_path(path);
  return found ? "/" + found->lexically_relative(root_).string() : std::string();
}

bool SysTree::exists(const std::string& path) const {
  return host_path(path).has_value();
}

Bytes SysTree::bytes(const std::string& path) const {
  const auto found = host_path(path);
  if (!found)
    return {};
  try {
    const std::string content = read_file(*found, file_limit);
    const ByteSpan span = as_bytes(content);
    return {span.begin(), span.end()};
  } catch (const Error&) { // gone meanwhile, not permitted, or an attribute that has no value now
    return {};
  }
}

std::optional<std::string> SysTree::text(const std::string& path) const {
  const Bytes content = bytes(path);
  std::string_view raw = as_text(content);
  while (!raw.empty() && raw.back() == '\0') // some drivers count the end of the string
    raw.remove_suffix(1);
  std::string clean(trimmed(clean_utf8(raw)));
  return clean.empty() ? std::nullopt : std::optional(clean);
}

std::optional<std::uint64_t> SysTree::number(const std::string& path) const {
  const auto found = text(path);
  return found ? parse_number(*found) : std::nullopt;
}

std::optional<std::uint64_t> SysTree::hex(const std::string& path) const {
  const std::string found = word(path);
  std::string_view digits = found;
  if (digits.starts_with("0x"))
    digits.remove_prefix(2);
  std::uint64_t value = 0;
  const auto [end, ec] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  if (digits.empty() || ec != std::errc() || end != digits.data() + digits.size())
    return std::nullopt;
  return value;
}

std::vector<std::string> SysTree::list(const std::string& directory) const {
  std::vector<std::string> names;
  std::error_code ec;
  if (const auto found = host_path(directory))
    for (fs::directory_iterator it(*found, ec), end; !ec && it != end; it.increment(ec))
      names.push_back(it->path().filename().string());
  std::sort(names.begin(), names.end(), natural_less);
  return names;
}

std::string SysTree::link_name(const std::string& path) const {
  // The link itself may dangle in a recorded tree: only its text counts.
  const std::size_t slash = path.rfind('/');
  const auto parent = host_path(path.substr(0, slash));
  std::error_code ec;
  if (!parent || slash == std::string::npos)
    return {};
  const fs::path target = fs::read_symlink(*parent / path.substr(slash + 1), ec);
  return ec ? std::string() : clean_utf8(target.filename().string());
}

bool natural_less(const std::string& a, const std::string& b) {
  std::string_view left = a, right = b;
  while (!left.empty() && !right.empty()) {
    std::string_view l = take_run(left), r = take_run(right);
    if (l == r)
      continue;
    if (is_digit(l.front()) && is_digit(r.front())) {
      l = significant(l), r = significant(r);
      if (l != r)
        return l.size() != r.size() ? l.size() < r.size() : l < r;
      continue;
    }
    return l.size() != r.size() && !is_digit(l.front()) && !is_digit(r.front()) && l.substr(0, 2) == r.substr(0, 2)
               ? l.size() < r.size()
               : l < r;
  }
  return left.size() < right.size() || (left.empty() && right.empty() && a < b);
}

std::vector<unsigned> parse_cpu_list(const std::string& text, std::size_t limit) {
  std::vector<unsigned> numbers;
  std::string_view rest = trimmed(text);
  while (!rest.empty()) {
    const std::string_view item = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), item.size() + 1));
    const std::size_t dash = item.find('-');
    const auto first = parse_number(item.substr(0, dash));
    const auto last = dash == std::string_view::npos ? first : parse_number(item.substr(dash + 1));
    if (!first || !last || *last < *first || *last >= limit || *last - *first >= limit - numbers.size())
      return {};
    for (std::uint64_t n = *first; n <= *last; n++)
      numbers.push_back(static_cast<unsigned>(n));
  }
  return numbers;
}

} // namespace kvmport
