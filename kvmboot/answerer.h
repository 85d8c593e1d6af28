// SPDX-License-Identifier: Apache-2.0
// The answers typed on a guest's serial console.
#pragma once

#include "base/console_text.h"
#include "kvmboot/engine.h"

#include <regex>

namespace kvmport {

/// Watches the console for what a ConsoleAnswer waits for.
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
