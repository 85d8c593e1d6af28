// SPDX-License-Identifier: Apache-2.0
#include "cmd/check_command.h"

#include "libconvert/host/connection.h"
#include "libconvert/host/overcommit.h"
#include "libconvert/source/source.h"

#include <fmt/format.h>

namespace kvmport {
namespace {

constexpr const char* examples = R"(
Examples:
  kvm-host check
  kvm-host check --plan web01.ova db/db.vmx --output /srv/guests
)";

/// All that is found out, before it is printed.
struct Findings {
  std::vector<HostCheck> hardware, software, space;
  std::vector<Demand> demands;
  std::vector<OvercommitRow> rows;
  std::vector<std::string> notes;
};

void add_domains(const std::string& uri, Findings& findings) {
  try {
    for (const std::string& xml : LibvirtConnection(uri).all_domains())
      findings.demands.push_back(domain_demand(xml));
  } catch (const Error& e) {
    findings.notes.push_back("the domains of this host are not counted: " + e.summary());
  }
}

Findings find_all(const CheckArguments& arguments) {
  Findings findings;
  const HostFacts facts = read_host();
  findings.hardware = check_hardware(facts, host_probe());
  findings.software = check_software(arguments.connect);
  findings.space = check_space(arguments.output, std::filesystem::temp_directory_path());
  if (!arguments.connect.empty())
    add_domains(arguments.connect, findings);
  for (const auto& path : arguments.plan)
    findings.demands.push_back(planned_demand(read_machine(path), arguments.output));
  for (const Demand& demand : findings.demands)
    findings.notes.insert(findings.notes.end(), demand.notes.begin(), demand.notes.end());
  HostCapacity capacity;
  capacity.processors = facts.cpu.online;
  capacity.memory = facts.memory;
  capacity.filesystem = [](const std::filesystem::path& file) -> std::optional<FilesystemSpace> {
    try {
      return filesystem_of(file);
    } catch (const Error&) {
      return std::nullopt;
    }
  };
  findings.rows = judge_overcommit(findings.demands, capacity);
  return findings;
}

bool any_bad(const Findings& findings) {
  const auto bad = [](const auto& row) { return row.verdict == Verdict::bad; };
  return std::any_of(findings.hardware.begin(), findings.hardware.end(), bad) ||
         std::any_of(findings.software.begin(), findings.software.end(), bad) ||
         std::any_of(findings.rows.begin(), findings.rows.end(), bad);
}

std::string lines_of(const std::vector<HostCheck>& checks, const char* bad) {
  std::string text;
  for (const HostCheck& check : checks) {
    text += fmt::format("{:<8} {:<11} {}\n", to_string(check.verdict, bad), check.name, check.text);
    if (!check.hint.empty())
      text += fmt::format("{:<20} {}\n", "", check.hint);
  }
  return text;
}

std::uint64_t disk_sum(const Demand& demand, std::uint64_t (*value)(const DiskDemand&)) {
  std::uint64_t total = 0;
  for (const DiskDemand& disk : demand.disks)
    total += value(disk);
  return total;
}

std::string describe_machines(const std::vector<Demand>& demands) {
  if (demands.empty())
    return {};
  std::string text = fmt::format("\n{:<24} {:<8} {:>10} {:>11} {:>11} {:>11}\n", "machine", "", "processors", "memory",
                                 "disks", "allocated");
  for (const Demand& demand : demands)
    text += fmt::format("{:<24} {:<8} {:>10} {:>11} {:>11} {:>11}\n", demand.name,
                        demand.planned ? "planned" : "defined", demand.processors, human_size(demand.memory),
                        human_size(disk_sum(demand, [](const DiskDemand& d) { return d.virtual_size; })),
                        human_size(disk_sum(demand, [](const DiskDemand& d) { return d.allocated; })));
  return text;
}

std::string describe(const Findings& findings) {
  std::string text = fmt::format("kvmport {}\n", version_text) + lines_of(findings.hardware, "unfit") +
                     lines_of(findings.software, "missing") + lines_of(findings.space, "missing") +
                     describe_machines(findings.demands) + "\n";
  for (const OvercommitRow& row : findings.rows)
    text += fmt::format("{:<8} {:<11} {}{}\n", to_string(row.verdict, "over"), row.resource,
                        row.resource == "disk" ? row.where + ": " : "", row.text);
  for (const std::string& note : findings.notes)
    text += "note     " + note + "\n";
  return text;
}

void add_json(nlohmann::json& list, const std::vector<HostCheck>& checks, const char* bad) {
  for (const HostCheck& check : checks)
    list.push_back(
        {{"name", check.name}, {"verdict", to_string(check.verdict, bad)}, {"text", check.text}, {"hint", check.hint}});
}

nlohmann::json machines_json(const std::vector<Demand>& demands) {
  nlohmann::json list = nlohmann::json::array();
  for (const Demand& demand : demands) {
    nlohmann::json disks = nlohmann::json::array();
    for (const DiskDemand& disk : demand.disks)
      disks.push_back(
          {{"file", disk.file.string()}, {"virtual_size", disk.virtual_size}, {"allocated", disk.allocated}});
    list.push_back({{"name", demand.name},
                    {"planned", demand.planned},
                    {"processors", demand.processors},
                    {"memory", demand.memory},
                    {"disks", disks}});
  }
  return list;
}

nlohmann::json describe_json(const Findings& findings) {
  const Probe& probe = host_probe();
  nlohmann::json checks = nlohmann::json::array(), rows = nlohmann::json::array(), missing = nlohmann::json::array();
  add_json(checks, findings.hardware, "unfit");
  add_json(checks, findings.software, "missing");
  add_json(checks, findings.space, "missing");
  std::string qemu;
  for (const HostCheck& check : findings.software) {
    if (check.verdict == Verdict::bad)
      missing.push_back(check.name + ": " + check.hint);
    else if (check.name == "qemu")
      qemu = check.text;
  }
  for (const OvercommitRow& row : findings.rows)
    rows.push_back({{"resource", row.resource},
                    {"where", row.where},
                    {"wanted", row.wanted},
                    {"there", row.there},
                    {"verdict", to_string(row.verdict, "over")},
                    {"text", row.text}});
  const char* engine = qemu.empty() ? "none" : probe.kvm == Probe::Class::full ? "qemu-kvm" : "qemu-tcg";
  return {{"version", version_text},
          {"kvm", to_string(probe.kvm)},
          {"reasons", probe.reasons},
          {"mips_ring0", probe.mips_ring0},
          {"engine", engine},
          {"qemu", qemu},
          {"missing", missing},
          {"checks", checks},
          {"machines", machines_json(findings.demands)},
          {"overcommit", rows},
          {"notes", findings.notes}};
}

} // namespace

CLI::App* add_check_command(CLI::App& app, CheckArguments& arguments) {
  CLI::App* command = app.add_subcommand("check", "Is this host fit for KVM, and do its machines fit?");
  command->add_option("--connect", arguments.connect, "libvirt connection whose domains are counted; empty: none")
      ->capture_default_str();
  command->add_option("--plan", arguments.plan,
                      "Machines that are about to be converted: .vmx, .ovf, .ova, .xml, .vbox");
  command->add_option("-o,--output", arguments.output, "Where their disks would go")->capture_default_str();
  command->footer(examples);
  return command;
}

int run_check(const CheckArguments& arguments, Console& console) {
  const Findings findings = find_all(arguments);
  console.result(describe(findings), describe_json(findings));
  return any_bad(findings) ? exit_failed : exit_done;
}

} // namespace kvmport
