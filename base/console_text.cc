// SPDX-License-Identifier: Apache-2.0
#include "base/console_text.h"

namespace kvmport {
namespace {

constexpr std::size_t max_escape = 256;

/// Length of the UTF-8 sequence that starts at text[at]; 0 when there is none (RFC 3629, section 4).
std::size_t utf8_length(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(at);
  const std::size_t length = first < 0x80                    ? 1
                             : first >= 0xc2 && first < 0xe0 ? 2
                             : first >= 0xe0 && first < 0xf0 ? 3
                             : first >= 0xf0 && first < 0xf5 ? 4
                                                             : 0;
  if (length == 0 || text.size() - at < length)
    return 0;
  for (std::size_t i = 1; i < length; i++)
    if ((byte(at + i) & 0xc0) != 0x80)
      return 0;
  if (length > 1) { // overlong forms, surrogates, past U+10FFFF
    const unsigned char second = byte(at + 1);
    if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) || (first == 0xf0 && second < 0x90) ||
        (first == 0xf4 && second > 0x8f))
      return 0;
  }
  return length;
}

} // namespace

std::string plain_text(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_length(text, i);
    const auto c = static_cast<unsigned char>(text[i]);
    if (length == 0 || c == 0x7f || (c < 0x20 && c != '\t')) {
      out += length == 0 ? "?" : "";
      i++;
    } else {
      out.append(c == '\t' ? " " : text.substr(i, length));
      i += length;
    }
  }
  return out;
}

void ConsoleText::flush(const LineSink& line) {
  carriage_return_ = false;
  if (partial_.empty())
    return;
  const std::string whole = plain_text(partial_);
  partial_.clear();
  if (!whole.empty())
    line(whole);
}

void ConsoleText::plain(char c, const LineSink& line) {
  if (c == '\n') {
    flush(line);
  } else if (c == '\r') {
    carriage_return_ = true;
  } else if (c == '\b') {
    if (!partial_.empty())
      partial_.pop_back();
  } else if (static_cast<unsigned char>(c) >= 0x20 || c == '\t') {
    if (carriage_return_) // what was overwritten has been seen on the screen: it counts as a line
      flush(line);
    if (partial_.size() >= max_line)
      flush(line);
    partial_ += c;
  }
}

void ConsoleText::end_csi(char final, const LineSink& line) {
  // Moves to another place and erasures of the screen end the line; colours and the rest leave it (ECMA-48, 8.3).
  constexpr std::string_view moves = "ABEFHJdf";
  if (moves.find(final) != std::string_view::npos)
    flush(line);
}

void ConsoleText::feed(std::string_view bytes, const LineSink& line) {
  for (char c : bytes) {
    switch (mode_) {
    case Mode::text:
      if (c == '\x1b') {
        mode_ = Mode::escape;
        escape_length_ = 0;
      } else {
        plain(c, line);
      }
      break;
    case Mode::escape:
      if (c == '[')
        mode_ = Mode::csi;
      else if (c == ']' || c == 'P' || c == '_' || c == '^')
        mode_ = Mode::string;
      else if (c < 0x20 || c > 0x2f) // intermediate bytes may follow; anything else ends it
        mode_ = Mode::text;
      break;
    case Mode::csi:
      if (c >= 0x40 && c <= 0x7e) {
        mode_ = Mode::text;
        end_csi(c, line);
      } else if (c < 0x20 || ++escape_length_ > max_escape) {
        mode_ = Mode::text;
        plain(c, line);
      }
      break;
    case Mode::string:
      if (c == '\a' || c == '\\' || c == '\n' || ++escape_length_ > max_escape)
        mode_ = Mode::text;
      break;
    }
  }
}

} // namespace kvmport
