// SPDX-License-Identifier: Apache-2.0
// The order of it all for one machine: open, copy and convert side by side, merge, prove, publish. The only place that
// sees every room. Blocking; one conversion per call; events come from several threads.
#pragma once

#include "base/events.h"
#include "kvmboot/judge.h"
#include "libconvert/copy/copy.h"
#include "libconvert/guest/access.h"
#include "libconvert/guest/plan.h"
#include "libconvert/report.h"
#include "libconvert/source/source.h"

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace kvmport {

struct ConvertOptions {
  std::vector<std::filesystem::path> sources;
  std::optional<Machine> machine; ///< instead of sources: a machine that is known already
  SourceOptions source;
  std::string name;                       ///< of the result; empty: the source's name
  std::filesystem::path output_directory; ///< made when it does not exist; not touched by a dry run
  std::string format = "qcow2";           ///< "raw" or "qcow2"
  Compression compression = Compression::none;
  ApplianceOptions guest;
  AccessWish access = AccessWish::automatic;
  PlanOptions plan;
  bool disk_only = false; ///< copy without looking into the guest
  bool dry_run = false;   ///< plan only
  bool boot = true;       ///< prove the result
  bool instrument = true; ///< serial console in the proof's throw-away overlay
  bool force = false;     ///< existing output of this name may be replaced
  Milestone until = Milestone::login;
  std::string engine = "auto";
  std::chrono::seconds timeout{300};
};

struct ConvertResult {
  std::optional<Plan> plan;                 ///< none for disk_only
  std::optional<GuestInfo> guest;           ///< none for disk_only
  std::optional<Verdict> verdict;           ///< none when no boot was tried
  std::vector<std::filesystem::path> files; ///< everything that was published, the report last; empty for a dry run
  std::map<std::string, StageTime> times;   ///< as in the report; "conversion" is all but the proof ("prove")
  bool proven() const { return verdict && verdict->proven; }
};

/// Converts one machine. Errors: those of every room, FILE_EXISTS, OUTPUT_BUSY, SOURCE_CHANGED, INTERRUPTED. After an
/// error nothing stands under a final name; after INTERRUPTED or IO_ERROR the partial files stay, so that the next run
/// goes on with them.
ConvertResult convert_machine(const ConvertOptions& options, EventSink& sink, const StopToken& stop);

} // namespace kvmport
