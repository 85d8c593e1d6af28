// SPDX-License-Identifier: Apache-2.0
// The way of one clone: plan (description and paths), make (disks, identity inside), prove, publish. What the clones of
// a run share is borrowed and only read, so that several jobs may be worked on by several threads.
#pragma once

#include "libconvert/clone/clone.h"
#include "libconvert/clone/guest_seat.h"
#include "libconvert/publish.h"

#include <memory>

namespace kvmport {

/// What all jobs of a run share.
struct CloneRun {
  const CloneOptions& options;
  const CloneSource& source;
  std::filesystem::path output; ///< absolute
  std::string id;               ///< names the source's state and the settings
  std::string seed;             ///< for MAC addresses; empty: random ones
  RuleSelection rules;
  EventSink& sink;
  const StopToken& stop;
};

class CloneJob {
 public:
  CloneJob(const CloneRun& run, CloneRequest request);
  ~CloneJob();

  const CloneRequest& request() const { return request_; }
  /// Names the clone and what was asked of it, for the state of the run.
  std::string key() const;
  CloneOutcome& outcome() { return outcome_; }
  /// The files that get a final name, without their directory.
  std::vector<std::string> file_names() const;

  /// Chooses paths and makes the description; identities are claimed in `taken`. One job at a time.
  void plan(TakenIdentities& taken, const std::optional<std::string>& uuid);
  /// What make() would do to the guest, without doing it. `seat`: of the calling thread, over the source's disks.
  void plan_guest(GuestSeat& seat);
  /// The partial files, complete.
  void make(GuestSeat& seat);
  /// The clone as it can be booted now, with the source's disks behind its own when UUIDs are new: there must be no
  /// quarrel between them.
  struct Bootable {
    Machine machine;
    std::vector<std::unique_ptr<Image>> images;
    std::vector<std::unique_ptr<Overlay>> overlays;
  };
  Bootable bootable() const;
  /// Completes a publication that an earlier run began; false when there is none.
  bool roll_forward(const AfterNames& after);
  /// Final names, then `after`.
  void publish(const AfterNames& after);
  /// Removes what is there under partial names. What can be gone on with stays, when `keep`.
  void abandon(bool keep);

 private:
  std::string file_name(const std::string& ending) const { return request_.name + ending; }
  std::string publication_id() const;
  CloneIdentity identity() const;
  void renew(const std::vector<Overlay*>& overlays);
  void copy_nvram();
  void copy_tpm();
  void remove_logs() const;

  const CloneRun& run_;
  CloneRequest request_;
  CloneOutcome outcome_;
  std::vector<std::unique_ptr<CloneDisk>> disks_; ///< one per disk of the source; null: shared
  std::vector<std::string> names_;                ///< of the files of disks_; empty: shared
  std::filesystem::path tpm_;                     ///< the copy of a TPM's state; empty: none was made
};

/// The report of a clone, as text; see kvmport-report(5).
std::string clone_report(const CloneRun& run, const CloneOutcome& outcome);

} // namespace kvmport
