// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"
#include "base/text_screen.h"

#include <gtest/gtest.h>

namespace kvmport {
namespace {

Bytes window(std::string_view text, std::size_t row, std::byte fill = std::byte{0}) {
  Bytes bytes(vga_text_size, fill);
  for (std::size_t i = 0; i < text.size(); i++)
    bytes[(row * 80 + i) * 2] = static_cast<std::byte>(text[i]);
  return bytes;
}

TEST(TextScreen, LinesWithoutTrailingBlanks) {
  EXPECT_EQ(decode_text_screen(window("hello   ", 2)), "\n\nhello");
  EXPECT_EQ(decode_text_screen(window("scrolled", 200)).value().size(), 200U + 8U);
}

TEST(TextScreen, GraphicsIsNoText) {
  EXPECT_EQ(decode_text_screen(window("", 0)), std::nullopt) << "blank";
  EXPECT_EQ(decode_text_screen(window("abc", 0, std::byte{0xff})), std::nullopt) << "unmapped";
  Bytes picture(vga_text_size);
  for (std::size_t i = 0; i < picture.size(); i++)
    picture[i] = static_cast<std::byte>(i * 7 + i / 256);
  EXPECT_EQ(decode_text_screen(picture), std::nullopt);
}

TEST(TextScreen, PictureIsAPngOf640By400) {
  const TempDir temp;
  write_screenshot(window("hello", 2), 0, {}, temp.path() / "screen.png");
  const std::string png = read_file(temp.path() / "screen.png");
  EXPECT_EQ(png.substr(1, 3), "PNG");
  EXPECT_EQ(load_be<std::uint32_t>(as_bytes(png), 16), 640U);
  EXPECT_EQ(load_be<std::uint32_t>(as_bytes(png), 20), 400U);
  EXPECT_NO_THROW(write_screenshot({}, 9999, {}, temp.path() / "empty.png"));
}

TEST(TextScreen, PictureShowsTheRomsFont) {
  const TempDir temp;
  std::string rom(256 * 16, '\0');
  const unsigned char letter_a[16] = {0, 0, 0x10, 0x38, 0x6c, 0xc6, 0xc6, 0xfe, 0xc6, 0xc6, 0xc6, 0xc6, 0, 0, 0, 0};
  std::copy(std::begin(letter_a), std::end(letter_a), rom.begin() + 'A' * 16);
  const auto picture = [&](std::string_view text, std::string_view font) {
    write_screenshot(window(text, 0, std::byte{0x07}), 0, as_bytes(font), temp.path() / "screen.png");
    return read_file(temp.path() / "screen.png");
  };
  EXPECT_NE(picture("A", rom), picture("B", rom));
  EXPECT_EQ(picture("A", ""), picture("B", "")) << "no font, no letters";
}

} // namespace
} // namespace kvmport
