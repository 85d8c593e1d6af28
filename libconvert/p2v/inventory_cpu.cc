// SPDX-License-Identifier: Apache-2.0
// Documentation/admin-guide/cputopology.rst of the kernel. Only processors that are online have a topology.
#include "libconvert/machine/text.h"
#include "libconvert/p2v/inventory_parts.h"

#include <algorithm>
#include <fmt/format.h>
#include <map>
#include <set>
#include <sstream>

namespace kvmport::inventory_parts {
namespace {

constexpr const char* cpus = "/sys/devices/system/cpu/";

/// Values of the first processor in /proc/cpuinfo.
std::map<std::string, std::string> first_processor(const SysTree& tree) {
  std::map<std::string, std::string> values;
  std::istringstream lines(tree.word("/proc/cpuinfo"));
  for (std::string line; std::getline(lines, line) && !trimmed(line).empty();)
    if (const std::size_t colon = line.find(':'); colon != std::string::npos)
      values.emplace(trimmed(line.substr(0, colon)), trimmed(line.substr(colon + 1)));
  return values;
}

std::vector<std::string> words(const std::string& text) {
  std::istringstream stream(text);
  return {std::istream_iterator<std::string>(stream), {}};
}

/// Threads by socket and core. A core's number is its own within its die only.
using Core = std::pair<std::uint64_t, std::uint64_t>;
using Sockets = std::map<std::uint64_t, std::map<Core, unsigned>>;

Sockets read_topology(const SysTree& tree, const std::vector<unsigned>& online) {
  Sockets sockets;
  for (const unsigned number : online) {
    const std::string at = cpus + fmt::format("cpu{}/topology/", number);
    const auto socket = tree.number(at + "physical_package_id"), core = tree.number(at + "core_id");
    // Where a machine does not tell ("-1"), each thread is a core of one socket.
    const Core key = {tree.number(at + "die_id").value_or(0), core.value_or(65536 + number)};
    sockets[socket.value_or(0)][key]++;
  }
  return sockets;
}

} // namespace

void read_cpu(const SysTree& tree, Inventory& inventory) {
  CpuInventory& cpu = inventory.cpu;
  auto values = first_processor(tree);
  cpu.vendor = values["vendor_id"];
  cpu.model_name = values["model name"];
  cpu.flags = words(values["flags"]);
  cpu.smt = tree.word(std::string(cpus) + "smt/control");
  const auto online = parse_cpu_list(tree.word(std::string(cpus) + "online"));
  const auto present = parse_cpu_list(tree.word(std::string(cpus) + "present"));
  cpu.online = static_cast<unsigned>(online.size());
  cpu.present = static_cast<unsigned>(std::max(present.size(), online.size()));
  std::set_difference(present.begin(), present.end(), online.begin(), online.end(), std::back_inserter(cpu.offline));
  std::set<std::size_t> core_counts;
  std::set<unsigned> thread_counts;
  for (const auto& [socket, cores] : read_topology(tree, online)) {
    cpu.sockets++;
    cpu.cores += static_cast<unsigned>(cores.size());
    core_counts.insert(cores.size());
    for (const auto& [core, threads] : cores)
      thread_counts.insert(threads);
  }
  cpu.uniform = core_counts.size() <= 1 && thread_counts.size() <= 1;
  if (!cpu.offline.empty() && cpu.smt != "off" && cpu.smt != "forceoff")
    inventory.notes.push_back(fmt::format("{} of {} processors are offline: the guest gets the {} that work",
                                          cpu.offline.size(), cpu.present, cpu.online));
  if (!cpu.uniform)
    inventory.notes.push_back("the processor's cores are not alike (threads or cores differ): the guest gets as many "
                              "plain cores as there are threads");
}

} // namespace kvmport::inventory_parts
