// SPDX-License-Identifier: Apache-2.0
#include "libconvert/machine/limits.h"
#include "libconvert/machine/ovf_items.h"

#include <algorithm>
#include <cstdio>

namespace kvmport {
namespace {

struct FileReference {
  std::string href, compression, chunk_size, size;
};
struct DiskDescription {
  std::string id, file_reference, format, parent;
  std::string capacity, units;
};

/// Sections stand directly below the envelope (DiskSection) or, in OVF 0.9, as <Section xsi:type="…DiskSection_Type">.
const XmlElement* disk_section(const XmlElement& envelope) {
  if (const XmlElement* section = child(&envelope, "DiskSection"))
    return section;
  for (const XmlElement* section : children(&envelope, "Section"))
    if (attribute(section, "type").find("DiskSection") != std::string::npos)
      return section;
  return nullptr;
}

std::map<std::string, FileReference> read_references(const XmlElement& envelope) {
  std::map<std::string, FileReference> files;
  for (const XmlElement* e : children(child(&envelope, "References"), "File"))
    files[attribute(e, "id")] = {attribute(e, "href"), lower(attribute(e, "compression")), attribute(e, "chunkSize"),
                                 attribute(e, "size")};
  return files;
}

std::map<std::string, DiskDescription> read_disk_section(const XmlElement& envelope) {
  std::map<std::string, DiskDescription> disks;
  for (const XmlElement* e : children(disk_section(envelope), "Disk")) {
    const std::string id = attribute(e, "diskId");
    disks[id] = {id,
                 attribute(e, "fileRef"),
                 lower(attribute(e, "format")),
                 attribute(e, "parentRef"),
                 attribute(e, "capacity"),
                 attribute(e, "capacityAllocationUnits")};
  }
  return disks;
}

/// Our word for the format URI of a disk; "" when the URI says nothing.
std::string format_of(const std::string& uri) {
  if (uri.find("vmdk") != std::string::npos)
    return "vmdk";
  if (uri.find("qcow2") != std::string::npos)
    return "qcow2";
  return "";
}

std::uint64_t capacity_of(const DiskDescription& disk, const std::string& what, std::vector<std::string>& notes) {
  if (disk.capacity.empty())
    return 0;
  const auto count = parse_number(disk.capacity);
  const auto unit = disk.units.empty() ? std::optional<std::uint64_t>(1) : parse_byte_unit(disk.units);
  const auto bytes = count && unit ? multiplied(*count, *unit) : std::nullopt;
  if (!bytes)
    notes.push_back(what + ": the capacity " + printable(disk.capacity + " " + disk.units, 80) + " is not understood");
  return bytes.value_or(0);
}

/// "NAME.000000000", "NAME.000000001", … (DSP0243, 7.1).
std::vector<FilePiece> find_chunks(const FileReference& file, std::uint64_t chunk, const std::string& what,
                                   const FindFile& find, std::vector<std::string>& notes) {
  std::vector<FilePiece> pieces;
  constexpr unsigned most_chunks = 100'000;
  for (unsigned number = 0; number < most_chunks; number++) {
    char suffix[16];
    std::snprintf(suffix, sizeof suffix, ".%09u", number);
    auto piece = find(file.href + suffix, what, notes);
    if (!piece)
      break;
    if (!pieces.empty() && pieces.back().window.length != chunk)
      throw Error("DESCRIPTION_INVALID",
                  what + ": chunk " + std::to_string(number - 1) + " has not the size that the description gives",
                  std::to_string(pieces.back().window.length) + " bytes instead of " + std::to_string(chunk));
    if (piece->window.length > chunk)
      throw Error("DESCRIPTION_INVALID",
                  what + ": chunk " + std::to_string(number) + " is larger than the description says");
    pieces.push_back(*piece);
  }
  std::uint64_t total = 0;
  for (const FilePiece& piece : pieces)
    total += piece.window.length;
  if (const auto size = parse_number(file.size); size && !pieces.empty() && total != *size)
    throw Error("DISK_MISSING", what + ": chunks of " + printable(file.href) + " are missing",
                std::to_string(total) + " of " + std::to_string(*size) + " bytes are there", "copy all chunks");
  return pieces;
}

void locate(const FileReference& file, const std::string& what, const FindFile& find, MachineDisk& disk,
            std::vector<std::string>& notes) {
  if (file.compression == "gzip")
    disk.gzip = true;
  else if (!file.compression.empty() && file.compression != "identity")
    throw Error("DESCRIPTION_UNSUPPORTED", what + " is compressed in a way that is not known",
                printable(file.compression, 80), "export the machine without compression, or with gzip");
  std::vector<FilePiece> pieces;
  if (const auto chunk = parse_number(file.chunk_size); chunk && *chunk > 0)
    pieces = find_chunks(file, *chunk, what, find, notes);
  if (pieces.empty())
    if (auto whole = find(file.href, what, notes))
      pieces.push_back(*whole);
  if (pieces.empty())
    throw Error("DISK_MISSING", what + " is missing: " + printable(file.href), {},
                "put the file beside the description, or name the file that takes its place (--disk)");
  if (pieces.size() == 1)
    if (const auto size = parse_number(file.size); size && *size != 0 && pieces[0].window.length != *size)
      notes.push_back(what + ": the file has " + std::to_string(pieces[0].window.length) +
                      " bytes, the description says " + std::to_string(*size));
  disk.path = pieces[0].path;
  disk.window = pieces[0].window;
  disk.digest = pieces[0].digest;
  disk.more_pieces.assign(pieces.begin() + 1, pieces.end());
}

void set_controller(const OvfItem& item, const std::vector<OvfItem>& items, MachineDisk& disk) {
  disk.unit = static_cast<unsigned>(std::min<std::uint64_t>(parse_number(item.address_on_parent).value_or(0), 65535));
  for (const OvfItem& controller : items) {
    if (controller.instance != item.parent || item.parent.empty())
      continue;
    const auto subtype_has = [&](const char* word) { return controller.subtype.find(word) != std::string::npos; };
    if (controller.type == static_cast<unsigned>(ResourceType::ide))
      disk.controller = ControllerType::ide;
    else if (subtype_has("nvme"))
      disk.controller = ControllerType::nvme;
    else if (subtype_has("ahci") || subtype_has("sata"))
      disk.controller = ControllerType::sata; // NOLINT(bugprone-branch-clone): the order of the tests matters
    else if (subtype_has("virtioscsi") || subtype_has("virtio-scsi"))
      disk.controller = ControllerType::virtio_scsi;
    else if (subtype_has("virtio") && !subtype_has("virtualscsi"))
      disk.controller = ControllerType::virtio_blk;
    else if (subtype_has("usb") || controller.type == static_cast<unsigned>(ResourceType::usb))
      disk.controller = ControllerType::usb;
    else if (controller.type == static_cast<unsigned>(ResourceType::scsi))
      disk.controller = ControllerType::scsi;
    else if (controller.type == static_cast<unsigned>(ResourceType::other_storage))
      disk.controller = ControllerType::sata; // CIM: "other storage device", what SATA is exported as
    disk.controller_index =
        static_cast<unsigned>(std::min<std::uint64_t>(parse_number(controller.address).value_or(0), 65535));
    return;
  }
}

} // namespace

void read_disks(const std::vector<OvfItem>& items, const XmlElement& envelope, const std::string& package,
                const FindFile& find, Machine& machine) {
  const auto files = read_references(envelope);
  const auto disks = read_disk_section(envelope);
  for (const OvfItem& item : items) {
    if (item.type != static_cast<unsigned>(ResourceType::disk))
      continue;
    const std::string what = "disk " + printable(item.name.empty() ? item.instance : item.name, 80);
    if (machine.disks.size() >= max_disks)
      throw Error("DESCRIPTION_INVALID", package + " describes more than " + std::to_string(max_disks) + " disks");
    MachineDisk disk;
    set_controller(item, items, disk);
    std::string resource = item.host_resource; // "ovf:/disk/ID", "/disk/ID", "ovf:/file/ID"
    if (starts_with_nocase(resource, "ovf:"))
      resource.erase(0, 4);
    while (resource.rfind("//", 0) == 0)
      resource.erase(0, 1);
    std::string file_id;
    if (resource.rfind("/disk/", 0) == 0) {
      const auto found = disks.find(resource.substr(6));
      if (found == disks.end())
        throw Error("DESCRIPTION_INVALID", package + ": " + what + " refers to a disk that is not described",
                    printable(item.host_resource));
      if (!found->second.parent.empty())
        throw Error("DESCRIPTION_UNSUPPORTED", package + ": " + what + " is a difference to another disk",
                    "parentRef " + printable(found->second.parent, 80), "export the machine without snapshots");
      disk.capacity = capacity_of(found->second, what, machine.notes);
      disk.format = format_of(found->second.format);
      file_id = found->second.file_reference;
      if (file_id.empty()) {
        if (disk.capacity == 0)
          throw Error("DESCRIPTION_INVALID", package + ": " + what + " has neither a file nor a capacity");
        machine.notes.push_back(what + " is blank");
        machine.disks.push_back(disk);
        continue;
      }
    } else if (resource.rfind("/file/", 0) == 0) {
      file_id = resource.substr(6);
    } else {
      throw Error("DESCRIPTION_INVALID", package + ": " + what + " does not say which disk it is",
                  "HostResource " + printable(item.host_resource));
    }
    const auto file = files.find(file_id);
    if (file == files.end())
      throw Error("DESCRIPTION_INVALID", package + ": " + what + " refers to a file that is not listed",
                  printable(file_id));
    locate(file->second, what, find, disk, machine.notes);
    machine.disks.push_back(disk);
  }
  // Files that are no disk: ISO images, NVRAM.
  for (const auto& [id, disk] : disks) {
    const bool used = std::any_of(items.begin(), items.end(), [&id = id](const OvfItem& item) {
      return item.host_resource.size() > id.size() &&
             item.host_resource.compare(item.host_resource.size() - id.size() - 1, std::string::npos, "/" + id) == 0;
    });
    if (!used)
      machine.notes.push_back("disk " + printable(id, 80) + " is described but not attached: not converted");
  }
}

} // namespace kvmport
