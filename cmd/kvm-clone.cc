// SPDX-License-Identifier: Apache-2.0
// kvm-clone: one KVM guest becomes many, and each is its own machine. See kvm-clone(1).
#include "cmd/cli.h"
#include "cmd/source_arguments.h"
#include "libconvert/clone/clone.h"
#include "libconvert/clone/clone_list.h"
#include "libconvert/clone/remaining_identity.h"
#include "libconvert/report.h"

#include <algorithm>
#include <fmt/format.h>
#include <set>
#include <sys/stat.h>

namespace kvmport {
namespace {

constexpr const char* examples = R"(
Examples:
  kvm-clone web.xml --name web2
  kvm-clone --connect qemu:///system web --name 'web-{:03}' --count 100 --linked -o /var/lib/libvirt/images
  kvm-clone web.xml --from clones.csv -o clones --boot-together 5
  kvm-clone golden.qcow2 --name node1 --rules defaults,+traces --dry-run
  kvm-clone --report identity node1.qcow2
)";

struct CloneArguments {
  CloneOptions options;
  SourceArguments named;
  std::vector<std::string> sources;
  std::string name, hostname, from, report;
  std::vector<std::string> macs, addresses, gateways, dns;
  std::string mac_seed;
  std::size_t count = 1, first = 1;
  unsigned timeout = 300;
  bool full = false, linked = false, flatten = false, list_rules = false, rules_mdoc = false;
};

void add_options(CLI::App& app, CloneArguments& a) {
  CloneOptions& o = a.options;
  app.add_option("SOURCE", a.sources, "A libvirt description, a domain of --connect, or disk images");
  app.add_option("--connect", o.connection, "Clone a domain of this libvirt connection, and define the clones there");
  app.add_option("-o,--output", o.output_directory, "Directory for the clones (default: that of the source's disk)");
  app.add_option("--name", a.name, "Name of the clone; with --count a pattern with a number: 'web-{:03}'");
  auto* count = app.add_option("--count", a.count, "Make so many clones")->check(CLI::Range(1U, 10000U));
  app.add_option("--first", a.first, "Number of the first of them")->needs(count)->capture_default_str();
  app.add_option("--from", a.from, "Make the clones that this .csv or .toml file names")
      ->check(CLI::ExistingFile)
      ->excludes(count);
  app.add_option("--hostname", a.hostname, "Host name of the clone (default: its name)");
  app.add_flag("--keep-hostname", o.keep_hostname, "The guest keeps its host name");
  app.add_option("--mac", a.macs, "MAC addresses of the clone's network cards, in order");
  auto* address =
      app.add_option("--address", a.addresses, "Static IP address of the clone's first network card, as 192.0.2.7/24");
  app.add_option("--gateway", a.gateways, "Its gateway")->needs(address);
  app.add_option("--dns", a.dns, "Its name servers")->needs(address);
  app.add_option("--mac-seed", a.mac_seed, "Makes new MAC addresses of this text, the same each time");
  auto* full =
      app.add_flag("--full", a.full, "A disk of its own: blocks shared by the file system where it can, else copied");
  auto* linked = app.add_flag("--linked", a.linked, "A qcow2 over the source's disk, which becomes read-only");
  app.add_flag("--flatten", a.flatten, "A disk written anew: one file, without free blocks and snapshots")
      ->excludes(full, linked);
  linked->excludes(full);
  app.add_option("--rules", o.rules, "Identity rules: defaults,-NAME,+NAME or none")->capture_default_str();
  app.add_flag("--new-uuids", o.new_uuids,
               "New UUIDs on the disks too; such a clone is kept only when it boots beside its source");
  app.add_flag("--list-rules", a.list_rules, "Print the identity rules, and end");
  app.add_flag("--list-rules-mdoc", a.rules_mdoc)->group(""); // for the manual page
  app.add_option("--report", a.report, "identity: print what identity is in the SOURCE, and end")
      ->check(CLI::IsMember({"identity"}));
  app.add_flag("--keep-hostdev", o.keep_hostdev, "Devices of the host stay in the description");
  app.add_flag("--keep-serials", o.keep_serials, "Serials and asset tags of the machine stay in the description");
  add_source_options(app, o.source, o.guest, a.named);
  app.add_flag("--dry-run", o.dry_run, "Print what would be changed, touch nothing");
  app.add_flag("--force", o.force, "Replace existing files of these names");
  app.add_option("--workers", o.workers, "Work on so many clones at once (default: one per processor)");
  app.add_flag("--boot", o.boot, "Boot each clone and look at what it then is");
  app.add_option("--boot-together", o.boot_together, "Boot the first so many together on one private network");
  app.add_option("--engine", o.engine, "What runs the boots: auto, qemu, kvm")->capture_default_str();
  app.add_option("--timeout", a.timeout, "Seconds for a boot on a machine of ordinary speed")->capture_default_str();
  app.footer(examples);
}

std::string list_rules() {
  std::string text;
  for (const IdentityRule& rule : identity_rules())
    text += fmt::format("{:<26} {:<4} {}\n", rule.name, rule.by_default ? "on" : "off", rule.summary);
  return text;
}

std::string state_name(const CloneOutcome& clone) {
  switch (clone.state) {
  case CloneOutcome::State::done:
    return "done";
  case CloneOutcome::State::before:
    return "done before";
  case CloneOutcome::State::failed:
    return "failed";
  case CloneOutcome::State::planned:
    return "planned";
  case CloneOutcome::State::made:
  case CloneOutcome::State::stopped:
    break;
  }
  return "not done";
}

std::string describe_details(const CloneOutcome& clone) {
  std::string text;
  if (clone.description) {
    for (const auto& change : clone.description->changes)
      text += fmt::format("  {:<14} {}: {} -> {}\n", change.rule, valid_utf8(change.what),
                          change.before.empty() ? "(none)" : valid_utf8(change.before),
                          change.after.empty() ? "(removed)" : valid_utf8(change.after));
  }
  if (clone.uuids)
    for (const auto& change : clone.uuids->changes)
      text += fmt::format("  {:<14} {}: {} -> {}\n", "new-uuids", valid_utf8(change.what), change.before, change.after);
  if (clone.plan)
    for (const auto& change : clone.plan->changes)
      text += fmt::format("  {:<14} {} {}{}\n", change.step, to_string(change.kind), valid_utf8(change.path),
                          change.target.empty() ? "" : " -> " + valid_utf8(change.target));
  return text;
}

/// Warnings that all clones share are printed once.
std::string describe_warnings(const CloneResult& result) {
  std::vector<std::string> lines;
  std::set<std::string> known;
  const auto add = [&](std::string line) {
    if (known.insert(line).second)
      lines.push_back(std::move(line));
  };
  for (const auto& note : result.notes)
    add("note: " + valid_utf8(note));
  for (const CloneOutcome& clone : result.clones) {
    for (const auto& note : clone.notes)
      add("note: " + valid_utf8(note));
    if (clone.description)
      for (const auto& warning : clone.description->warnings)
        add(fmt::format("warning: line {}: {}: {}", warning.line, warning.message, valid_utf8(warning.quote)));
    if (clone.plan)
      for (const auto& warning : clone.plan->warnings)
        add("warning: " + valid_utf8(warning));
  }
  std::string text;
  for (const auto& line : lines)
    text += line + "\n";
  return text;
}

/// What each clone is after its boot: a column each.
std::string describe_identities(const CloneResult& result) {
  std::set<std::string> names;
  for (const CloneOutcome& clone : result.clones)
    for (const auto& [name, value] : clone.identity)
      names.insert(name);
  std::string text;
  for (const std::string& name : names) {
    text += name + "\n";
    for (const CloneOutcome& clone : result.clones)
      if (const auto found = clone.identity.find(name); found != clone.identity.end())
        text += fmt::format("  {:<16} {}\n", valid_utf8(clone.name), valid_utf8(found->second));
  }
  if (!names.empty() && result.shared.empty())
    text += "no identity is shared by two of them, or with the source\n";
  for (const auto& shared : result.shared)
    text += "SHARED " + valid_utf8(shared) + "\n";
  return text;
}

std::string describe(const CloneResult& result, bool details) {
  std::string text;
  for (const CloneOutcome& clone : result.clones) {
    std::string how;
    for (const auto& disk : clone.disks)
      how += (how.empty() ? "" : ", ") + valid_utf8(disk);
    text += fmt::format("{}: {}{}\n", valid_utf8(clone.name), state_name(clone), how.empty() ? "" : " (" + how + ")");
    if (clone.error)
      text += fmt::format("  {}: {}\n", clone.error->code(), valid_utf8(clone.error->what()));
    if (clone.verdict)
      text += clone.verdict->proven
                  ? fmt::format("  proven: login reached after {:.1f} s (engine {})\n",
                                std::chrono::duration<double>(clone.verdict->reached.back().at).count(),
                                clone.verdict->engine)
                  : fmt::format("  not proven: {}\n", clone.verdict->diagnosis ? clone.verdict->diagnosis->code : "");
    if (details)
      text += describe_details(clone);
  }
  return text + describe_identities(result) + describe_warnings(result);
}

nlohmann::json describe_json(const CloneResult& result) {
  nlohmann::json j{{"source", valid_utf8(result.source)}, {"notes", result.notes}, {"shared", result.shared}};
  for (const CloneOutcome& clone : result.clones) {
    nlohmann::json one{{"name", valid_utf8(clone.name)}, {"state", state_name(clone)}, {"disks", clone.disks}};
    for (const auto& file : clone.files)
      one["files"].push_back(valid_utf8(file.string()));
    if (clone.error)
      one["error"] = {{"code", clone.error->code()}, {"text", valid_utf8(clone.error->what())}};
    if (clone.description)
      one["uuid"] = clone.description->uuid;
    if (clone.plan)
      one["plan"] = to_json(*clone.plan);
    if (clone.verdict)
      one["boot"] = to_json(*clone.verdict);
    if (!clone.identity.empty())
      one["identity"] = clone.identity;
    j["clones"].push_back(std::move(one));
  }
  return j;
}

int exit_code(const CloneResult& result) {
  int code = result.shared.empty() ? exit_done : exit_not_proven;
  for (const CloneOutcome& clone : result.clones) {
    if (clone.error || clone.state == CloneOutcome::State::stopped || clone.state == CloneOutcome::State::made)
      return exit_failed;
    if (clone.verdict && !clone.verdict->proven)
      code = exit_not_proven;
  }
  return code;
}

std::vector<CloneRequest> requests_of(const CloneArguments& a) {
  std::vector<CloneRequest> requests;
  if (!a.from.empty())
    requests = clones_from_file(a.from);
  else if (a.count > 1)
    requests = numbered_clones(a.name, a.count, a.first);
  else
    requests = {{a.name}};
  if (requests.size() > 1 && (!a.hostname.empty() || !a.macs.empty() || !a.addresses.empty()))
    throw Error("USAGE", "--hostname, --mac and --address are for one clone", {}, "give them in a list with --from");
  if (!a.hostname.empty())
    requests.front().hostname = a.hostname;
  if (!a.macs.empty())
    requests.front().macs = a.macs;
  if (!a.addresses.empty())
    requests.front().address = parse_static_address(a.addresses, a.gateways, a.dns);
  return requests;
}

CloneOptions options_of(const CloneArguments& a) {
  CloneOptions options = a.options;
  if (a.sources.empty())
    throw Error("USAGE", "no source was named", {}, "kvm-clone --help says how to call it");
  if (options.connection.empty())
    options.sources.assign(a.sources.begin(), a.sources.end());
  else if (a.sources.size() == 1)
    options.domain = a.sources.front();
  else
    throw Error("USAGE", "one domain is cloned at a time");
  options.mode = a.linked    ? CloneMode::linked
                 : a.flatten ? CloneMode::flatten
                 : a.full    ? CloneMode::full
                             : CloneMode::automatic;
  if (!a.mac_seed.empty())
    options.mac_seed = a.mac_seed;
  options.access = parse_access(a.named.access);
  options.timeout = std::chrono::seconds(a.timeout);
  finish_source(a.named, options.source, options.guest);
  return options;
}

int print_identity(const CloneOptions& options, Console& console, const StopToken& stop) {
  const auto findings = remaining_identity(options, console, stop);
  std::string text;
  nlohmann::json list = nlohmann::json::array();
  for (const IdentityFinding& finding : findings) {
    text += fmt::format("{:<26} {}: {}\n", finding.rule, valid_utf8(finding.path), valid_utf8(finding.value));
    list.push_back({{"rule", finding.rule}, {"path", valid_utf8(finding.path)}, {"value", valid_utf8(finding.value)}});
  }
  console.result(text.empty() ? "no identity was found\n" : text, {{"identity", list}});
  return exit_done;
}

int run_clone(const CloneArguments& a, Console& console, const StopToken& stop) {
  if (a.rules_mdoc) {
    std::fputs(rules_as_mdoc().c_str(), stdout);
    return exit_done;
  }
  if (a.list_rules) {
    nlohmann::json rules = nlohmann::json::array();
    for (const IdentityRule& rule : identity_rules())
      rules.push_back({{"name", rule.name}, {"default", rule.by_default}, {"summary", rule.summary}});
    console.result(list_rules(), {{"rules", rules}});
    return exit_done;
  }
  const CloneOptions options = options_of(a);
  if (!a.report.empty())
    return print_identity(options, console, stop);
  const CloneResult result = clone_guest(options, requests_of(a), console, stop);
  console.result(describe(result, options.dry_run || result.clones.size() == 1), describe_json(result));
  return exit_code(result);
}

} // namespace
} // namespace kvmport

int main(int argc, char** argv) {
  using namespace kvmport;
  ::umask(077); // descriptions may hold passwords; disks get the permissions of their sources
  CLI::App app{"Clones a KVM guest; each clone is a machine of its own", "kvm-clone"};
  CloneArguments arguments;
  CommonArguments common;
  add_options(app, arguments);
  add_common_options(app, common);
  return run_program(app, argc, argv, common,
                     [&](Console& console, const StopToken& stop) { return run_clone(arguments, console, stop); });
}
