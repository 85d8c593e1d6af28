// SPDX-License-Identifier: Apache-2.0
// `kvm-v2v inspect`: what is inside a machine's disks.
#pragma once

#include "cmd/source_arguments.h"
#include "libconvert/inspect.h"

namespace kvmport {

struct InspectArguments {
  InspectOptions options;
  SourceArguments named;
};

CLI::App* add_inspect_command(CLI::App& app, InspectArguments& arguments);
int run_inspect(const InspectArguments& arguments, Console& console, const StopToken& stop);

} // namespace kvmport
