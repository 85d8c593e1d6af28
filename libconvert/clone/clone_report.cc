// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/clone_job.h"
#include "libconvert/report.h"

#include <nlohmann/json.hpp>

namespace kvmport {

std::string clone_report(const CloneRun& run, const CloneOutcome& outcome) {
  nlohmann::json j{{"report_version", 1},
                   {"kind", "clone"},
                   {"name", valid_utf8(outcome.name)},
                   {"source", valid_utf8(run.source.name)},
                   {"hostname", valid_utf8(outcome.hostname)},
                   {"disks", nlohmann::json::array()},
                   {"notes", outcome.notes}};
  for (const std::string& disk : outcome.disks)
    j["disks"].push_back(valid_utf8(disk));
  for (const auto& disk : run.source.source.machine.disks)
    j["source_disks"].push_back(valid_utf8(disk.path.string()));
  if (outcome.description) {
    j["uuid"] = outcome.description->uuid;
    for (const auto& change : outcome.description->changes)
      j["description"].push_back({{"rule", change.rule},
                                  {"what", valid_utf8(change.what)},
                                  {"before", valid_utf8(change.before)},
                                  {"after", valid_utf8(change.after)},
                                  {"reason", change.reason}});
    for (const auto& warning : outcome.description->warnings)
      j["warnings"].push_back(valid_utf8(warning.rule + ": " + warning.message + ": " + warning.quote));
  }
  if (outcome.plan)
    j["plan"] = to_json(*outcome.plan);
  if (outcome.uuids) {
    for (const auto& change : outcome.uuids->changes)
      j["uuids"].push_back({{"what", valid_utf8(change.what)}, {"before", change.before}, {"after", change.after}});
    j["uuid_plan"] = to_json(outcome.uuids->plan);
  }
  if (outcome.verdict)
    j["boot"] = to_json(*outcome.verdict);
  if (!outcome.identity.empty())
    j["identity"] = outcome.identity;
  return j.dump(2) + "\n";
}

} // namespace kvmport
