// SPDX-License-Identifier: Apache-2.0
// kvm-p2v: brings a physical machine to KVM. See kvm-p2v(1).
#include "cmd/inventory_command.h"

int main(int argc, char** argv) {
  using namespace kvmport;
  CLI::App app{"Brings a physical machine to KVM", "kvm-p2v"};
  app.require_subcommand(1);
  CommonArguments common;
  InventoryArguments inventory_arguments;
  CLI::App* inventory = add_inventory_command(app, inventory_arguments);
  for (CLI::App* command : {inventory})
    add_common_options(*command, common);
  return run_program(app, argc, argv, common, [&](Console& console, const StopToken&) {
    return *inventory ? run_inventory(inventory_arguments, console) : exit_usage;
  });
}
