// SPDX-License-Identifier: Apache-2.0
// `kvm-v2v convert`: its options, and what is printed when it is done.
#pragma once

#include "libconvert/pipeline.h"

#include <CLI/CLI.hpp>

namespace kvmport {

/// What the command line of `convert` fills.
struct ConvertArguments {
  ConvertOptions options;
  std::vector<std::string> keys, disks;
  std::string compress = "none", until = "login";
  unsigned timeout = 300;
  bool no_boot = false, no_instrument = false;
};

/// Adds the subcommand to `app`; its arguments go to `arguments`.
CLI::App* add_convert_command(CLI::App& app, ConvertArguments& arguments);
/// Turns the texts of the command line into options: reads key files, splits NAME=PATH. Error USAGE.
ConvertOptions finish_arguments(const ConvertArguments& arguments);

/// The plan, the verdict and the files for people.
std::string describe(const ConvertOptions& options, const ConvertResult& result);
/// The same as one JSON object (event "result").
std::string describe_json(const ConvertOptions& options, const ConvertResult& result);
/// 0 proven (or only planned), 3 converted but not proven.
int exit_status(const ConvertOptions& options, const ConvertResult& result);

} // namespace kvmport
