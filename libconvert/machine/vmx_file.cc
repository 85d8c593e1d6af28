// SPDX-License-Identifier: Apache-2.0
#include "libconvert/machine/vmx_file.h"

#include "libconvert/machine/text.h"

#include <algorithm>
#include <set>
#include <tuple>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

constexpr std::uint64_t max_file = 4U << 20;
constexpr std::size_t max_line = 64U << 10;

/// |22 is '"', |7C is '|'; a bar without two hex digits stands for itself.
std::string unescaped(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); i++) {
    if (text[i] == '|' && i + 2 < text.size() && std::isxdigit(static_cast<unsigned char>(text[i + 1])) != 0 &&
        std::isxdigit(static_cast<unsigned char>(text[i + 2])) != 0) {
      const char c = static_cast<char>(std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16));
      if (c != '\0')
        out += c;
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

/// The value of `.encoding`, which is plain ASCII wherever it stands.
std::string encoding_of(std::string_view text) {
  const std::string small = lower(text);
  std::size_t at = small.find(".encoding");
  while (at != std::string::npos && at != 0 && small[at - 1] != '\n' && small[at - 1] != '\r' && small[at - 1] != ' ' &&
         small[at - 1] != '\xBF')
    at = small.find(".encoding", at + 1);
  if (at == std::string::npos)
    return "";
  const std::string_view line = std::string_view(small).substr(at, small.find_first_of("\r\n", at) - at);
  const std::size_t open = line.find('"');
  const std::size_t close = open == std::string_view::npos ? open : line.find('"', open + 1);
  return close == std::string_view::npos ? "" : std::string(line.substr(open + 1, close - open - 1));
}

std::string as_utf8(const std::string& text, std::vector<std::string>& notes) {
  const std::string named = encoding_of(text);
  if (auto converted = to_utf8(text, named.empty() ? "utf-8" : named))
    return *converted;
  notes.push_back("the description is not valid " + (named.empty() ? "UTF-8" : printable(named, 40)) +
                  ": taken as windows-1252");
  if (auto converted = to_utf8(text, "windows-1252"))
    return *converted;
  return to_utf8(text, "iso-8859-1").value_or("");
}

struct Line {
  std::string key, value;
};

/// `key = "value"`, also without quotes.
std::optional<Line> parse_line(std::string_view line) {
  const std::size_t equals = line.find('=');
  if (equals == std::string_view::npos)
    return std::nullopt;
  Line result{lower(trimmed(line.substr(0, equals))), ""};
  std::string_view value = trimmed(line.substr(equals + 1));
  if (!value.empty() && value.front() == '"') {
    value.remove_prefix(1);
    const std::size_t close = value.rfind('"');
    if (close == std::string_view::npos)
      return std::nullopt;
    value = value.substr(0, close);
  }
  result.value = unescaped(value);
  if (result.key.empty() || result.key.find_first_of(" \t\"") != std::string::npos)
    return std::nullopt;
  return result;
}

/// "scsi0:1.filename" → {"scsi", 0, 1}.
std::optional<VmxDrive> parse_drive(const std::string& key) {
  for (const char* bus : {"scsi", "sata", "ide", "nvme"}) {
    const std::string name = bus;
    if (key.rfind(name, 0) != 0)
      continue;
    const std::size_t colon = key.find(':'), dot = key.find('.');
    if (colon == std::string::npos || dot == std::string::npos || colon > dot)
      return std::nullopt;
    const auto controller = parse_number(key.substr(name.size(), colon - name.size()));
    const auto unit = parse_number(key.substr(colon + 1, dot - colon - 1));
    if (!controller || !unit || *controller > 255 || *unit > 255)
      return std::nullopt;
    return VmxDrive{name, static_cast<unsigned>(*controller), static_cast<unsigned>(*unit)};
  }
  return std::nullopt;
}

} // namespace

VmxFile VmxFile::read(const fs::path& path, std::vector<std::string>& notes) {
  const std::string raw = read_file(path, max_file);
  const auto invalid = [&](std::size_t line, const std::string& why) {
    return Error("DESCRIPTION_INVALID", path.string() + " is not a valid VMX file",
                 "line " + std::to_string(line) + ": " + why);
  };
  if (raw.find('\0') != std::string::npos)
    throw invalid(1, "it contains NUL bytes");
  for (std::size_t at = 0, number = 1; at < raw.size(); number++) {
    const std::size_t end = std::min(raw.find('\n', at), raw.size());
    if (end - at > max_line)
      throw invalid(number, "it is longer than 64 KiB");
    at = end + 1;
  }
  std::string text = as_utf8(raw, notes);
  if (text.rfind("\xEF\xBB\xBF", 0) == 0)
    text.erase(0, 3);
  VmxFile file;
  for (std::size_t at = 0, number = 1; at < text.size(); number++) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = trimmed(std::string_view(text).substr(at, end - at));
    at = end + 1;
    if (line.empty() || line.front() == '#')
      continue;
    const auto setting = parse_line(line);
    if (!setting)
      throw invalid(number, "no `key = \"value\"`: " + printable(line, 80));
    auto [entry, fresh] = file.values_.insert_or_assign(setting->key, setting->value);
    if (!fresh)
      notes.push_back("the key " + printable(entry->first, 80) + " is given twice: the last value counts");
  }
  return file;
}

std::string VmxFile::text(const std::string& key) const {
  const auto found = values_.find(key);
  return found == values_.end() ? "" : found->second;
}

std::optional<bool> VmxFile::flag(const std::string& key) const {
  return parse_bool(text(key));
}

std::vector<VmxDrive> VmxFile::drives() const {
  std::set<std::tuple<unsigned, unsigned, unsigned>> seen;
  static constexpr const char* order[] = {"scsi", "sata", "ide", "nvme"};
  for (const auto& entry : values_)
    if (const auto drive = parse_drive(entry.first))
      for (unsigned rank = 0; rank < 4; rank++)
        if (drive->bus == order[rank])
          seen.emplace(rank, drive->controller, drive->unit);
  std::vector<VmxDrive> list;
  for (const auto& [rank, controller, unit] : seen)
    list.push_back({order[rank], controller, unit});
  return list;
}

std::vector<unsigned> VmxFile::numbers(const std::string& prefix) const {
  std::set<unsigned> seen;
  for (const auto& entry : values_)
    if (entry.first.rfind(prefix, 0) == 0)
      if (const std::size_t dot = entry.first.find('.', prefix.size()); dot != std::string::npos)
        if (const auto number = parse_number(entry.first.substr(prefix.size(), dot - prefix.size()));
            number && *number < 1000)
          seen.insert(static_cast<unsigned>(*number));
  return {seen.begin(), seen.end()};
}

} // namespace kvmport
