// SPDX-License-Identifier: Apache-2.0
#include "cmd/convert_command.h"

#include "libconvert/report.h"

#include <fmt/format.h>

namespace kvmport {
namespace {

constexpr const char* examples = R"(
Examples:
  kvm-v2v convert web01.ova -o /var/lib/libvirt/images
  kvm-v2v convert db/db.vmx -o out --dry-run
  kvm-v2v convert system.vhdx data.vhdx --name files -o out --compress zstd
  kvm-v2v convert crypt.xml -o out --key /dev/sda3=passphrase.txt
)";

std::string action_of(const Change& change) {
  if (change.kind == Change::Kind::write)
    return change.existed ? "edit" : "create";
  return to_string(change.kind);
}

std::string describe_plan(const Plan& plan, const GuestInfo& guest) {
  std::string text = fmt::format("Plan for {} ({} changes):\n", valid_utf8(guest.pretty_name), plan.changes.size());
  for (const auto& change : plan.changes) {
    text += fmt::format("  {:7} {}", action_of(change), valid_utf8(change.path));
    if (!change.target.empty())
      text += " -> " + valid_utf8(change.target);
    text += fmt::format("\n          {}: {}\n", change.step, valid_utf8(change.reason));
  }
  if (!plan.fallback_reason.empty())
    text += "  hardware " + plan.fallback_reason + "\n";
  for (const auto& note : plan.notes)
    text += "  note    " + valid_utf8(note) + "\n";
  return text;
}

std::string seconds(std::chrono::milliseconds time) {
  return fmt::format("{:.1f} s", static_cast<double>(time.count()) / 1000);
}

std::string describe_verdict(const Verdict& verdict) {
  std::string text;
  for (const auto& hit : verdict.reached)
    text += fmt::format("  {:10} {:>8}  {}: {}\n", to_string(hit.milestone), seconds(hit.at), hit.source,
                        valid_utf8(hit.evidence));
  if (verdict.proven)
    return text + fmt::format("proven: {} reached after {} (engine {})\n", to_string(verdict.asked),
                              verdict.reached.empty() ? "?" : seconds(verdict.reached.back().at), verdict.engine);
  if (verdict.diagnosis) {
    text += fmt::format("not proven: {}: {}\n", verdict.diagnosis->code, valid_utf8(verdict.diagnosis->text));
    for (const auto& line : verdict.diagnosis->lines)
      text += "  | " + valid_utf8(line) + "\n";
    return text;
  }
  return text + fmt::format("not proven: {} was not reached\n", to_string(verdict.asked));
}

ConvertOptions finish_arguments(const ConvertArguments& a) {
  ConvertOptions options = a.options;
  if (options.output_directory.empty() && !options.dry_run)
    throw Error("USAGE", "-o DIR is needed", "it says where the result goes");
  if (options.format == "raw" && a.compress != "none")
    throw Error("USAGE", "a raw disk can't be compressed", {}, "use --format qcow2, or leave --compress out");
  options.compression = a.compress == "zlib"   ? Compression::zlib
                        : a.compress == "zstd" ? Compression::zstd
                                               : Compression::none;
  options.access = parse_access(a.named.access);
  options.until = parse_milestone(a.until);
  options.timeout = std::chrono::seconds(a.timeout);
  options.boot = !a.no_boot;
  options.instrument = !a.no_instrument;
  finish_source(a.named, options.source, options.guest);
  return options;
}

/// How little of the time was ours.
std::string describe_times(const ConvertResult& result) {
  const auto conversion = result.times.find("conversion"), proof = result.times.find("prove");
  if (conversion == result.times.end())
    return {};
  const StageTime& ours = conversion->second;
  std::string text = fmt::format("conversion: {:.1f} s ({:.1f} s of CPU)", ours.wall, ours.cpu);
  if (proof != result.times.end())
    text += fmt::format("; proof: {:.1f} s ({:.1f} s of CPU), {:.0f} % of all", proof->second.wall, proof->second.cpu,
                        100 * proof->second.wall / (ours.wall + proof->second.wall));
  return text + "\n";
}

std::string describe(const ConvertOptions& options, const ConvertResult& result) {
  std::string text;
  if (result.plan && result.guest)
    text += describe_plan(*result.plan, *result.guest);
  if (options.dry_run)
    return text + "Nothing was changed (--dry-run).\n";
  for (const auto& file : result.files)
    text += file.string() + "\n";
  text += describe_times(result);
  if (result.verdict)
    return text + describe_verdict(*result.verdict);
  return text + "not proven: no boot was tried\n";
}

nlohmann::json describe_json(const ConvertOptions& options, const ConvertResult& result) {
  nlohmann::json j{{"proven", result.proven()}, {"dry_run", options.dry_run}};
  j["files"] = nlohmann::json::array();
  for (const auto& file : result.files)
    j["files"].push_back(valid_utf8(file.string()));
  if (result.plan)
    j["plan"] = to_json(*result.plan);
  if (result.verdict)
    j["boot"] = to_json(*result.verdict);
  return j;
}

int exit_code(const ConvertOptions& options, const ConvertResult& result) {
  return options.dry_run || result.proven() ? exit_done : exit_not_proven;
}

} // namespace

CLI::App* add_convert_command(CLI::App& app, ConvertArguments& a) {
  CLI::App* c = app.add_subcommand("convert", "Convert a machine to KVM and prove that it boots");
  ConvertOptions& o = a.options;
  c->add_option("SOURCE", o.sources, source_help)->required();
  c->add_option("-o,--output", o.output_directory, "Directory for the result; made when it does not exist");
  c->add_option("--name", o.name, "Name of the result (default: the source's)");
  c->add_option("--format", o.format, "Format of the disks")
      ->check(CLI::IsMember({"raw", "qcow2"}))
      ->capture_default_str();
  c->add_option("--compress", a.compress, "Compress the clusters of a qcow2")
      ->check(CLI::IsMember({"none", "zlib", "zstd"}))
      ->capture_default_str();
  add_source_options(*c, o.source, o.guest, a.named);
  c->add_flag("--disk-only", o.disk_only, "Copy the disks, change nothing in them");
  c->add_flag("--serial-console", o.plan.serial_console, "Give the result a serial console");
  c->add_flag("--dry-run", o.dry_run, "Print the plan, touch nothing");
  c->add_flag("--no-boot", a.no_boot, "Make no boot proof (exit status 3)");
  c->add_option("--until", a.until, "Milestone that proves the boot")->capture_default_str();
  c->add_option("--timeout", a.timeout, "Seconds for the proof on a machine of ordinary speed")->capture_default_str();
  c->add_option("--engine", o.engine, "What runs the proof: auto, qemu, kvm")->capture_default_str();
  c->add_flag("--no-instrument", a.no_instrument, "No serial console in the proof's throw-away overlay");
  c->add_flag("--force", o.force, "Replace existing output of this name");
  c->footer(examples);
  return c;
}

int run_convert(const ConvertArguments& arguments, Console& console, const StopToken& stop) {
  const ConvertOptions options = finish_arguments(arguments);
  const ConvertResult result = convert_machine(options, console, stop);
  console.result(describe(options, result), describe_json(options, result));
  return exit_code(options, result);
}

} // namespace kvmport
