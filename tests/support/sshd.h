// SPDX-License-Identifier: Apache-2.0
// A real sshd on a free port of this host's loopback, with keys of its own; it vanishes with its object.
#pragma once

#include "base/process.h"

#include <cstdint>
#include <filesystem>
#include <netinet/in.h>
#include <optional>
#include <string>

namespace kvmport::test {

/// 127.0.0.1 and a port.
sockaddr_in loopback(std::uint16_t port);

class Sshd {
 public:
  /// Keys and configuration go into `directory`, which must outlive it. It lets this user in. A failure is a
  /// std::runtime_error.
  explicit Sshd(std::filesystem::path directory);

  std::uint16_t port() const { return port_; }
  const std::string& fingerprint() const { return fingerprint_; } ///< of its host key, "SHA256:…"
  std::filesystem::path identity() const { return directory_ / "user"; }
  std::filesystem::path authorized_keys() const { return directory_ / "authorized"; }

 private:
  void wait_until_it_listens() const;

  std::filesystem::path directory_;
  std::uint16_t port_ = 0;
  std::string fingerprint_;
  std::optional<Child> server_;
};

} // namespace kvmport::test
