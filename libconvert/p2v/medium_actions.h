// SPDX-License-Identifier: Apache-2.0
// What the boot medium does to its own system to get to the server: network, host key, enrolment. Runs the medium's
// programs (ip, udhcpc, ssh-keyscan, ssh-keygen) by argument vectors. Nothing here touches a disk.
#pragma once

#include "base/events.h"
#include "libconvert/p2v/inventory.h"
#include "libconvert/p2v/medium_settings.h"

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace kvmport {

struct NetworkCard {
  std::string name, mac;
  bool link = false; ///< known only of cards that are up
};
/// Cards with a device behind them (no loopback, no VLAN), by name. `sys`: where sysfs is.
std::vector<NetworkCard> network_cards(const std::filesystem::path& sys = "/sys");

/// The cards that these settings may mean, the best first: the named one (by name or MAC address), else those with a
/// link, else all. Error NETWORK_FAILED when there is none.
std::vector<NetworkCard> matching_cards(const NetworkSettings& network, const std::vector<NetworkCard>& cards);

/// Brings the network up on the first card where that works; returns its name. Error NETWORK_FAILED with what the last
/// program said.
std::string bring_up_network(const NetworkSettings& network, EventSink& events, const StopToken& stop);

/// A name for the guest of a machine that has none here (the medium's own host name says nothing): product and serial
/// number, else a MAC address: "poweredge-r640-4xk2", "p2v-525400aabbcc".
std::string proposed_name(const Inventory& inventory);

/// Makes the medium's own key for this boot unless it is there; returns the public key without a comment.
std::string make_medium_key(const std::filesystem::path& file);

/// Makes a key, tells `show` the code, and asks the server until a person there accepts: then `settings` hold the key
/// and the server's fingerprint, which must be known by now. Errors: ENROL_REFUSED, ENROL_TIMEOUT.
void enrol_medium(MediumSettings& settings, const std::function<void(const std::string& code)>& show,
                  std::chrono::seconds patience, EventSink& events, const StopToken& stop);

} // namespace kvmport
