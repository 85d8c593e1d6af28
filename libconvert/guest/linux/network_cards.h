// SPDX-License-Identifier: Apache-2.0
// MAC addresses for cards whose source tells none (OVF files often don't, bare disks never do). Done before the plan is
// made: a card without a known address can't be tied to the interface name that the guest's configuration uses.
#pragma once

#include "libconvert/guest/filesystem.h"
#include "libconvert/machine/machine.h"

#include <string>
#include <vector>

namespace kvmport::linux_guest {

/// MAC addresses that the guest's own network configuration is written for, in the order of the interface names.
std::vector<std::string> configured_macs(const GuestFilesystem& guest);

/// Gives every card of `machine` without a MAC address one: an address that the guest's configuration is written for
/// and no other card has, else one of QEMU's range (52:54:00) made from the machine's identity, so that it is the same
/// in every run. A machine of bare disks gets one card. What was done goes to machine.notes.
void complete_network_cards(Machine& machine, const GuestFilesystem& guest);

} // namespace kvmport::linux_guest
