// SPDX-License-Identifier: Apache-2.0
// `kvm-v2v convert`: its options, and what is printed when it is done.
#pragma once

#include "cmd/cli.h"
#include "cmd/source_arguments.h"
#include "libconvert/pipeline.h"

namespace kvmport {

/// What the command line of `convert` fills.
struct ConvertArguments {
  ConvertOptions options;
  SourceArguments named;
  std::string compress = "none", until = "login";
  unsigned timeout = 300;
  bool no_boot = false, no_instrument = false;
};

/// Adds the subcommand to `app`; its arguments go to `arguments`.
CLI::App* add_convert_command(CLI::App& app, ConvertArguments& arguments);
/// Converts, prints the plan, the verdict and the files. Returns the exit code.
int run_convert(const ConvertArguments& arguments, Console& console, const StopToken& stop);

} // namespace kvmport
