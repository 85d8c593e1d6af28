// SPDX-License-Identifier: Apache-2.0
// kvm-v2v: brings a foreign virtual machine to KVM. See kvm-v2v(1).
#include "cmd/commands.h"
#include "cmd/convert_command.h"
#include "cmd/inspect_command.h"

int main(int argc, char** argv) {
  using namespace kvmport;
  CLI::App app{"Brings a foreign virtual machine to KVM and proves that it boots there", "kvm-v2v"};
  app.require_subcommand(1);
  CommonArguments common;
  CopyArguments copy_arguments;
  InfoArguments info_arguments;
  ConvertArguments convert_arguments;
  InspectArguments inspect_arguments;
  CLI::App* convert = add_convert_command(app, convert_arguments);
  CLI::App* inspect = add_inspect_command(app, inspect_arguments);
  CLI::App* copy = add_copy_command(app, copy_arguments);
  CLI::App* info = add_info_command(app, info_arguments);
  for (CLI::App* command : {convert, inspect, copy, info})
    add_common_options(*command, common);
  return run_program(app, argc, argv, common, [&](Console& console, const StopToken& stop) {
    if (*convert)
      return run_convert(convert_arguments, console, stop);
    if (*inspect)
      return run_inspect(inspect_arguments, console, stop);
    return *copy ? run_copy(copy_arguments, console, stop) : run_info(info_arguments, console);
  });
}
