// SPDX-License-Identifier: Apache-2.0
// What the tests of the description readers share.
#pragma once

#include "libconvert/machine/machine.h"
#include "tests/support/tempdir.h"

#include <functional>
#include <gtest/gtest.h>

namespace kvmport::test {

/// The code of the Error that `action` throws, "" when it throws none.
std::string error_code(const std::function<void()>& action);
/// True when one of the notes contains `word`.
bool has_note(const Machine& machine, const std::string& word);
/// Writes a small file (a stand-in for a disk, where only its being there counts).
void touch(const std::filesystem::path& path, const std::string& content = "x");
/// One member of a tar archive made by make_tar.
struct TarEntry {
  std::string name, content;
  char type = '0';
  std::string link = "";
};
/// A ustar archive, byte for byte as given: no check stops names that tar(1) would refuse.
std::string make_tar(const std::vector<TarEntry>& entries, bool end_mark = true);
/// "SHA256(name)= hex\n"
std::string manifest_line(const std::string& algorithm, const std::string& name, const std::string& content);

} // namespace kvmport::test
