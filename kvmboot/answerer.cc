// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/answerer.h"

namespace kvmport {
namespace {

constexpr std::size_t max_recent = 4096;

} // namespace

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
