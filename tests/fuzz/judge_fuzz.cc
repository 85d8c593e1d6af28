// SPDX-License-Identifier: Apache-2.0
// What guests show: consoles, screens and disks into the judge, whose verdict must be whole, and the same text through
// the parts that turn it into lines.
#include "base/text_screen.h"
#include "kvmboot/answerer.h"
#include "kvmboot/judge.h"
#include "tests/fuzz/input.h"

namespace {

using namespace kvmport;
using fuzz::must;

/// Lines are the same however the text is cut; they are short and plain.
void console(std::string_view text, std::size_t piece) {
  const auto lines_of = [&](std::size_t step) {
    ConsoleText console;
    std::vector<std::string> lines;
    const auto keep = [&](std::string_view line) { lines.emplace_back(line); };
    for (std::size_t at = 0; at < text.size(); at += step)
      console.feed(text.substr(at, step), keep);
    console.flush(keep);
    return lines;
  };
  const auto lines = lines_of(text.size() + 1);
  for (const std::string& line : lines)
    must(!line.empty() && line.size() <= ConsoleText::max_line && plain_text(line) == line);
  must(lines == lines_of(piece + 1));
}

void screen(ByteSpan window) {
  const auto text = decode_text_screen(window);
  if (!text)
    return;
  std::string_view rest = *text;
  for (std::size_t end; (end = rest.find('\n')) != std::string_view::npos; rest.remove_prefix(end + 1))
    must(end <= 80);
  must(rest.size() <= 80 && plain_text(*text).size() <= text->size());
}

void check(const Verdict& verdict, Milestone until) {
  for (std::size_t i = 1; i < verdict.reached.size(); i++)
    must(verdict.reached[i - 1].milestone < verdict.reached[i].milestone);
  must(verdict.proven == (!verdict.reached.empty() && verdict.reached.back().milestone >= until));
  must(verdict.proven == !verdict.diagnosis);
  if (verdict.diagnosis)
    must(!verdict.diagnosis->code.empty() && !verdict.diagnosis->text.empty() && verdict.diagnosis->lines.size() <= 12);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvmport::fuzz;
  Input in(data, size);
  const auto until = static_cast<Milestone>(in.number(1) % 7);
  EngineOutcome outcome;
  outcome.end = static_cast<EngineOutcome::End>(in.number(1) % 5);
  Judge judge(until);
  std::chrono::milliseconds at{};
  // Records: kind, time since the last one, text up to a zero. The judge is asked on, whether it wants more or not.
  while (!in.empty()) {
    const auto kind = static_cast<Evidence::Kind>(in.number(1) % 9);
    const auto passed = static_cast<std::int64_t>(in.number(1));
    at += std::chrono::milliseconds(passed * passed);
    const ByteSpan bytes = in.take_until(std::byte{0});
    const std::string text(as_text(bytes));
    judge.feed({kind, at, text});
    if (kind == Evidence::Kind::screen)
      screen(bytes);
    console(text, static_cast<std::size_t>(passed));
  }
  check(judge.verdict(outcome), until);
  Answerer answerer({{"login: *$", "root\n", 1}, {"[Pp]assword:", "secret\n", 1}});
  const std::string all(as_text(std::as_bytes(std::span(data, size))));
  const std::size_t cut = size / 2;
  must(answerer.feed(all.substr(0, cut)).size() + answerer.feed(all.substr(cut)).size() <= 12);
  return 0;
}
