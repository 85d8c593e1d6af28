// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v_delivery.h"

#include "formats/partitions.h"
#include "libconvert/publish.h"
#include "libconvert/target/target.h"

#include <algorithm>
#include <fmt/format.h>

namespace fs = std::filesystem;
using nlohmann::json;

namespace kvmport {
namespace {

/// Firmware that finds something to start on the disk.
struct Startable {
  bool bios = false, uefi = false;
};

Startable startable(const MachineDisk& disk) {
  OpenOptions raw;
  raw.format = "raw";
  const auto image = open_image(disk.path, raw);
  const DiskPartitions table = read_partitions(*image, disk.logical_sector);
  const auto has = [&table](bool (*is)(std::string_view)) {
    return std::any_of(table.partitions.begin(), table.partitions.end(), [is](const auto& p) { return is(p.type); });
  };
  const bool uefi = has(is_efi_system_type);
  // Some systems leave code in the MBR of a GPT disk that finds nothing to go on with.
  const bool bios = has_boot_code(*image) && (table.kind != "gpt" || !uefi || has(is_bios_boot_type));
  return {bios, uefi};
}

/// The medium is started by what the machine's firmware prefers, the system on its disks perhaps by the other way.
void fit_firmware(Machine& machine, EventSink& sink) {
  Startable all;
  for (const MachineDisk& disk : machine.disks) {
    const Startable one = startable(disk);
    all = {all.bios || one.bios, all.uefi || one.uefi};
  }
  const bool uefi = machine.firmware == MachineFirmware::uefi;
  if (uefi ? all.uefi || !all.bios : all.bios || !all.uefi)
    return;
  machine.firmware = uefi ? MachineFirmware::bios : MachineFirmware::uefi;
  machine.secure_boot = false;
  sink.message(EventSink::Level::info, "FIRMWARE_CHANGED",
               uefi ? "the machine was captured under UEFI, but its disks start by BIOS alone: so does the result"
                    : "the machine was captured under BIOS, but its disks start by UEFI alone: so does the result");
}

/// The machine with its disks where they are now.
Machine spooled_machine(const CapturedMachine& captured, EventSink& sink) {
  Machine machine = captured.manifest.machine;
  machine.name = captured.manifest.name;
  for (std::size_t i = 0; i < machine.disks.size(); i++) {
    machine.disks[i].path = captured.disks[i];
    machine.disks[i].format = "raw";
    machine.disks[i].capacity = captured.manifest.disks[i].size;
  }
  fit_firmware(machine, sink);
  return machine;
}

json names_of(const std::vector<fs::path>& files) {
  json names = json::array();
  for (const auto& file : files)
    names.push_back(file.filename().string());
  return names;
}

json describe_disks(const CapturedMachine& captured) {
  json disks = json::array();
  for (std::size_t i = 0; i < captured.disks.size(); i++) {
    const ManifestDisk& disk = captured.manifest.disks[i];
    json unreadable = json::array();
    for (const Range& range : captured.unreadable[i])
      unreadable.push_back({{"offset", range.offset}, {"length", range.length}});
    disks.push_back({{"source", captured.manifest.machine.disks[i].source_name},
                     {"size", disk.size},
                     {"used", disk.used},
                     {"notes", disk.notes},
                     {"unreadable", std::move(unreadable)}});
  }
  return disks;
}

json convert(const CapturedMachine& captured, const DeliveryOptions& options, EventSink& sink, const StopToken& stop) {
  const CaptureWishes& wishes = captured.manifest.wishes;
  ConvertOptions convert;
  convert.machine = spooled_machine(captured, sink);
  convert.name = captured.manifest.name;
  convert.output_directory = captured.directory;
  convert.format = wishes.format;
  convert.compression = wishes.compress == "zlib"   ? Compression::zlib
                        : wishes.compress == "zstd" ? Compression::zstd
                                                    : Compression::none;
  convert.guest = options.guest;
  convert.access = options.access;
  convert.engine = options.engine;
  convert.boot = wishes.boot;
  convert.force = wishes.force;
  convert.until = parse_milestone(wishes.until);
  convert.timeout = std::chrono::seconds(wishes.timeout);
  const ConvertResult result = convert_machine(convert, sink, stop);
  json j{{"converted", true}, {"proven", result.proven()}, {"files", names_of(result.files)}};
  if (result.verdict)
    j["boot"] = to_json(*result.verdict);
  return j;
}

/// The disks get names of results; the guest in them is as it was, so they hang on hardware that it knows.
json keep(const CapturedMachine& captured, EventSink& sink) {
  const std::string& name = captured.manifest.name;
  TargetMachine target;
  target.source = spooled_machine(captured, sink);
  target.uefi = target.source.firmware == MachineFirmware::uefi;
  target.secure_boot = target.source.secure_boot;
  target.virtio_disk = target.virtio_net = false;
  Publication publication;
  publication.directory = captured.directory;
  for (std::size_t i = 0; i < captured.disks.size(); i++) {
    const MachineDisk& disk = target.source.disks[i];
    const std::string file = name + "-" + captured.disks[i].filename().string();
    publication.renames.emplace_back(fs::relative(captured.disks[i], captured.directory).string(), file);
    target.disks.push_back({(fs::absolute(captured.directory) / file).lexically_normal().string(), "raw",
                            disk.logical_sector, disk.physical_sector, disk.serial, disk.boot_order});
  }
  publication.source_id = captured.manifest.identity();
  publication.texts.emplace_back(name + ".sh", qemu_script(target));
  publication.report_name = name + ".xml";
  publication.report = libvirt_xml(target);
  publish(publication, captured.manifest.wishes.force);
  return {{"converted", false}, {"proven", false}, {"files", names_of(publication.files())}};
}

} // namespace

Deliver make_delivery(const DeliveryOptions& options) {
  return [options](const CapturedMachine& captured, EventSink& sink, const StopToken& stop) {
    json result = captured.manifest.wishes.convert ? convert(captured, options, sink, stop) : keep(captured, sink);
    result["name"] = captured.manifest.name;
    result["disks"] = describe_disks(captured);
    return result;
  };
}

} // namespace kvmport
