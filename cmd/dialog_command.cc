// SPDX-License-Identifier: Apache-2.0
#include "cmd/dialog_command.h"

#include "base/file.h"
#include "base/process.h"
#include "cmd/capture_child.h"
#include "libconvert/p2v/host_keys.h"
#include "libconvert/p2v/media.h"
#include "libconvert/p2v/medium_actions.h"

#include <fmt/format.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

using namespace std::chrono_literals;

void say(const std::string& text) {
  std::fputs((text + "\n").c_str(), stdout);
  std::fflush(stdout);
}

/// Prints what the actions tell, as plain lines.
class Lines final : public EventSink {
 public:
  void stage(std::string_view name, std::string_view text) override { say(fmt::format("{}: {}", name, text)); }
  void progress(std::string_view, std::uint64_t, std::uint64_t) override {}
  void message(Level, std::string_view, std::string_view text) override { say(printable(text)); }
};

void find_host_key(MediumSettings& settings, EventSink& events) {
  if (!settings.host_key.empty())
    return;
  // The code that a person compares holds it: a false one can't pass.
  settings.host_key = scan_host_keys(settings.server->host, settings.server->port).front().fingerprint;
  events.message(EventSink::Level::info, "", "server's host key: " + settings.host_key);
}

/// Runs the capture to its end, a line now and then. Returns its exit code.
int capture(const MediumSettings& settings, const fs::path& log, const StopToken& stop) {
  CaptureChild child(capture_arguments(settings, fs::canonical("/proc/self/exe")), log);
  std::string stage, message, amount;
  auto next = std::chrono::steady_clock::now();
  bool cancelled = false;
  while (child.take(1s)) {
    if (stop.requested() && !std::exchange(cancelled, true))
      child.cancel();
    const CaptureProgress& p = child.progress();
    if (p.stage() != stage)
      say(stage = p.stage());
    if (p.message() != message)
      say("  " + (message = p.message()));
    if (const auto now = std::chrono::steady_clock::now(); now >= next && p.text() != amount) {
      say("  " + (amount = p.text()));
      next = now + 10s;
    }
  }
  if (const std::string error = child.progress().error(); !error.empty())
    say(error);
  return child.exit_code();
}

/// Exit status 3 of a capture that was not to be converted is what was asked for.
bool as_wished(const MediumSettings& settings, int exit_code) {
  return exit_code == exit_done || (exit_code == exit_not_proven && !settings.convert);
}

AfterCapture print_inventory() {
  const ProcessResult r = run_process({fs::canonical("/proc/self/exe"), "inventory", "--json"}, 5min);
  std::fputs((r.out + r.err).c_str(), stdout);
  std::fflush(stdout);
  return AfterCapture::poweroff;
}

AfterCapture run_presets(const MediumSettings& presets, const DialogArguments& arguments, const StopToken& stop) {
  MediumSettings settings = presets;
  if (settings.name.empty())
    settings.name = proposed_name(read_inventory());
  Lines lines;
  say("network: " + bring_up_network(settings.network, lines, stop) + " is up");
  find_host_key(settings, lines);
  if (settings.enrol_port != 0) {
    const auto show = [](const std::string& code) {
      say("\n*** On the server, run kvm-p2v accept and compare the code: " + code + " ***\n");
    };
    enrol_medium(settings, show, 1h, lines, stop);
    say("the server lets this medium in");
  }
  const int code = capture(settings, arguments.log, stop);
  const bool well = as_wished(settings, code);
  say(well ? "done" : fmt::format("the capture ended with exit status {}", code));
  return well ? settings.post : settings.fail;
}

} // namespace

MediumSettings medium_presets(const fs::path& command_line) {
  MediumSettings settings = parse_kernel_arguments(read_file(command_line, 64U << 10));
  if (fs::exists(medium_identity))
    settings.identity = medium_identity;
  return settings;
}

AfterCapture run_unattended(const DialogArguments& arguments, Console&, const StopToken& stop) {
  AfterCapture fail = AfterCapture::dialog;
  try {
    const MediumSettings settings = medium_presets(arguments.command_line);
    fail = settings.fail;
    if (settings.inventory)
      return print_inventory();
    if (!settings.unattended()) {
      if (settings.server)
        say("p2v.host_key or p2v.enrol is missing: somebody has to look at the server's host key");
      return AfterCapture::dialog;
    }
    return run_presets(settings, arguments, stop);
  } catch (const Error& e) {
    say(fmt::format("{}: {}", e.code(), printable(e.what())));
    return fail;
  }
}

CLI::App* add_dialog_command(CLI::App& app, DialogArguments& a) {
  CLI::App* c = app.add_subcommand("dialog", "The text dialogue of the boot medium");
  c->add_flag("--unattended", a.unattended, "Do what the kernel's command line says, without a dialogue");
  c->add_option("--command-line", a.command_line, "File with presets")->capture_default_str();
  c->add_option("--after", a.after, "File for the word that says what follows: dialog, poweroff, reboot, shell");
  c->add_option("--log", a.log, "File for what a capture says on standard error")->capture_default_str();
  return c;
}

int run_dialog(const DialogArguments& a, Console& console, const StopToken& stop) {
  const AfterCapture after = a.unattended ? run_unattended(a, console, stop) : run_dialog_pages(a, stop);
  if (!a.after.empty())
    write_file_durably(a.after, to_string(after) + "\n");
  return exit_done;
}

} // namespace kvmport
