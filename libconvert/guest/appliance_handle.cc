// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/appliance_handle.h"

#include "base/error.h"
#include "kvmboot/probe.h"

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>

namespace kvmport {
namespace {

/// Enough for argon2id with the 1 GiB that cryptsetup takes at most. Pages that are not used cost nothing.
constexpr int memory_mib = 1280;
constexpr std::size_t most_log = 8192;
/// The appliance runs our scripts only; and the guest's filesystems are mounted in it, never executed.
constexpr const char* kernel_options = "mitigations=off audit=0";
constexpr const char* hint =
    "run libguestfs-test-tool; the kernel in /boot must be readable, and a free 1.3 GiB of memory is needed";

} // namespace

ApplianceHandle::ApplianceHandle(const Machine& machine, const std::vector<NbdServer*>& disks, EventSink& sink,
                                 const StopToken& stop)
    : stop_(stop),
      handle_(GUESTFS(guestfs_create_flags)(GUESTFS_CREATE_NO_ENVIRONMENT | GUESTFS_CREATE_NO_CLOSE_ON_EXIT)) {
  if (!handle_)
    throw Error("APPLIANCE_FAILED", "libguestfs gives no handle");
  try {
    launch(machine, disks, sink);
  } catch (...) {
    watcher_ = {};
    GUESTFS(guestfs_close)(handle_);
    throw;
  }
}

ApplianceHandle::~ApplianceHandle() {
  watcher_ = {};
  GUESTFS(guestfs_close)(handle_);
}

void ApplianceHandle::on_event(guestfs_h* handle, void* self, std::uint64_t event, int, int, const char* buffer,
                               std::size_t length, const std::uint64_t*, std::size_t) {
  auto& us = *static_cast<ApplianceHandle*>(self);
  if (event == GUESTFS_EVENT_PROGRESS || event == GUESTFS_EVENT_LAUNCH_DONE) {
    if (const int pid = GUESTFS(guestfs_get_pid)(handle); pid > 0)
      us.pid_.store(pid);
  } else if (us.log_.size() + length < most_log) {
    us.log_.append(buffer, length);
  }
}

void ApplianceHandle::watch(const std::stop_token& done) const {
  while (!done.stop_requested()) {
    if (const int pid = pid_.load(); pid > 0 && stop_.requested()) {
      ::kill(pid, SIGKILL);
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

void ApplianceHandle::launch(const Machine& machine, const std::vector<NbdServer*>& disks, EventSink& sink) {
  guestfs_h* g = handle_;
  GUESTFS(guestfs_set_error_handler)(g, nullptr, nullptr);
  GUESTFS(guestfs_set_event_callback)
  (g, on_event, GUESTFS_EVENT_PROGRESS | GUESTFS_EVENT_LAUNCH_DONE | GUESTFS_EVENT_WARNING | GUESTFS_EVENT_LIBRARY, 0,
   this);
  GUESTFS(guestfs_set_backend)(g, "direct");
  const Probe& probe = host_probe();
  if (probe.kvm != Probe::Class::full)
    GUESTFS(guestfs_set_backend_setting)(g, "force_tcg", "1");
  sink.message(EventSink::Level::info, "",
               probe.kvm == Probe::Class::full ? "the appliance runs on KVM"
                                               : "the appliance runs without KVM: it takes a while to start");
  GUESTFS(guestfs_set_tmpdir)(g, directory_.path().c_str());
  GUESTFS(guestfs_set_memsize)(g, memory_mib);
  GUESTFS(guestfs_set_smp)(g, 1);
  GUESTFS(guestfs_set_network)(g, 0);
  GUESTFS(guestfs_set_autosync)(g, 1);
  // Ctrl-C in a terminal must not reach the appliance before us. The recovery process stays: it ends the appliance
  // when we are killed.
  GUESTFS(guestfs_set_pgroup)(g, 1);
  GUESTFS(guestfs_set_append)(g, kernel_options);

  for (std::size_t i = 0; i < disks.size(); i++) {
    std::string server = "unix:" + disks[i]->socket_path().string();
    std::array<char*, 2> servers{server.data(), nullptr};
    struct guestfs_add_drive_opts_argv options {};
    options.bitmask = GUESTFS_ADD_DRIVE_OPTS_FORMAT_BITMASK | GUESTFS_ADD_DRIVE_OPTS_PROTOCOL_BITMASK |
                      GUESTFS_ADD_DRIVE_OPTS_SERVER_BITMASK | GUESTFS_ADD_DRIVE_OPTS_CACHEMODE_BITMASK;
    options.format = "raw";
    options.protocol = "nbd";
    options.server = servers.data();
    options.cachemode = "unsafe"; // the overlay is a private temporary file: there is nothing to flush to
    if (i < machine.disks.size() && machine.disks[i].logical_sector == 4096) {
      options.bitmask |= GUESTFS_ADD_DRIVE_OPTS_BLOCKSIZE_BITMASK;
      options.blocksize = 4096;
    }
    if (GUESTFS(guestfs_add_drive_opts_argv)(g, "", &options) != 0)
      throw Error("APPLIANCE_FAILED", "disk " + std::to_string(i + 1) + " cannot be shown to libguestfs", failure());
  }
  stop_.check();
  watcher_ = std::jthread([this](const std::stop_token& done) { watch(done); });
  if (GUESTFS(guestfs_launch)(g) != 0)
    throw Error("APPLIANCE_FAILED", "the libguestfs appliance did not start", failure(), hint);
}

std::string ApplianceHandle::failure() const {
  stop_.check();
  const char* text = GUESTFS(guestfs_last_error)(handle_);
  std::string why = text ? text : "";
  if (!log_.empty())
    why += (why.empty() ? "" : "; ") + log_;
  return why;
}

std::string ApplianceHandle::quote(const std::string& word) {
  std::string quoted = "'";
  for (const char c : word) {
    if (c == '\'')
      quoted += "'\\''";
    else
      quoted += c;
  }
  return quoted + "'";
}

std::string ApplianceHandle::script(const std::string& text) const {
  stop_.check();
  std::string copy = text;
  std::array<char*, 2> arguments{copy.data(), nullptr};
  const GuestfsText out(GUESTFS(guestfs_debug)(handle_, "sh", arguments.data()));
  if (!out)
    throw Error("APPLIANCE_FAILED", "a look at the disks failed in the appliance", failure());
  return out.get();
}

void ApplianceHandle::shutdown() {
  const bool failed = GUESTFS(guestfs_shutdown)(handle_) != 0;
  pid_.store(0);
  if (failed)
    throw Error("APPLIANCE_FAILED", "the appliance did not end cleanly: the last changes may be missing", failure());
}

} // namespace kvmport
