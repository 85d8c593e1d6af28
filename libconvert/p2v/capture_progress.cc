// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/capture_progress.h"

#include "libconvert/machine/text.h"

#include <fmt/format.h>

namespace kvmport {
namespace {

using namespace std::chrono_literals;

std::string size_text(double bytes) {
  const char* unit = "B";
  for (const char* larger : {"KiB", "MiB", "GiB", "TiB", "PiB"}) {
    if (bytes < 1024)
      break;
    bytes /= 1024;
    unit = larger;
  }
  return fmt::format("{:.1f} {}", bytes, unit);
}

std::string text_of(const nlohmann::json& object, const char* key) {
  const auto value = object.find(key);
  return value != object.end() && value->is_string() ? printable(value->get<std::string>(), 400) : std::string();
}

std::uint64_t number_of(const nlohmann::json& object, const char* key) {
  const auto value = object.find(key);
  return value != object.end() && value->is_number_unsigned() ? value->get<std::uint64_t>() : 0;
}

} // namespace

void CaptureProgress::take(std::string_view line, Time now) {
  const auto event = nlohmann::json::parse(line, nullptr, false);
  if (!event.is_object()) {
    message_ = printable(line, 400);
    return;
  }
  const std::string kind = text_of(event, "event");
  if (kind == "stage") {
    const std::string text = text_of(event, "text");
    stage_ = text_of(event, "stage") + (text.empty() ? "" : ": " + text);
  } else if (kind == "progress") {
    if (const std::string meter = text_of(event, "stage"); meter != meter_) {
      meter_ = meter;
      samples_.clear();
    }
    done_ = number_of(event, "done");
    total_ = number_of(event, "total");
    if (!samples_.empty() && done_ < samples_.back().done)
      samples_.clear();
    samples_.push_back({now, done_});
    while (samples_.size() > 2 && now - samples_.front().at > 30s)
      samples_.pop_front();
  } else if (kind == "message") {
    message_ = text_of(event, "text");
  } else if (kind == "error") {
    error_ = event;
  } else if (kind == "result") {
    result_ = event;
  }
}

double CaptureProgress::rate() const {
  if (samples_.size() < 2)
    return 0;
  const std::chrono::duration<double> time = samples_.back().at - samples_.front().at;
  return time < 1s ? 0 : static_cast<double>(samples_.back().done - samples_.front().done) / time.count();
}

std::string CaptureProgress::text() const {
  if (total_ == 0)
    return {};
  std::string out =
      fmt::format("{} of {}", size_text(static_cast<double>(done_)), size_text(static_cast<double>(total_)));
  const double speed = rate();
  if (speed < 1)
    return out;
  out += fmt::format(", {}/s", size_text(speed));
  if (done_ < total_)
    out += ", " +
           human_time(std::chrono::seconds(
               static_cast<std::int64_t>(std::min(static_cast<double>(total_ - done_) / speed, 1e9)))) +
           " left";
  return out;
}

std::string CaptureProgress::error() const {
  if (!error_)
    return {};
  std::string out = text_of(*error_, "code") + ": " + text_of(*error_, "summary");
  for (const char* more : {"why", "hint"})
    if (const std::string text = text_of(*error_, more); !text.empty())
      out += "\n" + text;
  return out;
}

std::string human_time(std::chrono::seconds time) {
  const auto s = time.count();
  if (s < 120)
    return fmt::format("{} s", s);
  if (s < 7200)
    return fmt::format("{} min", (s + 30) / 60);
  return fmt::format("{} h {:02} min", s / 3600, s % 3600 / 60);
}

} // namespace kvmport
