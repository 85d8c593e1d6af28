// SPDX-License-Identifier: Apache-2.0
// A text screen as a picture.
#pragma once

#include "base/bytes.h"

#include <filesystem>

namespace kvmport {

/// Writes 80 x 25 cells of a VGA text window (pairs of character and attribute, IBM VGA technical reference) as a PNG
/// of 640 x 400, from the cell `start` on; it wraps at the window's end, as the card does. `vga_rom`: the option ROM,
/// whose 8 x 16 font is used; a window or a ROM without a font gives a picture without letters. Error as
/// write_file_durably.
void write_screenshot(ByteSpan window, unsigned start, ByteSpan vga_rom, const std::filesystem::path& path);

} // namespace kvmport
