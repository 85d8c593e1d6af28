// SPDX-License-Identifier: Apache-2.0
#include "base/text_screen.h"

#include "base/file.h"

#include <algorithm>
#include <array>
#include <png.h>

namespace kvmport {
namespace {

constexpr unsigned columns = 80, rows = 25, glyph_width = 8, glyph_height = 16;
constexpr unsigned width = columns * glyph_width, height = rows * glyph_height;

/// The default palette of the text modes.
constexpr std::array<std::array<png_byte, 3>, 16> palette{{{0x00, 0x00, 0x00},
                                                           {0x00, 0x00, 0xaa},
                                                           {0x00, 0xaa, 0x00},
                                                           {0x00, 0xaa, 0xaa},
                                                           {0xaa, 0x00, 0x00},
                                                           {0xaa, 0x00, 0xaa},
                                                           {0xaa, 0x55, 0x00},
                                                           {0xaa, 0xaa, 0xaa},
                                                           {0x55, 0x55, 0x55},
                                                           {0x55, 0x55, 0xff},
                                                           {0x55, 0xff, 0x55},
                                                           {0x55, 0xff, 0xff},
                                                           {0xff, 0x55, 0x55},
                                                           {0xff, 0x55, 0xff},
                                                           {0xff, 0xff, 0x55},
                                                           {0xff, 0xff, 0xff}}};

/// The 256 glyphs of 16 bytes in an option ROM: found by their "A", which every VGA BIOS draws alike.
ByteSpan font_in(ByteSpan rom) {
  constexpr std::array<std::uint8_t, glyph_height> letter_a{0,    0,    0x10, 0x38, 0x6c, 0xc6, 0xc6, 0xfe,
                                                            0xc6, 0xc6, 0xc6, 0xc6, 0,    0,    0,    0};
  constexpr std::size_t before = std::size_t{'A'} * glyph_height, size = 256 * glyph_height;
  const auto found = std::search(rom.begin(), rom.end(), letter_a.begin(), letter_a.end(),
                                 [](std::byte a, std::uint8_t b) { return std::to_integer<std::uint8_t>(a) == b; });
  const auto at = static_cast<std::size_t>(found - rom.begin());
  return found == rom.end() || at < before || rom.size() - (at - before) < size ? ByteSpan()
                                                                                : rom.subspan(at - before, size);
}

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

void write_screenshot(ByteSpan window, unsigned start, ByteSpan vga_rom, const std::filesystem::path& path) {
  const ByteSpan font = font_in(vga_rom);
  const std::size_t cells = window.size() / 2;
  std::vector<png_byte> pixels(std::size_t{width} * height);
  for (unsigned cell = 0; cell < columns * rows && cells > 0; cell++) {
    const std::size_t at = (std::size_t{start} + cell) % cells * 2;
    const auto character = std::to_integer<std::size_t>(window[at]),
               color = std::to_integer<std::size_t>(window[at + 1]);
    for (unsigned y = 0; y < glyph_height; y++) {
      const unsigned line = font.empty() ? 0 : std::to_integer<unsigned>(font[character * glyph_height + y]);
      png_byte* pixel =
          &pixels[(std::size_t{cell / columns} * glyph_height + y) * width + cell % columns * glyph_width];
      for (unsigned x = 0; x < glyph_width; x++) // bit 7 of the attribute blinks, it is no color
        pixel[x] = static_cast<png_byte>((line << x & 0x80) != 0 ? color & 15 : color >> 4 & 7);
    }
  }
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = width;
  image.height = height;
  image.format = PNG_FORMAT_RGB_COLORMAP;
  image.colormap_entries = palette.size();
  std::string png(PNG_IMAGE_PNG_SIZE_MAX(image), '\0');
  png_alloc_size_t size = png.size();
  if (png_image_write_to_memory(&image, png.data(), &size, 0, pixels.data(), 0, palette.data()) == 0)
    throw Error("IO_ERROR", "can't make the screenshot", static_cast<const char*>(image.message));
  png.resize(size);
  write_file_durably(path, png);
}

} // namespace kvmport
