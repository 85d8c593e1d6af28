// SPDX-License-Identifier: Apache-2.0
#include "cmd/inventory_command.h"

#include "libconvert/p2v/inventory.h"

#include <fmt/format.h>

namespace kvmport {

CLI::App* add_inventory_command(CLI::App& app, InventoryArguments& arguments) {
  CLI::App* command = app.add_subcommand("inventory", "Tell what this machine is made of");
  command->add_option("--root", arguments.root, "Read /sys and /proc below this directory");
  return command;
}

int run_inventory(const InventoryArguments& arguments, Console& console) {
  const Inventory inventory = read_inventory(arguments.root);
  std::string text;
  nlohmann::json disks = nlohmann::json::array();
  for (const DiskInventory& disk : inventory.disks) {
    text += fmt::format("{:<10} {:>10}  {:<7} {} {}\n", disk.name, human_size(disk.size), disk.transport, disk.model,
                        disk.reason);
    disks.push_back({{"name", disk.name}, {"size", disk.size}, {"selected", disk.selected}});
  }
  console.result(text, {{"disks", disks}});
  return exit_done;
}

} // namespace kvmport
