// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/qemu_console.h"

namespace kvmport {
namespace {

constexpr std::size_t columns = 80;
constexpr std::size_t max_recent = 4096;

/// ASCII, and what boxes and bars are drawn with (code page 437).
bool is_text(unsigned char c) {
  return c == 0 || (c >= 0x20 && c < 0x7f) || (c >= 0xb0 && c < 0xe0) || c == 0xff || (c >= 0x10 && c < 0x20);
}

} // namespace

std::optional<std::string> decode_text_screen(ByteSpan window) {
  std::size_t strange = 0, filled = 0, blank_ff = 0;
  std::string text, line;
  for (std::size_t i = 0; i + 1 < window.size(); i += 2) {
    const auto c = std::to_integer<unsigned char>(window[i]);
    strange += is_text(c) ? 0 : 1;
    blank_ff += c == 0xff ? 1 : 0;
    filled += c > 0x20 && c < 0x7f ? 1 : 0;
    line += c == 0 || c == 0xff ? ' ' : c >= 0x20 && c < 0x7f ? static_cast<char>(c) : '?';
    if (line.size() == columns) {
      line.erase(line.find_last_not_of(' ') + 1);
      text += line + "\n";
      line.clear();
    }
  }
  const std::size_t cells = window.size() / 2;
  if (filled == 0 || strange > cells / 20 || blank_ff > cells / 2)
    return std::nullopt;
  text.erase(text.find_last_not_of('\n') + 1);
  return text;
}

Answerer::Answerer(const std::vector<ConsoleAnswer>& answers) {
  for (const ConsoleAnswer& a : answers)
    wanted_.push_back({std::regex(a.pattern), a.text, a.times});
}

std::string Answerer::feed(std::string_view bytes) {
  if (wanted_.empty())
    return {};
  console_.feed(bytes, [&](std::string_view line) { recent_.append(line).append("\n"); });
  if (recent_.size() > max_recent)
    recent_.erase(0, recent_.size() - max_recent);
  const std::string seen = recent_ + console_.partial();
  for (Wanted& w : wanted_) {
    if (w.left <= 0 || !std::regex_search(seen, w.pattern))
      continue;
    w.left--;
    recent_.clear();
    console_ = ConsoleText();
    return w.text;
  }
  return {};
}

} // namespace kvmport
