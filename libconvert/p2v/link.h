// SPDX-License-Identifier: Apache-2.0
// How an agent reaches its receiver: the user's own ssh starts `kvm-p2v receive` on the server, or, for a directory of
// this host, a child does. Host keys are checked as ssh is configured, or against a fingerprint; no secret is ever on a
// command line.
#pragma once

#include "base/process.h"
#include "libconvert/p2v/connection.h"

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace kvmport {

/// Where to capture to.
struct LinkTarget {
  std::string host, user; ///< host empty: a directory of this host
  std::uint16_t port = 0; ///< 0: as ssh is configured
  std::string directory;
  std::string host_key; ///< "SHA256:…": the only host key that is accepted
  std::string identity; ///< file of a private key; empty: as ssh is configured
  std::string program;  ///< the receiver; empty: kvm-p2v on the server, this very program on this host
};

/// "ssh://[USER@]HOST[:PORT]/DIR" (IPv6 addresses in brackets; "/~/DIR" counts from the user's home) or the path of a
/// directory. Error USAGE for what is neither, and for values that ssh might take for options.
LinkTarget parse_link_target(const std::string& text);

/// A connection and the process behind it.
class LinkConnection {
 public:
  /// `argv` is started with its standard input and output connected to us; what it says on its standard error is kept.
  LinkConnection(const std::vector<std::string>& argv, const StopToken& stop);
  /// Without a process.
  LinkConnection(UniqueFd in, UniqueFd out, const StopToken& stop);
  Connection& connection() { return *connection_; }
  /// The last lines that the process wrote on its standard error.
  std::string complaints();

 private:
  UniqueFd errors_;
  std::unique_ptr<Connection> connection_;
  std::optional<Child> child_;
};

/// Opens one connection.
using OpenLink = std::function<std::unique_ptr<LinkConnection>()>;

/// Opens connections to one target. The thread that opens them must live longer than they do.
class Link {
 public:
  /// With a host key to check against, asks the server for its keys: Error HOST_KEY_MISMATCH, CONNECTION_LOST.
  /// `interactive`: ssh may ask on the terminal, at the first connection.
  Link(LinkTarget target, bool interactive);

  std::unique_ptr<LinkConnection> open(const StopToken& stop);
  /// What open() starts.
  std::vector<std::string> argv() const;
  /// "user@host:DIR", for people.
  std::string description() const;

 private:
  void pin_host_key();

  LinkTarget target_;
  bool interactive_, opened_ = false;
  std::optional<TempDir> files_;
};

} // namespace kvmport
