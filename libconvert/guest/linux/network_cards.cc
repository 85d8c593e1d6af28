// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/linux/network_cards.h"

#include "libconvert/guest/linux/network_config.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <cstdio>

namespace kvmport::linux_guest {

namespace {

/// FNV-1a: the same on every machine and in every run, unlike std::hash.
std::uint64_t fingerprint(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (unsigned char c : text)
    hash = (hash ^ c) * 0x100000001b3;
  return hash;
}

std::string made_mac(const Machine& machine, std::size_t card) {
  std::string identity = machine.uuid + "\n" + machine.name + "\n" + std::to_string(card);
  for (const MachineDisk& disk : machine.disks)
    identity += "\n" + disk.path.filename().string();
  const std::uint64_t hash = fingerprint(identity);
  char text[18];
  std::snprintf(text, sizeof text, "52:54:00:%02x:%02x:%02x", static_cast<unsigned>(hash >> 16 & 255),
                static_cast<unsigned>(hash >> 8 & 255), static_cast<unsigned>(hash & 255));
  return text;
}

bool is_used(const Machine& machine, std::string_view mac) {
  return std::any_of(machine.nics.begin(), machine.nics.end(),
                     [&](const MachineNic& nic) { return equal_nocase(nic.mac, mac); });
}

} // namespace

std::vector<std::string> configured_macs(const GuestFilesystem& guest) {
  Plan unused;
  const NetworkConfig config = read_network_config(Draft(guest, unused));
  std::vector<std::pair<std::string, std::string>> named; // name, MAC; cards without a name come last
  for (const auto& [mac, file] : config.files_of_macs) {
    const auto name = config.name_of_mac.find(mac);
    named.emplace_back(name == config.name_of_mac.end() ? "~" : name->second, mac);
  }
  std::stable_sort(named.begin(), named.end(),
                   [](const auto& a, const auto& b) { return natural_less(a.first, b.first); });
  std::vector<std::string> macs;
  for (auto& [name, mac] : named)
    macs.push_back(std::move(mac));
  return macs;
}

void complete_network_cards(Machine& machine, const GuestFilesystem& guest) {
  if (machine.nics.empty() && machine.source_type == "disk") {
    machine.nics.emplace_back();
    machine.notes.emplace_back("a bare disk tells of no network card; the machine gets one");
  }
  std::vector<std::string> wanted = configured_macs(guest);
  std::erase_if(wanted, [&](const std::string& mac) { return is_used(machine, mac); });
  std::size_t next = 0;
  for (std::size_t i = 0; i < machine.nics.size(); i++) {
    MachineNic& nic = machine.nics[i];
    if (!nic.mac.empty())
      continue;
    const bool configured = next < wanted.size();
    std::string mac = configured ? wanted[next++] : made_mac(machine, i);
    for (std::size_t salt = 1; !configured && is_used(machine, mac); salt++)
      mac = made_mac(machine, i + salt * 1000);
    nic.mac = mac;
    machine.notes.push_back("network card " + std::to_string(i + 1) + " had no MAC address in the source; it gets " +
                            mac + (configured ? ", which the guest's network configuration is written for" : ""));
  }
}

} // namespace kvmport::linux_guest
