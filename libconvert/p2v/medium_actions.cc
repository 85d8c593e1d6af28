// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/medium_actions.h"

#include "base/file.h"
#include "base/process.h"
#include "libconvert/machine/text.h"
#include "libconvert/p2v/enrol.h"
#include "libconvert/p2v/media.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <iterator>
#include <thread>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

using namespace std::chrono_literals;

constexpr const char* resolver = "/etc/resolv.conf";
constexpr const char* fixed_resolver = "/run/p2v/resolv.fixed"; ///< tells udhcpc's script to leave resolv.conf alone
constexpr const char* lease_script = "/usr/share/kvmport/udhcpc";

std::string first_line(const fs::path& path) {
  try {
    const std::string text = read_file(path, 4096);
    return text.substr(0, text.find('\n'));
  } catch (const Error&) {
    return {}; // carrier of a card that is down can't be read
  }
}

void pause(std::chrono::milliseconds time, const StopToken& stop) {
  for (; time > 0ms; time -= 100ms) {
    stop.check();
    std::this_thread::sleep_for(100ms);
  }
}

void must(const std::vector<std::string>& argv) {
  const ProcessResult r = run_process(argv, 60s);
  if (r.exit_code != 0)
    throw Error("NETWORK_FAILED", fmt::format("{} failed", fmt::join(argv, " ")),
                printable(r.err.empty() ? r.out : r.err, 300));
}

/// udhcpc goes to the background with a lease and keeps what it was given as output: so it gets no pipe of ours.
void ask_for_lease(const std::vector<std::string>& argv) {
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  Child child(argv, {{null.get(), STDOUT_FILENO}, {null.get(), STDERR_FILENO}});
  if (child.wait(60s) != 0)
    throw Error("NETWORK_FAILED", "no lease", "no DHCP server answers");
}

/// Links come some seconds after their card is switched on.
std::vector<NetworkCard> cards_with_links(const NetworkSettings& network, const StopToken& stop) {
  for (const auto& card : matching_cards(network, network_cards()))
    run_process({"ip", "link", "set", "dev", card.name, "up"}, 10s);
  for (int i = 0; i < 20; ++i) {
    const auto cards = matching_cards(network, network_cards());
    if (std::ranges::any_of(cards, &NetworkCard::link))
      return cards;
    pause(500ms, stop);
  }
  return matching_cards(network, network_cards());
}

} // namespace

std::vector<NetworkCard> network_cards(const fs::path& sys) {
  std::vector<NetworkCard> out;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(sys / "class/net", ignored))
    if (fs::exists(entry.path() / "device"))
      out.push_back({entry.path().filename(), lower(first_line(entry.path() / "address")),
                     first_line(entry.path() / "carrier") == "1"});
  // "eth2" before "eth10".
  std::ranges::sort(
      out, [](const NetworkCard& a, const NetworkCard& b) { return ::strverscmp(a.name.c_str(), b.name.c_str()) < 0; });
  return out;
}

std::vector<NetworkCard> matching_cards(const NetworkSettings& network, const std::vector<NetworkCard>& cards) {
  std::vector<NetworkCard> out;
  for (const auto& card : cards)
    if (network.device.empty() || network.device == card.name || network.device == card.mac)
      out.push_back(card);
  if (out.empty())
    throw Error("NETWORK_FAILED", network.device.empty()
                                      ? "this machine has no network card that the medium has a driver for"
                                      : network.device + ": there is no such network card");
  std::stable_partition(out.begin(), out.end(), [](const NetworkCard& card) { return card.link; });
  return out;
}

std::string bring_up_network(const NetworkSettings& network, EventSink& events, const StopToken& stop) {
  const auto cards = cards_with_links(network, stop);
  std::string why;
  for (const auto& card : cards) {
    stop.check();
    // A fixed address belongs to one card; a card without a link gets no lease.
    if (!card.link && cards.front().link)
      break;
    events.message(EventSink::Level::info, "", fmt::format("network: trying {} ({})", card.name, card.mac));
    try {
      run_process({"ip", "addr", "flush", "dev", card.name}, 10s);
      if (const std::string servers = resolver_file(network); !servers.empty()) {
        write_file_durably(fixed_resolver, "\n");
        write_file_durably(resolver, servers);
      }
      for (const auto& command : network_commands(network, card.name, lease_script))
        command.front() == "udhcpc" ? ask_for_lease(command) : must(command);
      return card.name;
    } catch (const Error& e) {
      if (e.code() != "NETWORK_FAILED")
        throw;
      why = e.why().empty() ? e.what() : e.why();
    }
  }
  throw Error("NETWORK_FAILED", network.dhcp ? "no network card got an address by DHCP" : "the network can't be set up",
              why, "check the cable, or give a fixed address");
}

std::string proposed_name(const Inventory& inventory) {
  // What vendors leave where they wrote nothing.
  const std::string serial = lower(inventory.smbios.serial);
  const bool known =
      serial.size() > 3 &&
      std::ranges::none_of(std::array{"filled", "default", "serial", "none", "specified", "123456", "0000", "xxxx"},
                           [&](const char* word) { return serial.find(word) != serial.npos; });
  std::string text = known ? inventory.smbios.product + "-" + serial : "p2v";
  for (const auto& nic : inventory.nics)
    if (!known && !nic.guest_mac().empty()) {
      text += "-";
      std::ranges::copy_if(nic.guest_mac(), std::back_inserter(text), [](char c) { return c != ':'; });
      break;
    }
  std::string name;
  for (const char c : lower(text))
    if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'))
      name += c;
    else if (!name.empty() && name.back() != '-')
      name += '-';
  name.resize(std::min<std::size_t>(name.size(), 63));
  name.erase(name.find_last_not_of('-') + 1);
  return name;
}

std::string make_medium_key(const fs::path& file) {
  if (!fs::exists(file)) {
    fs::create_directories(file.parent_path());
    must({"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "kvm-p2v", "-f", file});
  }
  return parse_public_key(read_file(file.string() + ".pub", 4096));
}

void enrol_medium(MediumSettings& settings, const std::function<void(const std::string& code)>& show,
                  std::chrono::seconds patience, EventSink& events, const StopToken& stop) {
  if (!settings.server)
    throw Error("SETTING_INVALID", "no server was named");
  const std::string key = make_medium_key(medium_own_key);
  const std::string name = settings.name.empty() ? "p2v" : settings.name;
  show(enrol_code(key, settings.host_key));
  const auto until = std::chrono::steady_clock::now() + patience;
  bool told = false;
  while (std::chrono::steady_clock::now() < until) {
    try {
      const UniqueFd socket = connect_tcp(settings.server->host, settings.enrol_port, 10s);
      send_message(socket.get(), encode_request({key, name}));
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
      if (receive_message(socket.get(), left, stop) != "accepted")
        throw Error("ENROL_REFUSED", "the server refused this medium", {},
                    "compare the code there with the one shown here");
      settings.identity = medium_own_key;
      return;
    } catch (const Error& e) {
      if (e.code() != "CONNECTION_LOST")
        throw;
      if (!std::exchange(told, true))
        events.message(EventSink::Level::info, "",
                       fmt::format("waiting for kvm-p2v accept on the server: {}", e.why()));
    }
    pause(2s, stop);
  }
  throw Error("ENROL_TIMEOUT", "nobody accepted this medium", {}, "run kvm-p2v accept on the server");
}

} // namespace kvmport
