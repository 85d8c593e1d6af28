// SPDX-License-Identifier: Apache-2.0
// The libguestfs appliance: one per conversion. Gets the disks as raw NBD exports of our overlays, finds block devices
// and systems, mounts one, and is its GuestFilesystem.
#pragma once

#include "base/events.h"
#include "formats/nbd_server.h"
#include "libconvert/guest/guest.h"

#include <memory>
#include <string>
#include <vector>

namespace kvmport {

/// A passphrase for encrypted devices: `selector` is a device ("/dev/sdc1"), a UUID or "all".
struct Key {
  std::string selector, passphrase;
};

struct ApplianceOptions {
  std::string
      root; ///< --root DEVICE in source naming; empty: the only system, else Error GUEST_AMBIGUOUS that lists them
  std::vector<Key> keys;
};

class ApplianceHandle;

class Appliance {
 public:
  /// Launches it over one NBD server per disk (same order as machine.disks). Uses KVM or TCG as host_probe() says.
  /// Launching takes seconds. Errors: APPLIANCE_FAILED.
  Appliance(const Machine& machine, const std::vector<NbdServer*>& disks, EventSink& sink, const StopToken& stop);
  ~Appliance();
  Appliance(const Appliance&) = delete;
  Appliance& operator=(const Appliance&) = delete;

  /// Finds the system, mounts it (journals are replayed on the overlay) and fills GuestInfo. Errors: GUEST_NOT_FOUND,
  /// GUEST_AMBIGUOUS, GUEST_HIBERNATED, GUEST_UNCLEAN, GUEST_NO_SPACE, KEY_MISSING, GUEST_UNSUPPORTED.
  GuestInfo inspect(const ApplianceOptions& options);
  /// Opens every encrypted device that the keys open; inspect() opens what it needs only. After inspect().
  void open_encrypted();
  /// The mounted tree. Valid after inspect().
  GuestFilesystem& filesystem();
  /// For what works on whole devices; nothing that it mounts may stay mounted.
  const ApplianceHandle& handle() const;
  /// Unmounts all, flushes everything to the overlays. remount() mounts the same system again.
  void unmount();
  void remount();
  /// Whether the appliance's kernel keeps nothing of the disks but what forget_disks() makes it forget: not so for md
  /// arrays and LVM's thin pools, snapshots and caches, which are active as long as the disks are there.
  bool can_forget_disks() const;
  /// After unmount(): nothing that was read of the disks is remembered, so that they may be others of the same layout.
  void forget_disks();
  /// Clean shutdown; the overlays hold everything afterwards.
  void shutdown();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

} // namespace kvmport
