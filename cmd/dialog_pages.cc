// SPDX-License-Identifier: Apache-2.0
// The windows of the boot medium: one menu with what is known so far, a page for each part of it, and the capture.
#include "base/file.h"
#include "base/process.h"
#include "cmd/capture_child.h"
#include "cmd/dialog_command.h"
#include "cmd/newt_screen.h"
#include "libconvert/p2v/host_keys.h"
#include "libconvert/p2v/inventory.h"
#include "libconvert/p2v/media.h"
#include "libconvert/p2v/medium_actions.h"

#include <algorithm>
#include <fmt/format.h>
#include <sstream>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

using namespace std::chrono_literals;

std::string words_of(const Error& e) {
  std::string out = fmt::format("{} ({})", printable(e.summary()), e.code());
  for (const auto& more : {e.why(), e.hint()})
    if (!more.empty())
      out += "\n\n" + printable(more, true);
  return out;
}

class Pages {
 public:
  Pages(const DialogArguments& arguments, const StopToken& stop)
      : arguments_(arguments), stop_(stop),
        screen_("kvm-p2v " + std::string(version_text) + ": this machine becomes a KVM guest") {}
  AfterCapture run();

 private:
  template <typename Work> bool guarded(const std::string& title, const Work& work);
  void network();
  void network_fields(bool dhcp);
  bool bring_up();
  void server();
  bool confirm_host_key();
  bool enrol();
  void look_for_disks();
  void disks();
  void name_and_options();
  bool ready();
  std::string summary() const;
  std::optional<AfterCapture> capture();
  std::optional<AfterCapture> outcome(const CaptureChild& child, bool cancelled);
  void show_inventory();
  std::optional<AfterCapture> leave();
  std::string disks_text() const;

  const DialogArguments& arguments_;
  const StopToken& stop_;
  NewtScreen screen_;
  MediumSettings settings_;
  std::vector<DiskInventory> disks_;
  std::string card_; ///< whose network is up; empty: none yet
  NetworkSettings network_tried_;
  bool key_confirmed_ = false, enrolled_ = false;
};

/// Runs `work`; an error is shown and false returned.
template <typename Work> bool Pages::guarded(const std::string& title, const Work& work) {
  try {
    work();
    return true;
  } catch (const Error& e) {
    screen_.tell(title, words_of(e));
    return false;
  }
}

std::string Pages::disks_text() const {
  std::uint64_t bytes = 0;
  std::size_t count = 0;
  for (const auto& disk : disks_)
    if (settings_.disks.empty() ? disk.selected
                                : std::ranges::find(settings_.disks, disk.name) != settings_.disks.end())
      bytes += disk.size, ++count;
  return fmt::format("{} of {}, {}", count, disks_.size(), human_size(bytes));
}

void Pages::network() {
  const auto choice = screen_.menu("Network", "How does this machine get an address?", {"By DHCP", "A fixed address"},
                                   settings_.network.dhcp ? 0 : 1);
  if (choice)
    network_fields(*choice == 0);
}

void Pages::network_fields(bool dhcp) {
  std::string cards;
  for (const auto& card : network_cards())
    cards += fmt::format("\n{:<10} {}{}", card.name, card.mac, card.link ? "  link" : "");
  NetworkSettings& n = settings_.network;
  std::vector<NewtScreen::Field> fields{{"Card (empty: any)", n.device},
                                        {"VLAN (empty: none)", n.vlan == 0 ? "" : fmt::format("{}", n.vlan)}};
  if (!dhcp) {
    fields.push_back({"Address/prefix", n.address.empty() ? "" : fmt::format("{}/{}", n.address, n.prefix)});
    fields.push_back({"Gateway", n.gateway});
    fields.push_back({"Name servers", fmt::format("{}", fmt::join(n.dns, " "))});
  }
  while (screen_.form("Network", "Cards of this machine:" + cards, fields)) {
    std::string text = dhcp ? "dhcp" : fields[2].value;
    const auto add = [&](const char* key, const std::string& value) {
      text += value.empty() ? "" : fmt::format(",{}={}", key, value);
    };
    add("dev", fields[0].value);
    add("vlan", fields[1].value);
    if (!dhcp) {
      add("gw", fields[3].value);
      std::istringstream servers(fields[4].value);
      for (std::string server; servers >> server;)
        add("dns", server);
    }
    if (guarded("Network", [&] { settings_.network = parse_medium_network(text); }) && bring_up())
      return;
  }
}

bool Pages::bring_up() {
  return guarded("Network", [&] {
    card_.clear();
    NullSink quiet;
    screen_.wait("Network", "Setting up the network. With DHCP this may take half a minute.",
                 [&] { card_ = bring_up_network(settings_.network, quiet, stop_); });
  });
}

