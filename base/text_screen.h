// SPDX-License-Identifier: Apache-2.0
// The text mode of a VGA card (IBM VGA technical reference) out of its memory: as lines, and as a picture.
#pragma once

#include "base/bytes.h"

#include <filesystem>
#include <optional>
#include <string>

namespace kvmport {

/// The VGA text window 0xB8000-0xBFFFF (pairs of character and attribute, IBM VGA technical reference) as lines of 80.
/// The console scrolls by moving the screen's start, so the visible part may lie anywhere in it. Nothing when the
/// window holds no text (the card is in a graphics mode).
constexpr std::uint64_t vga_text_address = 0xB8000, vga_text_size = 0x8000;
std::optional<std::string> decode_text_screen(ByteSpan window);

/// Writes 80 x 25 cells of a VGA text window (pairs of character and attribute, IBM VGA technical reference) as a PNG
/// of 640 x 400, from the cell `start` on; it wraps at the window's end, as the card does. `vga_rom`: the option ROM,
/// whose 8 x 16 font is used; a window or a ROM without a font gives a picture without letters. Error as
/// write_file_durably.
void write_screenshot(ByteSpan window, unsigned start, ByteSpan vga_rom, const std::filesystem::path& path);

} // namespace kvmport
