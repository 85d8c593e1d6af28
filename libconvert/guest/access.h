// SPDX-License-Identifier: Apache-2.0
// How a conversion gets into the guest: in user space where that is safe (milliseconds), else through the libguestfs
// appliance (a virtual machine: seconds of CPU). One decision per guest, with its reason.
#pragma once

#include "base/events.h"
#include "formats/overlay.h"
#include "libconvert/guest/appliance.h"

#include <memory>
#include <string>
#include <vector>

namespace kvmport {

/// The guest's system, found and mounted over the overlays. One thread at a time.
class GuestAccess {
 public:
  virtual ~GuestAccess() = default;
  /// "userspace" or "appliance".
  virtual std::string name() const = 0;
  /// What was found.
  virtual const GuestInfo& info() const = 0;
  /// The mounted tree.
  virtual GuestFilesystem& filesystem() = 0;
  /// Everything written so far lies in the overlays; from now on changes go to `next`, one per disk, each over the one
  /// before. The tree is the same, the GuestFilesystem may be another.
  virtual void continue_on(const std::vector<Overlay*>& next) = 0;
  /// Everything lies in the overlays; the tree is gone.
  virtual void finish() = 0;
  /// As finish(), but the access stays for the same guest on other overlays: meanwhile its disks are `idle`, which hold
  /// what the overlays held at first. False, and nothing was done: it must be finished.
  virtual bool rest(const std::vector<Overlay*>& idle);
  /// After rest(): the tree as it was found, over `fresh`, which hold the same. Plans and changes begin anew.
  virtual void resume(const std::vector<Overlay*>& fresh);
};

enum class AccessWish { automatic, userspace, appliance };

/// Opens the guest. `disks`: one overlay per machine.disks. `socket_directory`: private. Errors: those of Appliance,
/// and GUEST_UNSUPPORTED when user space is asked for and can't do it.
std::unique_ptr<GuestAccess> open_guest(const Machine& machine, const std::vector<Overlay*>& disks,
                                        const ApplianceOptions& options, AccessWish wish,
                                        const std::filesystem::path& socket_directory, EventSink& sink,
                                        const StopToken& stop);

/// Only user space; nothing (and the reason in `why_not`) when it is not safe or not enough. A guest that can't be
/// converted either way is refused here: Errors GUEST_NOT_FOUND, GUEST_AMBIGUOUS, GUEST_HIBERNATED, GUEST_INCOMPLETE,
/// GUEST_NO_SPACE, KEY_MISSING, GUEST_UNSUPPORTED.
std::unique_ptr<GuestAccess> open_guest_in_userspace(const Machine& machine, const std::vector<Overlay*>& disks,
                                                     const ApplianceOptions& options, std::string& why_not);

} // namespace kvmport
