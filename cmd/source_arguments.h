// SPDX-License-Identifier: Apache-2.0
// Options of all subcommands that open a machine and its guest.
#pragma once

#include "cmd/cli.h"
#include "libconvert/guest/access.h"
#include "libconvert/source/source.h"

#include <string>
#include <vector>

namespace kvmport {

inline constexpr const char* source_help = ".vmx, .ovf, .ova, libvirt .xml, .vbox, or disk images";

/// What is still text.
struct SourceArguments {
  std::vector<std::string> keys, disks;
  std::string access = "auto";
};

void add_source_options(CLI::App& command, SourceOptions& source, ApplianceOptions& guest, SourceArguments& arguments);
/// Reads the files of --key and puts --disk in its place. Errors: USAGE, KEY_MISSING.
void finish_source(const SourceArguments& arguments, SourceOptions& source, ApplianceOptions& guest);
AccessWish parse_access(const std::string& text);

} // namespace kvmport
