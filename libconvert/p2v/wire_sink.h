// SPDX-License-Identifier: Apache-2.0
// What a receiver tells its agent meanwhile: events on the control connection that is there at the moment. All is safe
// from several threads.
#pragma once

#include "libconvert/p2v/connection.h"

#include <memory>
#include <nlohmann/json_fwd.hpp>

namespace kvmport {

/// Sends when somebody is there; a connection that fails is given up.
void try_send(const std::shared_ptr<Connection>& connection, FrameType type, const std::string& text);

/// The connection that the agent listens on. It may go and be followed by another while a machine is delivered.
class ControlSlot {
 public:
  void set(std::shared_ptr<Connection> connection) {
    const std::lock_guard lock(mutex_);
    connection_ = std::move(connection);
  }
  std::shared_ptr<Connection> get() const {
    const std::lock_guard lock(mutex_);
    return connection_;
  }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<Connection> connection_;
};

/// Events go to the agent, and to our own log. Both are borrowed.
class WireSink final : public EventSink {
 public:
  WireSink(ControlSlot& slot, EventSink& log) : slot_(slot), log_(log) {}
  void stage(std::string_view stage, std::string_view text) override;
  void progress(std::string_view stage, std::uint64_t done, std::uint64_t total) override;
  void message(Level level, std::string_view code, std::string_view text) override;

 private:
  void send(const nlohmann::json& event);

  ControlSlot& slot_;
  EventSink& log_;
  std::mutex mutex_;
  std::chrono::steady_clock::time_point next_progress_{};
};

} // namespace kvmport
