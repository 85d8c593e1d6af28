// SPDX-License-Identifier: Apache-2.0
// Clones of one KVM guest, from beginning to end: descriptions, disks, identities inside, proof, names. Several are
// made side by side; one that fails does not stop the others, and a run that was stopped goes on (clone_state.h).
#pragma once

#include "base/events.h"
#include "kvmboot/judge.h"
#include "libconvert/clone/clone_disk.h"
#include "libconvert/clone/clone_source.h"
#include "libconvert/clone/description.h"
#include "libconvert/clone/identity.h"
#include "libconvert/clone/new_uuids.h"
#include "libconvert/clone/static_address.h"
#include "libconvert/guest/access.h"

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace kvmport {

/// One clone to be made.
struct CloneRequest {
  std::string name{};              ///< empty: the next one after the source's
  std::string hostname{};          ///< empty: of its name
  std::vector<std::string> macs{}; ///< of its cards, in order; the rest get new ones
  StaticAddress address{};         ///< of its first card; empty: as in the source
};

struct CloneOptions {
  std::vector<std::filesystem::path> sources; ///< empty: `domain` of `connection`
  std::string connection, domain;             ///< libvirt's URI; with it the clones are defined there
  SourceOptions source;
  std::filesystem::path output_directory; ///< made when it does not exist; empty: that of the first disk
  CloneMode mode = CloneMode::automatic;
  std::string rules = "defaults"; ///< identity rules, see select_rules(); "none": the guest is not looked into
  bool keep_hostname = false, keep_hostdev = false, keep_serials = false;
  /// New UUIDs on the disks as well, see new_uuids.h. Such a clone is always proven, with the source's disks attached
  /// too, and is not published without that.
  bool new_uuids = false;
  std::optional<std::string> mac_seed;
  ApplianceOptions guest;
  AccessWish access = AccessWish::automatic;
  bool dry_run = false; ///< plan only
  bool force = false;   ///< existing files of these names may be replaced
  unsigned workers = 0; ///< 0: one per processor
  bool boot = false;    ///< prove each clone
  /// Prove the first so many together, on one private network; 0: none.
  unsigned boot_together = 0;
  std::string engine = "auto";
  std::chrono::seconds timeout{300};
};

/// What became of one clone.
struct CloneOutcome {
  enum class State {
    made, ///< but without final names yet
    done,
    before, ///< by an earlier run
    failed,
    stopped, ///< the run was stopped before
    planned, ///< dry run
  };
  std::string name, hostname;
  State state = State::stopped;
  std::optional<Error> error;
  std::vector<std::filesystem::path> files; ///< the report last
  std::vector<std::string> disks;           ///< how each was made
  std::optional<DescriptionResult> description;
  std::optional<Plan> plan; ///< of the guest; none when it was not looked into
  std::optional<UuidRenewal> uuids;
  std::vector<std::string> notes;
  std::optional<Verdict> verdict;              ///< none when no boot was tried
  std::map<std::string, std::string> identity; ///< after its boot, see main_identity()
};

struct CloneResult {
  std::string source; ///< its name
  std::vector<std::string> notes;
  std::vector<CloneOutcome> clones; ///< in the order of the requests
  /// "machine-id: web-001, web-002": what clones, or a clone and the source, share after their boots. Must be empty.
  std::vector<std::string> shared;
};

/// Errors that concern all clones are thrown: those of the source, NAME_IN_USE, ADDRESS_IN_USE, FILE_EXISTS,
/// OUTPUT_BUSY, RULE_UNKNOWN, RULE_NEEDED, STATE_MISMATCH; those of one clone are in its outcome. After an error of a
/// clone nothing of it has a final name.
CloneResult clone_guest(const CloneOptions& options, const std::vector<CloneRequest>& requests, EventSink& sink,
                        const StopToken& stop);

} // namespace kvmport
