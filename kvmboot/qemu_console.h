// SPDX-License-Identifier: Apache-2.0
// Two small parts of the QEMU engine: the text screen out of the guest's memory, and the answers typed on its serial
// console.
#pragma once

#include "base/console_text.h"
#include "kvmboot/engine.h"

#include <optional>
#include <regex>

namespace kvmport {

/// The VGA text window 0xB8000-0xBFFFF (pairs of character and attribute, IBM VGA technical reference) as lines of 80.
/// The console scrolls by moving the screen's start, so the visible part may lie anywhere in it. Nothing when the
/// window holds no text (the card is in a graphics mode).
constexpr std::uint64_t vga_text_address = 0xB8000, vga_text_size = 0x8000;
std::optional<std::string> decode_text_screen(ByteSpan window);

/// Watches the serial console for what a ConsoleAnswer waits for.
class Answerer {
 public:
  explicit Answerer(const std::vector<ConsoleAnswer>& answers);
  /// What to type after these bytes came; empty: nothing.
  std::string feed(std::string_view bytes);

 private:
  struct Wanted {
    std::regex pattern;
    std::string text;
    int left;
  };
  std::vector<Wanted> wanted_;
  ConsoleText console_;
  std::string recent_; ///< whole lines since the last answer
};

} // namespace kvmport
