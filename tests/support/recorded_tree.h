// SPDX-License-Identifier: Apache-2.0
// Recorded trees of /sys and /proc: one text file a machine, tests/p2v/trees/NAME, a line an entry:
//   /sys/block/sda -> ../devices/…        a link
//   /proc/meminfo = MemTotal: 1 kB\n…     a file; \n and \\ in its text
//   /sys/firmware/dmi/tables/DMI : 00ff…  a file, in hexadecimal
//   /sys/block/sda/holders/               an empty directory
// Lines that begin with '#' say where it comes from.
#pragma once

#include <filesystem>
#include <string>

namespace kvmport::test {

/// Unpacks the tree `name` into `directory`.
void unpack_tree(const std::string& name, const std::filesystem::path& directory);
/// Writes entries in the same form.
void unpack_entries(const std::string& text, const std::filesystem::path& directory);

} // namespace kvmport::test
