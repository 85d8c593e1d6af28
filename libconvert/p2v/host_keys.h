// SPDX-License-Identifier: Apache-2.0
// The host keys that an ssh server shows, by ssh-keyscan. Nothing proves that they are the server's: a person compares
// fingerprints, or one was given beforehand.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvmport {

struct HostKey {
  std::string type, fingerprint; ///< "ssh-ed25519", "SHA256:…"
  std::string line;              ///< as known_hosts has it
};

/// Those of `host`, ed25519 first. Port 0: ssh's own. Error CONNECTION_LOST.
std::vector<HostKey> scan_host_keys(const std::string& host, std::uint16_t port);

} // namespace kvmport
