// SPDX-License-Identifier: Apache-2.0
// Configuration text as steps edit it: lines that keep their endings, words that keep their spacing. A file that needs
// no edit comes out byte for byte as it went in.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvmport::linux_guest {

/// What a file gets appended to its name when it is put aside, so that no program reads it by its ending any more.
inline constexpr std::string_view aside_suffix = ".before-kvmport";

/// A word of a line and where it begins.
struct Word {
  std::size_t at = 0;
  std::string_view text;
};

/// Lines with their line ends ("\n", "\r\n" or nothing at the end of the file); joining them gives the text back.
std::vector<std::string> split_lines(std::string_view text);
/// The line without its line end.
std::string_view line_body(std::string_view line);
/// Words separated by blanks.
std::vector<Word> split_words(std::string_view line);
std::string_view trim(std::string_view text);
std::string lower(std::string_view text);
bool starts_with_nocase(std::string_view text, std::string_view prefix);
bool equal_nocase(std::string_view a, std::string_view b);
/// The last part of a path; the path without it ("" for a bare name).
std::string_view base_name(std::string_view path);
std::string_view directory_of(std::string_view path);
std::string join_path(std::string_view directory, std::string_view name);

/// Calls `edit` for every line (without its end) with its number from 1; what it leaves in the string replaces it.
/// Returning false removes the line.
std::string edit_lines(std::string_view text, const std::function<bool(std::string& line, std::size_t number)>& edit);

/// The value of NAME=value in shell-like files (os-release, ifcfg): the last one, quotes removed; nothing when absent.
std::optional<std::string> shell_value(std::string_view text, std::string_view name);
/// Removes one pair of quotes around a value.
std::string unquote(std::string_view value);

/// Shell-like match: '*', '?' and '[…]'.
bool glob_match(const std::string& pattern, const std::string& text);
/// Compares names so that eth2 < eth10.
bool natural_less(std::string_view a, std::string_view b);

} // namespace kvmport::linux_guest
