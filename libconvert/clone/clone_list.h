// SPDX-License-Identifier: Apache-2.0
// Which clones a run makes: a pattern and a number, or a list in a file (CSV as RFC 4180 has it, read by libcsv; TOML
// by toml++). Errors: USAGE for a pattern, LIST_INVALID with the line for a file.
#pragma once

#include "libconvert/clone/clone.h"

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace kvmport {

constexpr std::size_t most_clones = 10000; ///< of one run

/// "web-{:03}" → web-001, web-002, …: `count` names, from number `first` on. The pattern is that of std::format with
/// one number.
std::vector<CloneRequest> numbered_clones(const std::string& pattern, std::size_t count, std::size_t first);

/// CSV with a line of column names, of "name" (needed), "hostname", "mac", "address" ("192.0.2.7/24"), "gateway" and
/// "dns"; several values in one column are separated by blanks.
std::vector<CloneRequest> clones_from_csv(const std::string& text, const std::string& file);
/// TOML: a [[clone]] table each, with these keys; a string or, but for "name" and "hostname", an array of strings.
std::vector<CloneRequest> clones_from_toml(const std::string& text, const std::string& file);
/// By its ending: ".csv" or ".toml".
std::vector<CloneRequest> clones_from_file(const std::filesystem::path& file);

} // namespace kvmport
