// SPDX-License-Identifier: Apache-2.0
// `kvm-p2v receive`: the server side of a capture, started by the agent over ssh.
#pragma once

#include "cmd/cli.h"
#include "libconvert/p2v_delivery.h"

namespace kvmport {

struct ReceiveArguments {
  std::string directory, only; ///< only: whatever the agent asks for (forced commands)
  DeliveryOptions delivery;
  std::vector<std::string> keys;
  std::string access = "auto";
};

CLI::App* add_receive_command(CLI::App& app, ReceiveArguments& arguments);
/// Speaks the protocol on standard input and output; what is for people goes to standard error.
int run_receive(const ReceiveArguments& arguments, Console& console, const StopToken& stop);

} // namespace kvmport
