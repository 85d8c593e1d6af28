// SPDX-License-Identifier: Apache-2.0
// What the judge looks for, as tables: which line of a console shows which milestone or failure. Each row says where
// the words come from. Rows are searched in lines of plain text (console_text.h), whichever console they came from.
#pragma once

#include "kvmboot/judge.h"

#include <span>
#include <string_view>

namespace kvmport {

/// Where a row is searched.
enum class Place {
  line,   ///< whole lines
  prompt, ///< whole lines, and the unfinished last one
};

struct MilestoneRule {
  Milestone milestone;
  std::string_view needle; ///< must be in the line
  std::string_view source;
  const char* regex = nullptr; ///< if not null, an ECMAScript regex that must be found in it as well
  Place place = Place::line;
  bool after_root = false; ///< counts only once the root milestone was seen: an initramfs prints the same
};

enum class Effect {
  ends,    ///< nothing follows: after `settle` seconds without a new milestone the run is over
  waits,   ///< asks for an answer: over when nothing at all followed for `settle` seconds
  weakens, ///< names the failure if the boot comes no further
  context, ///< only worth quoting beside another failure
};

struct FailureRule {
  std::string_view code;
  Milestone stage; ///< forgotten when a later milestone is seen
  Effect effect;
  int weight; ///< of several, the heaviest is the diagnosis
  int settle; ///< seconds
  std::string_view needle, source;
  const char* regex = nullptr;
  Place place = Place::line;
  std::string_view detail{};
};

struct Explanation {
  std::string_view code, text; ///< what happened and what to do
};

std::span<const MilestoneRule> milestone_rules();
std::span<const FailureRule> failure_rules();
/// Every diagnosis code with its text.
std::span<const Explanation> explanations();
/// The text of `code`; empty when there is none.
std::string_view explain(std::string_view code);

} // namespace kvmport
