// SPDX-License-Identifier: Apache-2.0
// Rules for what a clone stores: disks with their serials and names on a SAN, file-backed memory, host directories.
// formatdomain.html: "Hard drives, floppy disks, CDROMs", "Filesystems", "Memory devices".
#include "libconvert/clone/description_run.h"

#include "base/error.h"
#include "libconvert/machine/text.h"

namespace kvmport {
namespace {

constexpr const char* reason_of_source = "the clone has disks of its own";

/// The clone's disk for one of the source by path or target; null when the request has none. The new path is claimed.
const ClonedDisk* mapped(DescriptionRun& run, const std::string& path, const std::string& target) {
  const auto& disks = run.request().disks;
  auto found = path.empty() ? disks.end() : disks.find(path);
  if (found == disks.end() && !target.empty())
    found = disks.find(target);
  if (found == disks.end())
    return nullptr;
  if (!run.taken().claim(Identity::path, found->second.path))
    throw Error("PATH_IN_USE", printable(found->second.path, 240) + " belongs to another machine or disk",
                "it was to be the clone's " + printable(path.empty() ? target : path, 240), "choose another file");
  if (!path.empty())
    run.remember(Identity::path, path, found->second.path);
  return &found->second;
}

[[noreturn]] void not_mapped(const DescriptionRun& run, const XmlNode& node, const std::string& what) {
  throw Error("DISK_NOT_MAPPED", what + " has no copy for the clone",
              "both machines would write it; " + run.where(node),
              "name a file for it, or make it readonly in the source's description");
}

/// A name with the characters that an iSCSI name may have (RFC 3722).
std::string iqn_part(const std::string& name) {
  std::string part = lower(name);
  for (char& c : part)
    if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.'))
      c = '-';
  return part;
}

void set_source(DescriptionRun& run, const XmlNode& disk, const XmlNode& source, const ClonedDisk& clone) {
  const std::string type = disk.attribute("type").empty() ? "file" : disk.attribute("type");
  const std::string new_type = clone.block_device ? "block" : "file", name = clone.block_device ? "dev" : "file";
  if (type != "file" && type != "block") {
    run.replace(source, "<source " + name + "='" + xml_escaped_attribute(clone.path) + "'/>", reason_of_source);
  } else {
    run.set_attribute(source, name, clone.path, reason_of_source);
    if (type != new_type)
      run.remove_attribute(source, type == "block" ? "dev" : "file", reason_of_source);
    run.remove_attribute(source, "index", "libvirt counted it in the running source");
    for (const XmlNode* slices : source.all("slices"))
      run.warn(*slices, "the part of the file that the guest sees must lie at the same place in the copy");
  }
  if (disk.find("type") != nullptr || new_type != "file")
    run.set_attribute(disk, "type", new_type, reason_of_source);
  if (disk.attribute("device") == "lun" && !clone.block_device)
    run.set_attribute(disk, "device", "disk", "a file takes no SCSI commands of the guest");
}

void set_format(DescriptionRun& run, const XmlNode& disk, const std::string& format) {
  if (format.empty())
    return;
  const std::string reason = "the copy's format";
  if (const XmlNode* driver = disk.child("driver"))
    run.set_attribute(*driver, "type", format, reason);
  else
    run.insert_child(disk, "<driver name='qemu' type='" + xml_escaped_attribute(format) + "'/>", "driver@type", format,
                     reason);
}

void clone_disk(DescriptionRun& run, const XmlNode& disk) {
  const XmlNode* source = disk.child("source");
  if (source == nullptr)
    return; // an empty drive
  const std::string path = source->attribute(source->find("dev") != nullptr ? "dev" : "file");
  const XmlNode* target_node = disk.child("target");
  const std::string target = target_node == nullptr ? "" : target_node->attribute("dev");
  const ClonedDisk* clone = mapped(run, path, target);
  if (clone == nullptr) {
    const std::string device = disk.attribute("device");
    if (disk.child("shareable") != nullptr)
      return run.warn(disk, "the disk is shareable: both machines use it");
    if (device == "cdrom" || device == "floppy" || disk.child("readonly") != nullptr ||
        disk.child("transient") != nullptr)
      return;
    not_mapped(run, disk, "disk " + printable(target.empty() ? path : target, 80));
  }
  set_source(run, disk, *source, *clone);
  set_format(run, disk, clone->format);
  for (const char* name : {"backingStore", "mirror"})
    for (const XmlNode* node : disk.all(name))
      run.remove(*node, "libvirt reads the chain of the new file from the file");
  if (disk.attribute("type") == "network")
    for (const XmlNode* auth : disk.all("auth"))
      run.remove(*auth, "the clone's disk is no network disk");
}

} // namespace

void clone_disk_sources(DescriptionRun& run) {
  for (const XmlNode* disk : run.select({"devices", "disk"}))
    clone_disk(run, *disk);
}

void clone_disk_serials(DescriptionRun& run) {
  for (const char* device : {"disk", "controller"})
    for (const XmlNode* serial : run.select({"devices", device, "serial"}))
      run.set_text(*serial, run.renewed_serial(std::string(trimmed(serial->text))),
                   "multipath and /dev/disk/by-id tell disks apart by it");
}

void clone_disk_wwns(DescriptionRun& run) {
  for (const XmlNode* wwn : run.select({"devices", "disk", "wwn"}))
    run.set_text(*wwn, run.renewed_wwn(std::string(trimmed(wwn->text))),
                 "multipath and /dev/disk/by-id tell disks apart by it");
}

void clone_iscsi(DescriptionRun& run) {
  for (const XmlNode* devices : run.select({"devices"}))
    for (const XmlNode* iqn : run.anywhere(*devices, "iqn")) {
      if (iqn->parent->name != "initiator" || iqn->attribute("name").empty())
        continue;
      const std::string old = iqn->attribute("name");
      const std::string wanted = old + (old.find(':') == std::string::npos ? ":" : "-") + iqn_part(run.request().name);
      run.set_attribute(*iqn, "name", new_by_number(run.taken(), Identity::iqn, wanted),
                        "the target takes two machines of one name for one");
      run.warn(*iqn, "the iSCSI target must let the clone's initiator name in");
    }
}

void clone_memory_devices(DescriptionRun& run) {
  for (const XmlNode* memory : run.select({"devices", "memory"})) {
    for (const XmlNode* uuid : memory->all("uuid"))
      run.set_text(*uuid, run.renewed_uuid(std::string(trimmed(uuid->text))), "UUIDs are unique");
    const XmlNode* source = memory->child("source");
    const XmlNode* path = source == nullptr ? nullptr : source->child("path");
    if (path == nullptr)
      continue;
    const std::string old(trimmed(path->text));
    if (const ClonedDisk* clone = mapped(run, old, ""))
      run.set_text(*path, clone->path, "what the guest writes there is its own");
    else
      not_mapped(run, *memory, "the memory device " + printable(old, 80));
  }
}

void clone_filesystems(DescriptionRun& run) {
  for (const XmlNode* filesystem : run.select({"devices", "filesystem"})) {
    const XmlNode* source = filesystem->child("source");
    if (source == nullptr)
      continue;
    if (const std::string socket = source->attribute("socket"); !socket.empty()) {
      const std::string path = run.renewed_path(socket);
      check_socket_path(path);
      run.set_attribute(*source, "socket", path, "a virtiofsd serves one machine");
      run.warn(*source, "a virtiofsd must be started for the clone at " + printable(path, 240));
    }
    for (const char* name : {"dir", "file", "dev"}) {
      const std::string old = source->attribute(name);
      if (old.empty())
        continue;
      if (const ClonedDisk* clone = mapped(run, old, ""))
        run.set_attribute(*source, name, clone->path, "the clone has its own");
      else if (filesystem->child("readonly") != nullptr)
        continue;
      else if (std::string_view(name) == "dir")
        run.warn(*source, "both machines can write this directory of the host");
      else
        not_mapped(run, *filesystem, "the filesystem " + printable(old, 80));
    }
  }
}

} // namespace kvmport
