// SPDX-License-Identifier: Apache-2.0
// `kvm-p2v accept`: lets a boot medium's key in, after its code was compared. See libconvert/p2v/enrol.h.
#pragma once

#include "cmd/cli.h"

#include <filesystem>
#include <string>
#include <vector>

namespace kvmport {

struct AcceptArguments {
  std::string directory, listen, code;
  std::vector<std::string> host_keys;
  std::filesystem::path authorized_keys;
  unsigned timeout = 600;
};

CLI::App* add_accept_command(CLI::App& app, AcceptArguments& arguments);
int run_accept(const AcceptArguments& arguments, Console& console, const StopToken& stop);

} // namespace kvmport