void Pages::server() {
  std::vector<NewtScreen::Field> fields{{"Server", settings_.server ? settings_.server->url() : "ssh://"},
                                        {"Key file (empty: ask)", settings_.identity}};
  while (screen_.form("Server",
                      "Where the captured machine goes: ssh://USER@HOST[:PORT]/DIR. kvm-p2v must be installed there.",
                      fields)) {
    const bool good = guarded("Server", [&] {
      const ServerAddress address = parse_server(fields[0].value);
      if (!settings_.server || settings_.server->url() != address.url()) {
        settings_.host_key.clear();
        key_confirmed_ = enrolled_ = false;
      }
      settings_.server = address;
      settings_.identity = fields[1].value;
    });
    if (good && (!card_.empty() || bring_up()) && confirm_host_key()) {
      if (settings_.identity.empty() && !enrolled_ &&
          screen_.ask("Server",
                      "This medium has no key for the server. It can make one, which somebody lets in on the server by "
                      "kvm-p2v accept, after comparing a short code.",
                      "Make a key", "Not now"))
        enrol();
      return;
    }
  }
}

bool Pages::confirm_host_key() {
  if (key_confirmed_)
    return true;
  if (!settings_.host_key.empty()) // preset: ssh checks it
    return key_confirmed_ = true;
  std::vector<HostKey> keys;
  const bool found = guarded("Server", [&] {
    screen_.wait("Server", "Asking the server for its host key.",
                 [&] { keys = scan_host_keys(settings_.server->host, settings_.server->port); });
  });
  if (!found)
    return false;
  if (!screen_.ask(
          "Server",
          fmt::format("The server shows this host key ({}):\n\n{}\n\nCompare it with what the server says by itself:\n"
                      "ssh-keygen -lf /etc/ssh/ssh_host_{}_key.pub",
                      keys.front().type, keys.front().fingerprint,
                      keys.front().type == "ssh-ed25519" ? "ed25519" : "..."),
          "It is the same", "Cancel"))
    return false;
  settings_.host_key = keys.front().fingerprint;
  return key_confirmed_ = true;
}

bool Pages::enrol() {
  if (settings_.enrol_port == 0)
    settings_.enrol_port = default_enrol_port;
  NullSink quiet;
  return enrolled_ = guarded("Server", [&] {
           screen_.lend([&] {
             const auto show = [&](const std::string& code) {
               std::printf("\r\nOn the server, run:  kvm-p2v accept --dir %s\r\n\r\nThe code is  %s\r\n\r\nWaiting for "
                           "the answer "
                           "(at most 10 minutes) ...\r\n",
                           settings_.server->directory.c_str(), code.c_str());
               std::fflush(stdout);
             };
             enrol_medium(settings_, show, 10min, quiet, stop_);
           });
         });
}

void Pages::look_for_disks() {
  guarded("Disks", [&] {
    const Inventory inventory = read_inventory();
    disks_ = inventory.disks;
    if (settings_.name.empty())
      settings_.name = proposed_name(inventory);
  });
}

void Pages::disks() {
  look_for_disks(); // one may have been plugged in
  std::vector<NewtScreen::Item> items;
  for (const auto& disk : disks_)
    items.push_back({printable(fmt::format("{:<9} {:>10}  {} {}{}", disk.name, human_size(disk.size), disk.model,
                                           disk.serial, disk.reason.empty() ? "" : " (" + disk.reason + ")")),
                     settings_.disks.empty() ? disk.selected
                                             : std::ranges::find(settings_.disks, disk.name) != settings_.disks.end()});
  if (items.empty())
    return screen_.tell("Disks", "The medium sees no disk of this machine.");
  if (!screen_.checklist("Disks", "Which disks belong to the machine? Of known filesystems only used blocks are sent.",
                         items))
    return;
  settings_.disks.clear();
  for (std::size_t i = 0; i < items.size(); ++i)
    if (items[i].checked)
      settings_.disks.push_back(disks_[i].name);
}

void Pages::name_and_options() {
  std::vector<NewtScreen::Field> fields{{"Name of the guest", settings_.name},
                                        {"Bytes a second (empty: all)", settings_.bandwidth},
                                        {"Convert on the server", settings_.convert ? "yes" : "no"},
                                        {"Go on over bad sectors", settings_.rescue ? "yes" : "no"}};
  while (screen_.form("Name and options", "", fields)) {
    const bool good = guarded("Name and options", [&] {
      std::string line;
      const std::vector<std::string> keys{"p2v.name", "p2v.bandwidth", "p2v.convert", "p2v.rescue"};
      for (std::size_t i = 0; i < keys.size(); ++i)
        line += fields[i].value.empty() ? "" : fmt::format("{}=\"{}\" ", keys[i], fields[i].value);
      const MediumSettings typed = parse_kernel_arguments(line);
      settings_.name = typed.name;
      settings_.bandwidth = typed.bandwidth;
      settings_.convert = typed.convert;
      settings_.rescue = typed.rescue;
    });
    if (good)
      return;
  }
}

std::string Pages::summary() const {
  return fmt::format("Disks: {}\nTo: {}\nName: {}\n\nThe disks are only read. {}", disks_text(),
                     settings_.server->url(), settings_.name,
                     settings_.convert ? "The server makes a KVM guest of it and proves that it boots."
                                       : "The server stores disks and description.");
}

