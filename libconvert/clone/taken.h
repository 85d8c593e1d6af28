// SPDX-License-Identifier: Apache-2.0
// Which identities other machines have: names, UUIDs, MAC addresses, ports, sockets, … of every domain that is known.
// Each clone of a run adds its own, so that no two machines ever share one; and the makers of new values.
#pragma once

#include "libconvert/clone/xml_edit.h"

#include <cstdint>
#include <optional>
#include <set>
#include <utility>

namespace kvmport {

enum class Identity {
  name,
  uuid, ///< of the domain, its generation id, its ports on virtual switches, serials that are UUIDs
  mac,
  vsock_cid,
  port,       ///< TCP or UDP, whatever the host's address
  net_device, ///< a tap device's name on the host
  path,       ///< disks, sockets, logs, variable stores
  shmem,
  serial,
  wwn,
  iqn
};

/// Values are compared as the things they name: UUIDs and MAC addresses in any case and form. Copyable; one thread.
class TakenIdentities {
 public:
  void add(Identity kind, std::string_view value);
  bool has(Identity kind, std::string_view value) const;
  /// Adds; false when it was there.
  bool claim(Identity kind, std::string_view value);
  /// Adds all of a domain's. Error DESCRIPTION_INVALID, naming `name`, when `xml` can't be parsed.
  void add_domain(const std::string& xml, const std::string& name);
  void add_domain(const XmlNode& domain);

 private:
  std::set<std::pair<Identity, std::string>> values_;
};

// New values, each claimed in `taken`. Error IDENTITY_EXHAUSTED when no free one is found.

/// A random (version 4) UUID, lower case with dashes.
std::string new_uuid(TakenIdentities& taken);
/// QEMU's prefix 52:54:00 and three octets: random, or with a seed the first octets of
/// SHA-256(seed NUL clone name NUL card's number NUL attempt), so that the same run gives the same addresses.
std::string new_mac(TakenIdentities& taken, const std::optional<std::string>& seed, const std::string& clone,
                    std::size_t card);
/// 16 upper-case hex digits: QEMU cuts the serial of a virtio disk after 20 bytes.
std::string new_serial(TakenIdentities& taken);
/// 16 hex digits as libvirt wants them; the kind and vendor (7 digits) of `old` stay.
std::string new_wwn(TakenIdentities& taken, const std::string& old);
/// The next free port after `old`; from 1024 again after 65535.
std::uint16_t new_port(TakenIdentities& taken, std::uint16_t old);
/// The next free context id after `old`. 0 to 2 have a meaning of their own (vsock(7)).
std::uint32_t new_vsock_cid(TakenIdentities& taken, std::uint32_t old);
/// A name for a network device, at most 15 bytes (IFNAMSIZ): `old`, cut where needed, and "-c" with a number.
std::string new_net_device(TakenIdentities& taken, const std::string& old);
/// `wanted`, or with "-2", "-3", … where that is taken.
std::string new_by_number(TakenIdentities& taken, Identity kind, const std::string& wanted);

} // namespace kvmport
