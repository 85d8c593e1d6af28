// SPDX-License-Identifier: Apache-2.0
// QEMU's machine protocol (QEMU docs/interop/qmp-spec.txt) on a connected socket: commands with their answers, and the
// events in between. One thread at a time.
#pragma once

#include "base/file.h"

#include <chrono>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace kvmport {

class Qmp {
 public:
  struct Event {
    std::string name;
    bool by_guest = false; ///< "guest" of SHUTDOWN and RESET
  };

  explicit Qmp(UniqueFd socket) : socket_(std::move(socket)) {}

  /// The handshake. Errors of this and of execute: ENGINE_FAILED when QEMU does not answer in time or hangs up.
  void greet(std::chrono::milliseconds timeout);
  /// The "return" of a command. A refusal by QEMU is Error QMP_REFUSED with its words.
  nlohmann::json execute(const std::string& command, const nlohmann::json& arguments,
                         std::chrono::milliseconds timeout);
  /// Reads what has come and gives the events since the last call.
  std::vector<Event> take_events();

  int fd() const { return socket_.get(); }
  /// QEMU has hung up.
  bool closed() const { return closed_; }

 private:
  /// Reads what is there and sorts it; waits for more up to `wait`.
  void receive(std::chrono::milliseconds wait);
  void sort_in(const std::string& line);

  UniqueFd socket_;
  std::string buffer_;
  std::vector<Event> events_;
  std::vector<std::string> answers_; ///< whole JSON texts that are no events
  bool closed_ = false;
  unsigned next_id_ = 0;
};

} // namespace kvmport
