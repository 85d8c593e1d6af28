// SPDX-License-Identifier: Apache-2.0
#include "base/qmp.h"

#include <array>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

using nlohmann::json;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

namespace kvmport {
namespace {

constexpr std::size_t max_message = 4U << 20;

milliseconds until(Clock::time_point end) {
  return std::max(milliseconds(0), std::chrono::duration_cast<milliseconds>(end - Clock::now()));
}

} // namespace

void Qmp::sort_in(const std::string& line) {
  const json message = json::parse(line, nullptr, false);
  if (!message.is_object())
    return;
  const auto event = message.find("event");
  if (event == message.end() || !event->is_string()) {
    answers_.push_back(line);
    return;
  }
  const json data = message.value("data", json::object());
  events_.push_back({event->get<std::string>(), data.is_object() && data.value("guest", false)});
}

void Qmp::receive(milliseconds wait) {
  pollfd polled{socket_.get(), POLLIN, 0};
  if (::poll(&polled, 1, static_cast<int>(wait.count())) <= 0)
    return;
  std::array<char, 16384> bytes;
  const ssize_t n = ::recv(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
  if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
    closed_ = true;
  if (n <= 0)
    return;
  buffer_.append(bytes.data(), static_cast<std::size_t>(n));
  for (std::size_t end; (end = buffer_.find('\n')) != std::string::npos; buffer_.erase(0, end + 1))
    sort_in(buffer_.substr(0, end));
  if (buffer_.size() > max_message)
    throw Error("ENGINE_FAILED", "QEMU sent a message without end");
}

void Qmp::greet(milliseconds timeout) {
  const auto end = Clock::now() + timeout;
  while (answers_.empty()) {
    receive(until(end));
    if (closed_ || (answers_.empty() && Clock::now() >= end))
      throw Error("ENGINE_FAILED", closed_ ? "QEMU ended while it started" : "QEMU does not answer");
  }
  answers_.clear();
  execute("qmp_capabilities", json::object(), until(end) + milliseconds(1000));
}

json Qmp::execute(const std::string& command, const json& arguments, milliseconds timeout) {
  const unsigned id = next_id_++;
  const std::string text = json{{"execute", command}, {"arguments", arguments}, {"id", id}}.dump() + "\n";
  if (::send(socket_.get(), text.data(), text.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(text.size()))
    throw Error("ENGINE_FAILED", "QEMU does not take the command " + command);
  const auto end = Clock::now() + timeout;
  while (true) {
    for (const std::string& answer : std::exchange(answers_, {})) {
      const json message = json::parse(answer, nullptr, false);
      if (message.value("id", json()) != json(id))
        continue; // the late answer to a command that was given up
      if (const auto refusal = message.find("error"); refusal != message.end())
        throw Error("QMP_REFUSED", "QEMU refuses " + command, refusal->value("desc", ""));
      return message.value("return", json());
    }
    if (closed_ || Clock::now() >= end)
      throw Error("ENGINE_FAILED", closed_ ? "QEMU ended during " + command : "QEMU does not answer " + command);
    receive(until(end));
  }
}

std::vector<Qmp::Event> Qmp::take_events() {
  receive(milliseconds(0));
  return std::exchange(events_, {});
}

} // namespace kvmport
