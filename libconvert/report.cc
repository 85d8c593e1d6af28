// SPDX-License-Identifier: Apache-2.0
#include "libconvert/report.h"

namespace kvmport {
namespace {

using nlohmann::json;

constexpr std::size_t quoted_limit = 64U << 10;

json utf8_list(const std::vector<std::string>& texts) {
  json list = json::array();
  for (const auto& text : texts)
    list.push_back(valid_utf8(text));
  return list;
}

json to_json(const Change& change) {
  json j{{"step", change.step},
         {"action", to_string(change.kind)},
         {"path", valid_utf8(change.path)},
         {"reason", valid_utf8(change.reason)}};
  if (!change.target.empty())
    j["target"] = valid_utf8(change.target);
  if (change.kind == Change::Kind::write) {
    j["new_file"] = !change.existed;
    j["bytes_before"] = change.before.size();
  }
  if (change.kind == Change::Kind::write || change.kind == Change::Kind::append)
    j["bytes"] = change.after.size();
  const bool text = !change.binary && change.kind == Change::Kind::write &&
                    change.before.size() + change.after.size() <= quoted_limit;
  if (text) {
    j["before"] = valid_utf8(change.before);
    j["after"] = valid_utf8(change.after);
  }
  return j;
}

json to_json(const Machine& machine) {
  json nics = json::array();
  for (const auto& nic : machine.nics)
    nics.push_back({{"mac", nic.mac}, {"network", valid_utf8(nic.network)}, {"model", valid_utf8(nic.model)}});
  json disks = json::array();
  for (const auto& disk : machine.disks)
    disks.push_back({{"file", valid_utf8(disk.path.string())}, {"source_name", disk.source_name}});
  const char* firmware = machine.firmware == MachineFirmware::uefi   ? "uefi"
                         : machine.firmware == MachineFirmware::bios ? "bios"
                                                                     : "unknown";
  return {{"type", machine.source_type},
          {"name", valid_utf8(machine.name)},
          {"uuid", machine.uuid},
          {"memory", machine.memory},
          {"cpu", {{"sockets", machine.cpu.sockets}, {"cores", machine.cpu.cores}, {"threads", machine.cpu.threads}}},
          {"firmware", firmware},
          {"secure_boot", machine.secure_boot},
          {"tpm", machine.tpm},
          {"rtc", machine.rtc_localtime ? "localtime" : "utc"},
          {"disks", disks},
          {"nics", nics},
          {"notes", utf8_list(machine.notes)}};
}

json to_json(const DiskReport& disk) {
  return {{"source", valid_utf8(disk.source)},
          {"file", valid_utf8(disk.file)},
          {"format", disk.format},
          {"virtual_size", disk.virtual_size},
          {"copied_bytes", disk.copy.data},
          {"zero_bytes", disk.copy.zero},
          {"free_blocks_skipped_bytes", disk.copy.skipped},
          {"reused_bytes", disk.copy.reused},
          {"merged_bytes", disk.merged}};
}

} // namespace

std::string valid_utf8(std::string_view text) {
  // The library's own replacement handler does the work; the result is unwrapped again.
  const std::string dumped = json(std::string(text)).dump(-1, ' ', false, json::error_handler_t::replace);
  return json::parse(dumped).get<std::string>();
}

json to_json(const GuestInfo& guest) {
  json kernels = json::array();
  for (const auto& kernel : guest.kernels)
    kernels.push_back({{"version", valid_utf8(kernel.version)},
                       {"image", valid_utf8(kernel.image)},
                       {"initramfs", valid_utf8(kernel.initramfs)}});
  json mounts = json::array();
  for (const auto& mount : guest.mounts)
    mounts.push_back({{"path", valid_utf8(mount.path)},
                      {"device", valid_utf8(mount.source_name)},
                      {"type", valid_utf8(mount.type)}});
  json devices = json::array();
  for (const auto& device : guest.devices)
    devices.push_back({{"name", valid_utf8(device.source_name)},
                       {"type", valid_utf8(device.type)},
                       {"uuid", valid_utf8(device.uuid)},
                       {"label", valid_utf8(device.label)},
                       {"size", device.size}});
  return {{"distro", valid_utf8(guest.distro)},
          {"version", valid_utf8(guest.version)},
          {"pretty_name", valid_utf8(guest.pretty_name)},
          {"arch", guest.arch},
          {"packages", guest.packages},
          {"boot_loaders", guest.boot_loaders},
          {"esp", valid_utf8(guest.esp_path)},
          {"firmware", guest.firmware == Firmware::uefi ? "uefi" : "bios"},
          {"root_device", valid_utf8(guest.root_device)},
          {"kernels", kernels},
          {"mounts", mounts},
          {"devices", devices},
          {"notes", utf8_list(guest.notes)}};
}

json to_json(const Plan& plan) {
  json changes = json::array();
  for (const auto& change : plan.changes)
    changes.push_back(to_json(change));
  json j{{"changes", changes},
         {"warnings", utf8_list(plan.warnings)},
         {"notes", utf8_list(plan.notes)},
         {"disk_bus", plan.virtio_disk ? "virtio" : "sata"},
         {"nic_model", plan.virtio_net ? "virtio" : "e1000e"}};
  if (!plan.fallback_reason.empty())
    j["fallback_reason"] = valid_utf8(plan.fallback_reason);
  return j;
}

json to_json(const Verdict& verdict) {
  json reached = json::array();
  for (const auto& hit : verdict.reached)
    reached.push_back({{"milestone", to_string(hit.milestone)},
                       {"at_ms", hit.at.count()},
                       {"source", hit.source},
                       {"evidence", valid_utf8(hit.evidence)}});
  json j{{"proven", verdict.proven},     {"asked", to_string(verdict.asked)},      {"reached", reached},
         {"engine", verdict.engine},     {"engine_reason", verdict.engine_reason}, {"wall_ms", verdict.wall.count()},
         {"cpu_ms", verdict.cpu.count()}};
  if (verdict.diagnosis) {
    j["diagnosis"] = {{"code", verdict.diagnosis->code},
                      {"text", valid_utf8(verdict.diagnosis->text)},
                      {"lines", utf8_list(verdict.diagnosis->lines)}};
    if (!verdict.diagnosis->detail.empty())
      j["diagnosis"]["detail"] = verdict.diagnosis->detail;
  }
  return j;
}

json to_json(const Report& report) {
  json disks = json::array();
  for (const auto& disk : report.disks)
    disks.push_back(to_json(disk));
  json times = json::object();
  for (const auto& [stage, time] : report.times)
    times[stage] = {{"wall_s", time.wall}, {"cpu_s", time.cpu}};
  json j{{"report_version", 1},
         {"name", report.name},
         {"proven", report.verdict && report.verdict->proven},
         {"source", to_json(report.machine)},
         {"disks", disks},
         {"notes", utf8_list(report.notes)},
         {"times", times}};
  if (report.guest)
    j["guest"] = to_json(*report.guest);
  if (report.plan)
    j["plan"] = to_json(*report.plan);
  if (report.verdict)
    j["boot"] = to_json(*report.verdict);
  else
    j["not_proven_reason"] = report.not_proven_reason;
  return j;
}

} // namespace kvmport