bool Pages::ready() {
  if (!settings_.server)
    server();
  return settings_.server && (!card_.empty() || bring_up()) && confirm_host_key() &&
         screen_.ask("Start", summary(), "Start", "Back");
}

std::optional<AfterCapture> Pages::capture() {
  if (!ready())
    return std::nullopt;
  CaptureChild child(capture_arguments(settings_, fs::canonical("/proc/self/exe")), arguments_.log);
  bool cancelled = false, running = true;
  const auto turn = [&]() -> std::optional<NewtScreen::Progress> {
    running = running && child.take(10ms);
    if (!running)
      return std::nullopt;
    const CaptureProgress& p = child.progress();
    const auto permille =
        p.total() == 0 ? 0U
                       : static_cast<unsigned>(static_cast<double>(p.done()) / static_cast<double>(p.total()) * 1000);
    return NewtScreen::Progress{p.stage(), (child.paused() ? "PAUSED  " : "") + p.text(), p.message(), permille};
  };
  screen_.progress("Capture", 500ms, turn, {"Pause/Go on", "Cancel", "Shell"}, [&](std::size_t button) {
    if (button == 0)
      child.paused() ? child.go_on() : child.pause();
    else if (button == 1 &&
             screen_.ask("Cancel",
                         "Stop the capture? What was sent stays on the server; the next run goes on from there.",
                         "Stop", "Go on"))
      cancelled = true, child.cancel();
    else if (button == 2)
      screen_.lend([] {
        std::puts("\r\n\"exit\" leads back to the capture.\r");
        Child shell({"sh"}, {{0, 0}, {1, 1}, {2, 2}});
        while (!shell.wait(1h)) {
        }
      });
  });
  return outcome(child, cancelled);
}

std::optional<AfterCapture> Pages::outcome(const CaptureChild& child, bool cancelled) {
  const int code = child.exit_code();
  if (code != exit_done && (code != exit_not_proven || settings_.convert)) {
    std::string text = cancelled ? "The capture was stopped." : child.progress().error();
    if (text.empty())
      text = fmt::format("The capture ended with exit status {}. Its last words: {}\n\nMore in {}.", code,
                         child.progress().message(), arguments_.log.string());
    screen_.tell("Not done",
                 text +
                     (code == exit_not_proven ? "\n\nThe disks are on the server, but the boot was not proven." : ""));
    return std::nullopt;
  }
  return screen_.ask(
             "Done",
             settings_.convert
                 ? "The guest is on the server, and it boots there.\n\nThis machine should not start again beside it."
                 : "Disks and description are on the server.",
             to_string(settings_.post), "Back")
             ? std::optional(settings_.post)
             : std::nullopt;
}

void Pages::show_inventory() {
  ProcessResult r;
  screen_.wait("This machine", "Looking.", [&] {
    r = run_process({fs::canonical("/proc/self/exe"), "inventory"}, 5min);
  });
  screen_.show("This machine", printable(r.out + r.err, true));
}

std::optional<AfterCapture> Pages::leave() {
  const auto choice = screen_.menu("Leave", "", {"Shell", "Reboot", "Power off"});
  if (!choice)
    return std::nullopt;
  return std::array{AfterCapture::shell, AfterCapture::reboot, AfterCapture::poweroff}.at(*choice);
}

AfterCapture Pages::run() {
  guarded("Settings", [&] { settings_ = medium_presets(arguments_.command_line); });
  look_for_disks();
  std::size_t at = settings_.server ? 4 : 0;
  for (;;) {
    stop_.check();
    const auto choice = screen_.menu(
        "kvm-p2v", "Nothing is written to this machine's disks.",
        {fmt::format("Network     {}", card_.empty() ? "not set up" : card_ + ": " + settings_.network.text()),
         fmt::format("Server      {}", settings_.server ? settings_.server->url() : "not named"),
         fmt::format("Disks       {}", disks_text()), fmt::format("Options     {}", settings_.name),
         "Start       send this machine to the server", "Inventory   what this machine is made of",
         "Leave       shell, reboot, power off"},
        at);
    at = choice.value_or(at);
    std::optional<AfterCapture> after;
    const bool well = guarded("kvm-p2v", [&] {
      switch (choice.value_or(6)) {
      case 0:
        network();
        break;
      case 1:
        server();
        break;
      case 2:
        disks();
        break;
      case 3:
        name_and_options();
        break;
      case 4:
        after = capture();
        break;
      case 5:
        show_inventory();
        break;
      default:
        after = leave();
        break;
      }
    });
    if (well && after)
      return *after;
  }
}

} // namespace

AfterCapture run_dialog_pages(const DialogArguments& arguments, const StopToken& stop) {
  if (::isatty(STDIN_FILENO) == 0)
    throw Error("TERMINAL_UNUSABLE", "the dialogue needs a terminal", {}, "use --unattended where there is none");
  return Pages(arguments, stop).run();
}

} // namespace kvmport
