// SPDX-License-Identifier: Apache-2.0
// kvm-p2v: brings a physical machine to KVM. See kvm-p2v(1).
#include "cmd/accept_command.h"
#include "cmd/capture_command.h"
#include "cmd/dialog_command.h"
#include "cmd/inventory_command.h"
#include "cmd/media_command.h"
#include "cmd/receive_command.h"

int main(int argc, char** argv) {
  using namespace kvmport;
  CLI::App app{"Brings a physical machine to KVM and proves that it boots there", "kvm-p2v"};
  app.require_subcommand(1);
  CommonArguments common;
  InventoryArguments inventory_arguments;
  CaptureArguments capture_arguments;
  ReceiveArguments receive_arguments;
  MediaArguments media_arguments;
  AcceptArguments accept_arguments;
  DialogArguments dialog_arguments;
  CLI::App* inventory = add_inventory_command(app, inventory_arguments);
  CLI::App* capture = add_capture_command(app, capture_arguments);
  CLI::App* receive = add_receive_command(app, receive_arguments);
  CLI::App* media = add_media_command(app, media_arguments);
  CLI::App* accept = add_accept_command(app, accept_arguments);
  CLI::App* dialog = add_dialog_command(app, dialog_arguments);
  for (CLI::App* command : {inventory, capture, receive, media, accept, dialog})
    add_common_options(*command, common);
  return run_program(app, argc, argv, common, [&](Console& console, const StopToken& stop) {
    if (*inventory)
      return run_inventory(inventory_arguments, console);
    if (*capture)
      return run_capture(capture_arguments, console, stop);
    if (*receive)
      return run_receive(receive_arguments, console, stop);
    if (*media)
      return run_media(media_arguments, console, stop);
    if (*accept)
      return run_accept(accept_arguments, console, stop);
    return run_dialog(dialog_arguments, console, stop);
  });
}
