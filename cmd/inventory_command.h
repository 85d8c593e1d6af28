// SPDX-License-Identifier: Apache-2.0
// `kvm-p2v inventory`: what this machine is made of.
#pragma once

#include "cmd/cli.h"

#include <filesystem>

namespace kvmport {

struct InventoryArguments {
  std::filesystem::path root = "/";
  bool xml = false;
};

CLI::App* add_inventory_command(CLI::App& app, InventoryArguments& arguments);
/// Prints the inventory as a table, as JSON, or as the libvirt XML of the guest that it would become.
int run_inventory(const InventoryArguments& arguments, Console& console);

} // namespace kvmport
