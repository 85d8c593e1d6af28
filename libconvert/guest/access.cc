// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/access.h"

#include <fmt/format.h>

namespace kvmport {
namespace {

/// The appliance over one NBD server per disk.
class ApplianceAccess final : public GuestAccess {
 public:
  ApplianceAccess(const Machine& machine, const std::vector<Overlay*>& disks, const ApplianceOptions& options,
                  const std::filesystem::path& socket_directory, EventSink& sink, const StopToken& stop)
      : servers_(serve(disks, socket_directory)), appliance_(machine, borrowed(servers_), sink, stop),
        info_(appliance_.inspect(options)) {}

  std::string name() const override { return "appliance"; }
  const GuestInfo& info() const override { return info_; }
  GuestFilesystem& filesystem() override { return appliance_.filesystem(); }

  void continue_on(const std::vector<Overlay*>& next) override {
    appliance_.unmount();
    switch_to(next);
    appliance_.remount();
  }

  void finish() override {
    appliance_.unmount();
    appliance_.shutdown();
    check_servers();
  }

  bool rest(const std::vector<Overlay*>& idle) override {
    if (!appliance_.can_forget_disks())
      return false;
    appliance_.unmount();
    check_servers();
    switch_to(idle);
    appliance_.forget_disks();
    return true;
  }

  void resume(const std::vector<Overlay*>& fresh) override {
    switch_to(fresh);
    appliance_.remount();
  }

 private:
  using Servers = std::vector<std::unique_ptr<NbdServer>>;

  static Servers serve(const std::vector<Overlay*>& disks, const std::filesystem::path& directory) {
    Servers servers;
    for (Overlay* disk : disks)
      servers.push_back(std::make_unique<NbdServer>(*disk, directory / fmt::format("disk{}", servers.size())));
    return servers;
  }
  static std::vector<NbdServer*> borrowed(const Servers& servers) {
    std::vector<NbdServer*> all;
    for (const auto& server : servers)
      all.push_back(server.get());
    return all;
  }

  void switch_to(const std::vector<Overlay*>& next) {
    for (std::size_t i = 0; i < servers_.size(); i++)
      servers_[i]->switch_to(*next[i]);
  }
  void check_servers() const {
    for (const auto& server : servers_)
      if (!server->failure().empty())
        throw Error("SOURCE_UNREADABLE", "a disk could not be read or changed while the guest was converted",
                    server->failure());
  }

  Servers servers_;
  Appliance appliance_;
  GuestInfo info_;
};

} // namespace

bool GuestAccess::rest(const std::vector<Overlay*>&) {
  return false;
}

void GuestAccess::resume(const std::vector<Overlay*>&) {
  throw Error("INTERNAL", "an access that can't rest was to be resumed");
}

std::unique_ptr<GuestAccess> open_guest(const Machine& machine, const std::vector<Overlay*>& disks,
                                        const ApplianceOptions& options, AccessWish wish,
                                        const std::filesystem::path& socket_directory, EventSink& sink,
                                        const StopToken& stop) {
  if (wish != AccessWish::appliance) {
    std::string why_not;
    if (auto access = open_guest_in_userspace(machine, disks, options, why_not))
      return access;
    if (wish == AccessWish::userspace)
      throw Error("GUEST_UNSUPPORTED", "the guest can't be changed in user space", why_not,
                  "leave --guest-access out: the libguestfs appliance is used then");
    sink.message(EventSink::Level::info, "", "the guest needs the libguestfs appliance: " + why_not);
  }
  return std::make_unique<ApplianceAccess>(machine, disks, options, socket_directory, sink, stop);
}

} // namespace kvmport
