// SPDX-License-Identifier: Apache-2.0
// What the boot medium is to do: presets from the kernel's command line ("p2v.server=ssh://…"), filled up or made by
// its text dialogue, and turned into argument vectors for the programs that do it. No input or output here.
//
// Every value comes from a person or from a network (PXE), so every one is checked before it reaches a program; none
// ever reaches a shell. Errors have the code SETTING_INVALID and name the setting.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvmport {

/// "ssh://[USER@]HOST[:PORT]/DIR".
struct ServerAddress {
  std::string user; ///< empty: root, as whom the medium runs
  std::string host; ///< name, IPv4 or IPv6 address (without brackets)
  std::uint16_t port = 22;
  std::string directory; ///< begins with '/'
  std::string url() const;
};
ServerAddress parse_server(std::string_view text);

/// How one network card gets its address.
struct NetworkSettings {
  bool dhcp = true;
  std::string device; ///< "eth0" or its MAC address; empty: every card with a link is tried, in order of names
  unsigned vlan = 0;  ///< 1-4094; 0: untagged
  std::string address, gateway; ///< without DHCP; IPv4 or IPv6. The gateway may be empty
  unsigned prefix = 0;
  std::vector<std::string> dns;
  /// As `p2v.net` takes it.
  std::string text() const;
};
/// "dhcp" or "IP/PREFIX", then in any order ",gw=IP", ",dns=IP" (several times), ",dev=NAME|MAC", ",vlan=N".
NetworkSettings parse_medium_network(std::string_view text);
/// The commands that bring the network up on `device` (a name of the kernel), in order; each must succeed.
/// `script`: what udhcpc runs for a lease.
std::vector<std::vector<std::string>> network_commands(const NetworkSettings& network, const std::string& device,
                                                       const std::string& script);
/// The content of resolv.conf, empty with DHCP alone.
std::string resolver_file(const NetworkSettings& network);

/// What the medium does when its work is done, or has failed.
enum class AfterCapture { dialog, poweroff, reboot, shell };
std::string to_string(AfterCapture after);

/// All of it. What is empty was not preset.
struct MediumSettings {
  std::optional<ServerAddress> server;
  std::string host_key;         ///< "SHA256:…" as ssh-keygen -l prints it
  std::string identity;         ///< file of a private key on the medium
  std::uint16_t enrol_port = 0; ///< where `kvm-p2v accept` listens on the server; 0: no enrolment
  NetworkSettings network;
  bool network_preset = false;    ///< p2v.net was given
  std::vector<std::string> disks; ///< names of the kernel; empty: all
  std::string name;               ///< of the guest
  std::string bandwidth;          ///< "50M"
  unsigned streams = 0;           ///< 0: the agent's default
  bool convert = true;            ///< else the server only stores disks and description
  bool rescue = false;            ///< go on over unreadable sectors
  bool inventory = false;         ///< print the inventory and end
  AfterCapture post = AfterCapture::poweroff, fail = AfterCapture::dialog;

  /// Enough is known to run without a person: a server, whose identity is pinned or which will compare a code.
  bool unattended() const { return server && (!host_key.empty() || enrol_port != 0); }
};

inline constexpr std::uint16_t default_enrol_port = 7722;

/// Reads /proc/cmdline. Only words that begin with "p2v." matter; an unknown one is an error, since a misspelt wish
/// would be silently ignored. Double quotes keep spaces together, as the kernel has it.
MediumSettings parse_kernel_arguments(std::string_view command_line);
/// The same as words of a kernel's command line, without what is default.
std::vector<std::string> kernel_arguments(const MediumSettings& settings);

/// Checks what a person typed; throws. parse_kernel_arguments() uses them too.
void check_host_key(std::string_view text);
void check_guest_name(std::string_view text);
void check_disk_name(std::string_view text);
void check_bandwidth(std::string_view text);

/// "kvm-p2v capture … --json" for these settings; needs a server.
std::vector<std::string> capture_arguments(const MediumSettings& settings, const std::string& program);

} // namespace kvmport
