// SPDX-License-Identifier: Apache-2.0
// What is written down about a conversion: NAME.report.json, described in kvmport-report(5).
#pragma once

#include "kvmboot/judge.h"
#include "libconvert/copy/copy.h"
#include "libconvert/guest/guest.h"
#include "libconvert/guest/plan.h"
#include "libconvert/machine/machine.h"

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace kvmport {

/// Wall and CPU seconds (children included) of one stage; stages may overlap.
struct StageTime {
  double wall = 0, cpu = 0;
};

struct DiskReport {
  std::string source, file, format;
  std::uint64_t virtual_size = 0;
  CopyStats copy;
  std::uint64_t merged = 0; ///< bytes of guest changes put over the copy
};

struct Report {
  std::string name;
  Machine machine;
  std::optional<GuestInfo> guest;
  std::optional<Plan> plan;
  std::vector<DiskReport> disks;
  std::vector<std::string> notes;
  std::optional<Verdict> verdict;
  std::string not_proven_reason; ///< when no boot was tried
  std::map<std::string, StageTime> times;
};

/// The report as JSON, its version in "report_version".
nlohmann::json to_json(const Report& report);
nlohmann::json to_json(const GuestInfo& guest);
nlohmann::json to_json(const Plan& plan);
nlohmann::json to_json(const Verdict& verdict);

/// `text` as valid UTF-8: foreign bytes are replaced, so that any guest's file can be quoted in JSON.
std::string valid_utf8(std::string_view text);

} // namespace kvmport
