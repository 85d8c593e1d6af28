// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/new_uuids.h"

#include "base/error.h"
#include "base/file.h"
#include "formats/nbd_server.h"
#include "libconvert/clone/uuid_disks.h"
#include "libconvert/clone/uuid_files.h"

#include <algorithm>
#include <fmt/format.h>
#include <random>

namespace kvmport {
namespace {

std::string random_seed() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
}

/// The appliance opens containers as "luks-UUID".
void warn_of_closed(const UuidSurvey& survey, std::vector<std::string>& warnings) {
  for (const FoundDevice& container : survey.devices)
    if (container.device.type == "crypto_LUKS" && std::ranges::none_of(survey.devices, [&](const FoundDevice& d) {
          return d.device.source_name == "/dev/mapper/luks-" + container.device.uuid;
        }))
      warnings.push_back("what lies inside " + container.device.source_name +
                         " keeps its UUIDs and names: the encrypted device was not opened");
}

/// Independent of the code that replaced: grep over the mounted guest. An initramfs still holds its old parts.
void warn_of_files_with(const ApplianceHandle& appliance, const std::string& patterns, const std::string& what,
                        std::vector<std::string>& warnings) {
  const std::string found =
      appliance.script("cd /sysroot && grep -rl --exclude='initr*' " + patterns + " etc boot efi 2>/dev/null; true");
  for (std::size_t at = 0; at < found.size();) {
    const std::size_t end = std::min(found.find('\n', at), found.size());
    warnings.push_back("/" + found.substr(at, end - at) + " still names " + what);
    at = end + 1;
  }
}

void warn_of_leftovers(const ApplianceHandle& appliance, const UuidRenewal& renewal,
                       std::vector<std::string>& warnings) {
  std::string uuids = "-iF", devices = "-E";
  for (const UuidChange& change : renewal.changes)
    for (const auto& [before, after] : uuid_notations(change))
      uuids += " -e " + ApplianceHandle::quote(before);
  for (const GroupChange& group : renewal.groups)
    for (const GroupNotation& notation : group_notations(group))
      devices += " -e " + ApplianceHandle::quote(old_name_pattern(notation));
  warn_of_files_with(appliance, uuids, "an old UUID", warnings);
  if (!renewal.groups.empty())
    warn_of_files_with(appliance, devices, "a volume group by its old name", warnings);
}

/// As in the device path of a boot entry: the first three fields in little-endian order (UEFI 2.10, appendix A).
std::string guid_bytes(const std::string& text) {
  std::string hex = text, bytes;
  std::erase(hex, '-');
  for (const std::size_t at : {3U, 2U, 1U, 0U, 5U, 4U, 7U, 6U, 8U, 9U, 10U, 11U, 12U, 13U, 14U, 15U})
    bytes += static_cast<char>(std::stoul(hex.substr(2 * at, 2), nullptr, 16));
  return bytes;
}

} // namespace

UuidRenewal renew_uuids(const Machine& machine, const std::vector<Overlay*>& disks, const ApplianceOptions& options,
                        const std::string& seed, EventSink& sink, const StopToken& stop) {
  const TempDir sockets;
  std::vector<std::unique_ptr<NbdServer>> servers;
  std::vector<NbdServer*> borrowed;
  for (Overlay* disk : disks) {
    servers.push_back(std::make_unique<NbdServer>(*disk, sockets.path() / fmt::format("disk{}", servers.size())));
    borrowed.push_back(servers.back().get());
  }
  sink.stage("uuids", "looking into the guest");
  Appliance appliance(machine, borrowed, sink, stop);
  const GuestInfo info = appliance.inspect(options);
  if (!options.keys.empty())
    appliance.open_encrypted();
  const ApplianceHandle& handle = appliance.handle();

  UuidRenewal renewal;
  std::vector<std::string> warnings;
  const UuidSurvey survey = survey_uuids(handle, machine);
  const std::string used_seed = seed.empty() ? random_seed() : seed;
  const auto holders = without_those_in_grub(uuid_holders(survey, used_seed), info, appliance.filesystem(), warnings);
  renewal.groups =
      without_those_in_grub(group_changes(survey, used_seed, warnings), info, appliance.filesystem(), warnings);
  check_uuid_tools(handle, holders);
  warn_of_closed(survey, warnings);
  for (const UuidHolder& holder : holders)
    renewal.changes.push_back(holder.change);

  sink.stage("uuids", "renewing UUIDs and names in the guest's files");
  const Step step{"new-uuids", [&](const GuestInfo& i, Draft& draft) {
                    renew_uuids_in_files(i, {renewal.changes, renewal.groups}, draft);
                  }};
  renewal.plan = make_plan(info, appliance.filesystem(), {step});
  apply_plan(renewal.plan, appliance.filesystem());
  appliance.unmount();
  stop.check();

  sink.stage("uuids", fmt::format("giving {} new UUIDs", holders.size()));
  change_uuids(handle, holders, renewal.groups);
  check_changed(survey_uuids(handle, machine), holders, renewal.groups);
  appliance.remount();
  warn_of_leftovers(handle, renewal, warnings);
  appliance.unmount();
  appliance.shutdown();
  for (const auto& server : servers)
    if (!server->failure().empty())
      throw Error("SOURCE_UNREADABLE", "a disk could not be read or changed while its UUIDs were renewed",
                  server->failure());
  renewal.plan.warnings.insert(renewal.plan.warnings.end(), warnings.begin(), warnings.end());
  return renewal;
}

std::size_t renew_in_nvram(const std::filesystem::path& variables, const std::vector<UuidChange>& changes) {
  constexpr std::uint64_t most = 64U << 20;
  const std::string before = read_file(variables, most);
  if (before.starts_with("QFI\xfb"))
    throw Error("NVRAM_UNSUPPORTED", variables.string() + " is a qcow2 file", "only raw variable stores can be changed",
                "convert it with qemu-img convert -O raw");
  std::string after = before;
  std::size_t count = 0;
  for (const UuidChange& change : changes) {
    if (!change.what.starts_with("partition ") || change.before.size() != 36)
      continue;
    const std::string wanted = guid_bytes(change.before), put = guid_bytes(change.after);
    for (std::size_t at = before.find(wanted); at != std::string::npos; at = before.find(wanted, at + wanted.size())) {
      after.replace(at, put.size(), put);
      count++;
    }
  }
  if (count > 0)
    write_file_durably(variables, after);
  return count;
}

} // namespace kvmport
