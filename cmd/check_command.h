// SPDX-License-Identifier: Apache-2.0
// `kvm-host check`: is this host fit for KVM, and do its machines fit?
#pragma once

#include "cmd/cli.h"

#include <filesystem>
#include <vector>

namespace kvmport {

struct CheckArguments {
  std::string connect = "qemu:///system";
  std::filesystem::path output = "/var/lib/libvirt/images";
  std::vector<std::filesystem::path> plan;
};

CLI::App* add_check_command(CLI::App& app, CheckArguments& arguments);
/// Prints the tables; exit code 2 when something is missing, unfit or over.
int run_check(const CheckArguments& arguments, Console& console);

} // namespace kvmport
