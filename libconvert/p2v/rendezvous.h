// SPDX-License-Identifier: Apache-2.0
// How the receivers of one machine find each other: each connection of a capture starts a process of its own (its ssh
// server does), the first leads, and the others hand their connection to it and wait until it is done with. The place
// is a Unix socket in the machine's spool directory.
#pragma once

#include "base/file.h"

#include <optional>
#include <string>

namespace kvmport {

/// A connection that another receiver was started with, and its first frame.
struct HandedConnection {
  UniqueFd in, out;
  std::string hello; ///< payload
  UniqueFd waiting;  ///< the other process ends when this closes
};

/// The leader's end.
class Rendezvous {
 public:
  explicit Rendezvous(const std::filesystem::path& directory);
  ~Rendezvous();
  Rendezvous(const Rendezvous&) = delete;
  Rendezvous& operator=(const Rendezvous&) = delete;

  /// The next one, or nothing when one came to nothing or stop() was called.
  std::optional<HandedConnection> accept();
  /// Ends accept(), now and later. From any thread.
  void stop();

 private:
  UniqueFd directory_, socket_, stopped_;
};

/// Hands `in` and `out` to the leader of `directory` and waits until it closes them. False when nobody leads there.
bool hand_over(const std::filesystem::path& directory, int in, int out, const std::string& hello);

} // namespace kvmport
