// SPDX-License-Identifier: Apache-2.0
// kvm-host: what this host has, and lacks, for KVM and for kvmport's work. See kvm-host(1).
#include "cmd/check_command.h"

int main(int argc, char** argv) {
  using namespace kvmport;
  CLI::App app{"Tells whether this host is fit for KVM and for kvmport's work", "kvm-host"};
  app.require_subcommand(1);
  CommonArguments common;
  CheckArguments check_arguments;
  add_common_options(*add_check_command(app, check_arguments), common);
  return run_program(app, argc, argv, common,
                     [&](Console& console, const StopToken&) { return run_check(check_arguments, console); });
}
