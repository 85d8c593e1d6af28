// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/qemu_console.h"

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

TEST(Answerer, TypesAtMostAsOftenAsAllowed) {
  Answerer answerer({{"[Pp]assphrase", "secret\n", 2}});
  EXPECT_EQ(answerer.feed("Enter pass"), "");
  EXPECT_EQ(answerer.feed("phrase: "), "secret\n");
  EXPECT_EQ(answerer.feed("\r\nwrong\r\n"), "");
  EXPECT_EQ(answerer.feed("Enter passphrase: "), "secret\n");
  EXPECT_EQ(answerer.feed("\r\nEnter passphrase: "), "");
}

} // namespace
} // namespace kvmport
