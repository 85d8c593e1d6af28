// SPDX-License-Identifier: Apache-2.0
// One libguestfs handle: launched over our NBD exports, asked with as few calls as possible (each costs milliseconds
// where there is no KVM), stopped when the user asks. Inner part of Appliance.
#pragma once

#include "base/events.h"
#include "base/file.h"
#include "base/late_library.h"
#include "formats/nbd_server.h"
#include "libconvert/machine/machine.h"

#include <atomic>
#include <guestfs.h>
#include <memory>
#include <string>
#include <thread>
#include <vector>

/// A function of libguestfs, which only guests that need the appliance load.
#define GUESTFS(function) KVMPORT_LATE("libguestfs.so.0", function)

namespace kvmport {

/// One thread at a time. Everything throws APPLIANCE_FAILED when the appliance is gone, INTERRUPTED after a stop.
class ApplianceHandle {
 public:
  ApplianceHandle(const Machine& machine, const std::vector<NbdServer*>& disks, EventSink& sink, const StopToken& stop);
  ~ApplianceHandle();
  ApplianceHandle(const ApplianceHandle&) = delete;
  ApplianceHandle& operator=(const ApplianceHandle&) = delete;

  guestfs_h* get() const { return handle_; }
  /// Throws when a stop was asked for or the appliance died; else returns the text of the last libguestfs error.
  std::string failure() const;
  /// errno of the last libguestfs error, 0 when the appliance gave none.
  int error_number() const { return GUESTFS(guestfs_last_errno)(handle_); }
  /// Runs a shell script of ours inside the appliance (not of the guest: its tree lies at /sysroot) and returns what
  /// it printed. The script must hold nothing that comes from the guest unless quoted by quote(). Error
  /// APPLIANCE_FAILED.
  std::string script(const std::string& text) const;
  static std::string quote(const std::string& word);
  /// Clean shutdown. Error APPLIANCE_FAILED when the last writes may not have arrived.
  void shutdown();

 private:
  void launch(const Machine& machine, const std::vector<NbdServer*>& disks, EventSink& sink);
  void watch(const std::stop_token& done) const;
  static void on_event(guestfs_h* handle, void* self, std::uint64_t event, int event_handle, int flags,
                       const char* buffer, std::size_t length, const std::uint64_t* array, std::size_t array_length);

  const StopToken& stop_;
  TempDir directory_;
  guestfs_h* handle_ = nullptr;
  std::string log_; ///< warnings of libguestfs, at most a few KiB
  std::atomic<int> pid_{0};
  std::jthread watcher_; ///< kills the appliance when a stop is asked for; ends before the handle
};

/// Strings that libguestfs allocated.
struct GuestfsFree {
  void operator()(void* memory) const { ::free(memory); }
};
using GuestfsText = std::unique_ptr<char, GuestfsFree>;

} // namespace kvmport
