// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/clone_name.h"

#include "base/error.h"
#include "libconvert/machine/text.h"

#include <algorithm>

namespace kvmport {

void check_name(const std::string& name) {
  auto refuse = [&](const std::string& why) {
    throw Error("NAME_INVALID", "\"" + printable(name, 80) + "\" can't be the name of a machine", why);
  };
  if (trimmed(name).empty())
    refuse("it is empty");
  if (name.size() > max_domain_name)
    refuse("it is longer than " + std::to_string(max_domain_name) + " bytes");
  if (name.find('/') != std::string::npos)
    refuse("it has a '/'");
  if (name == "." || name == "..")
    refuse("it means a directory");
  if (std::any_of(name.begin(), name.end(), [](unsigned char c) { return c < 0x20 || c == 0x7F; }))
    refuse("it has control characters");
  if (clean_utf8(name) != name)
    refuse("it is not valid UTF-8");
}

std::string next_clone_name(const std::string& base, const TakenIdentities& taken) {
  constexpr std::string_view mark = "-clone";
  std::string stem = base;
  std::uint64_t number = 0; // 0: no number is written
  const std::size_t at = base.rfind(mark);
  const std::string digits = at == std::string::npos ? "" : base.substr(at + mark.size());
  // More digits than a counter ever gets are part of a name.
  if (at != std::string::npos && digits.size() <= 9 && digits.find_first_not_of("0123456789") == std::string::npos) {
    stem = base.substr(0, at);
    number = parse_number(digits).value_or(0) + 1;
  }
  for (;; number++) {
    const std::string suffix = std::string(mark) + (number == 0 ? "" : std::to_string(number));
    std::string cut = stem.substr(0, max_domain_name - suffix.size());
    if (cut.size() < stem.size()) // not within a character
      while (!cut.empty() && clean_utf8(cut) != cut)
        cut.pop_back();
    if (!taken.has(Identity::name, cut + suffix))
      return cut + suffix;
  }
}

} // namespace kvmport
