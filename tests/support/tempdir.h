// SPDX-License-Identifier: Apache-2.0
// What tests share: a directory that vanishes, and running a program that must succeed.
#pragma once

#include "base/file.h"

#include <string>
#include <vector>

namespace kvmport::test {

/// stdout of `argv`; a failure of the program is a std::runtime_error with its stderr.
std::string must_run(const std::vector<std::string>& argv, const std::filesystem::path& directory = {});
/// Lower-case hex SHA-256 of a file's bytes.
std::string sha256_of(const std::filesystem::path& path);
/// A file of `size` bytes of a repeatable pattern: regions of text, random bytes, zeros and holes, chosen by `seed`.
void make_pattern_file(const std::filesystem::path& path, std::uint64_t size, unsigned seed);
/// Where the foreign sample images lie unpacked, or an empty path when this machine has none.
std::filesystem::path sample_images();

} // namespace kvmport::test
