// SPDX-License-Identifier: Apache-2.0
#include "base/console_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvmport {
namespace {

using testing::ElementsAre;

struct Seen {
  std::vector<std::string> lines;
  std::string partial;
};

Seen feed(std::string_view bytes, std::size_t chunk) {
  ConsoleText console;
  Seen seen;
  for (std::size_t at = 0; at < bytes.size(); at += chunk)
    console.feed(bytes.substr(at, chunk), [&](std::string_view line) { seen.lines.emplace_back(line); });
  seen.partial = console.partial();
  return seen;
}

struct Case {
  const char* name;
  std::string bytes;
  std::vector<std::string> lines;
  std::string partial;
};

class ConsoleTextCases : public testing::TestWithParam<Case> {};

TEST_P(ConsoleTextCases, SameResultHoweverTheBytesArrive) {
  for (const std::size_t chunk : {1U, 3U, 4096U}) {
    const Seen seen = feed(GetParam().bytes, chunk);
    EXPECT_EQ(seen.lines, GetParam().lines) << "chunk " << chunk;
    EXPECT_EQ(seen.partial, GetParam().partial) << "chunk " << chunk;
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, ConsoleTextCases,
    testing::Values(Case{"plain", "one\r\ntwo\nthree", {"one", "two"}, "three"},
                    Case{"prompt_after_empty_lines", "\r\n\r\nmini login: ", {}, "mini login: "},
                    Case{"colours", "\x1b[0;1;31m[FAILED]\x1b[0m Failed\n", {"[FAILED] Failed"}, ""},
                    Case{"cursor_moves_end_a_line", "GNU GRUB\x1b[5;3Hgrub> ", {"GNU GRUB"}, "grub> "},
                    Case{"overwritten_by_carriage_return", "wait 1\rwait 2\r\n", {"wait 1", "wait 2"}, ""},
                    Case{"backspace", "abx\bc\n", {"abc"}, ""},
                    Case{"window_title", "\x1b]0;title\x07root\n", {"root"}, ""},
                    Case{"charset_escape", "\x1b(Bok\n", {"ok"}, ""},
                    Case{"escape_cut_by_a_line_end", "\x1b[12\nnext\n", {"next"}, ""},
                    Case{"not_utf8",
                         "a\xff"
                         "b\xc3\xa4\xc0\x80\n",
                         {"a?b\xc3\xa4??"},
                         ""},
                    Case{"nul_and_bell_vanish", std::string("a\0b\ac\n", 6), {"abc"}, ""}),
    [](const auto& param_info) { return param_info.param.name; });

TEST(ConsoleText, LongLinesAreCutAndMemoryStaysBounded) {
  ConsoleText console;
  std::size_t longest = 0, total = 0;
  for (int i = 0; i < 100; i++)
    console.feed(std::string(10000, 'x'), [&](std::string_view line) {
      longest = std::max(longest, line.size());
      total += line.size();
    });
  EXPECT_EQ(longest, ConsoleText::max_line);
  EXPECT_LE(console.partial().size(), ConsoleText::max_line);
  EXPECT_EQ(total + console.partial().size(), 1000000U);
}

TEST(ConsoleText, EndlessEscapeSequencesEnd) {
  ConsoleText console;
  std::vector<std::string> lines;
  console.feed("\x1b[" + std::string(100000, ';') + "\n", [&](std::string_view line) { lines.emplace_back(line); });
  console.feed("after\n", [&](std::string_view line) { lines.emplace_back(line); });
  ASSERT_FALSE(lines.empty());
  EXPECT_EQ(lines.back(), "after");
}

TEST(PlainText, IsValidUtf8WithoutControls) {
  EXPECT_EQ(plain_text("a\tb\x7f\x1b[1m"), "a b[1m");
  EXPECT_EQ(plain_text("\xed\xa0\x80"), "???"); // a surrogate
  EXPECT_EQ(plain_text("\xf0\x9f\x98\x80"), "\xf0\x9f\x98\x80");
  EXPECT_EQ(plain_text("\xe2\x82"), "??"); // cut off
}

} // namespace
} // namespace kvmport
