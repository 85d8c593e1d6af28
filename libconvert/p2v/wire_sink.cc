// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/wire_sink.h"

#include <nlohmann/json.hpp>

namespace kvmport {

using nlohmann::json;

void try_send(const std::shared_ptr<Connection>& connection, FrameType type, const std::string& text) {
  try {
    if (connection)
      connection->send(type, text);
  } catch (const Error&) {
    connection->abort();
  }
}

void WireSink::stage(std::string_view stage, std::string_view text) {
  log_.stage(stage, text);
  send({{"event", "stage"}, {"stage", stage}, {"text", text}});
}

void WireSink::progress(std::string_view stage, std::uint64_t done, std::uint64_t total) {
  log_.progress(stage, done, total);
  {
    const std::lock_guard lock(mutex_);
    const auto now = std::chrono::steady_clock::now();
    if (now < next_progress_ && done != total)
      return;
    next_progress_ = now + std::chrono::milliseconds(200);
  }
  send({{"event", "progress"}, {"stage", stage}, {"done", done}, {"total", total}});
}

void WireSink::message(Level level, std::string_view code, std::string_view text) {
  log_.message(level, code, text);
  send({{"event", "message"}, {"level", level == Level::info ? "info" : "warning"}, {"code", code}, {"text", text}});
}

void WireSink::send(const json& event) {
  try_send(slot_.get(), FrameType::event, event.dump(-1, ' ', false, json::error_handler_t::replace));
}

} // namespace kvmport
