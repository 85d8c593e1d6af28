// SPDX-License-Identifier: Apache-2.0
// kvm-v2v: converts, copies and shows foreign machines and disks. See kvm-v2v(1).
#include "cmd/cli.h"
#include "cmd/convert_command.h"

#include <iostream>

using namespace kvmport;

namespace {

int convert(const ConvertArguments& arguments, const OutputOptions& output) {
  const ConvertOptions options = finish_arguments(arguments);
  const StopToken& stop = stop_on_signals();
  ConvertResult result;
  {
    auto sink = make_sink(output, "kvm-v2v");
    result = convert_machine(options, *sink, stop);
  }
  if (output.json)
    std::cout << describe_json(options, result) << std::endl;
  else
    std::cout << printable(describe(options, result)) << std::flush;
  return exit_status(options, result);
}

} // namespace

int main(int argc, char** argv) {
  CLI::App app{"Brings foreign virtual machines to KVM and proves that they boot there", "kvm-v2v"};
  app.require_subcommand(1);
  OutputOptions output;
  ConvertArguments arguments;
  CLI::App* convert_app = add_convert_command(app, arguments);
  add_output_options(*convert_app, output);
  return run_command(app, argc, argv, output, [&] { return convert(arguments, output); });
}
