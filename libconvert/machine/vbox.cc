// SPDX-License-Identifier: Apache-2.0
// VirtualBox's machine settings (src/VBox/Main/xml/VirtualBox-settings.xsd, versions 1.12 to 1.19): the current state
// is what <Machine> holds itself; snapshots stand in nested <Snapshot> elements and matter only as parents of its
// disks.
#include "libconvert/machine/limits.h"
#include "libconvert/machine/paths.h"
#include "libconvert/machine/vbox_settings.h"

#include <map>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

/// A registered hard disk; children of the tree are differences to their parent.
struct RegisteredDisk {
  std::string location, format, parent; ///< parent: its uuid, "" for a base
};
using Registry = std::map<std::string, RegisteredDisk>;

void collect_disks(const XmlElement* from, const std::string& parent, Registry& registry) {
  for (const XmlElement* e : children(from, "HardDisk")) {
    const std::string uuid = parse_uuid(attribute(e, "uuid")).value_or("");
    if (!uuid.empty())
      registry[uuid] = {attribute(e, "location"), lower(attribute(e, "format")), parent};
    collect_disks(e, uuid, registry);
  }
}

std::string format_of(const std::string& vbox) {
  if (vbox == "vdi" || vbox == "vmdk" || vbox == "vhd" || vbox == "vhdx" || vbox == "raw")
    return vbox;
  return "";
}

std::optional<ControllerType> controller_type(const std::string& type) {
  static const std::map<std::string, ControllerType> types = {
      {"piix3", ControllerType::ide},        {"piix4", ControllerType::ide},
      {"ich6", ControllerType::ide},         {"ahci", ControllerType::sata},
      {"lsilogic", ControllerType::scsi},    {"buslogic", ControllerType::scsi},
      {"lsilogicsas", ControllerType::scsi}, {"nvme", ControllerType::nvme},
      {"usb", ControllerType::usb},          {"virtioscsi", ControllerType::virtio_scsi}};
  const auto found = types.find(lower(type));
  return found == types.end() ? std::nullopt : std::optional(found->second);
}

/// Where a registered disk lies; an absolute path of the machine's old place means the same file beside the settings or
/// in their Snapshots folder.
fs::path find_disk(const fs::path& path, const RegisteredDisk& disk, const std::string& what,
                   const ReadOptions& options, std::vector<std::string>& notes) {
  try {
    return resolve_file(path, disk.location, what, options, notes);
  } catch (const Error& error) {
    const std::string name = disk.location.substr(disk.location.find_last_of("/\\") + 1);
    const fs::path snapshot = fs::absolute(path).parent_path() / "Snapshots" / name;
    std::error_code ignored;
    if ((error.code() != "PATH_NOT_ALLOWED" && error.code() != "DISK_MISSING") || name.empty() ||
        !fs::exists(snapshot, ignored))
      throw;
    return resolve_file(path, "Snapshots/" + name, what, options, notes);
  }
}

/// Every parent of the attached difference must be there.
void check_parents(const fs::path& path, const Registry& registry, const RegisteredDisk& disk, const std::string& what,
                   const ReadOptions& options, std::vector<std::string>& notes) {
  std::string parent = disk.parent;
  for (std::size_t depth = 0; !parent.empty() && depth <= registry.size(); depth++) {
    const RegisteredDisk& base = registry.at(parent);
    try {
      find_disk(path, base, "parent of " + what, options, notes);
    } catch (const Error& error) {
      if (error.code() != "DISK_MISSING" && error.code() != "PATH_NOT_ALLOWED")
        throw;
      throw Error("SNAPSHOT_CHAIN_INCOMPLETE", "the snapshot chain of " + what + " is incomplete: " + error.summary(),
                  error.why(), "copy all files of the machine, its Snapshots folder and base disks included");
    }
    parent = base.parent;
  }
}

void read_attached(const fs::path& path, const XmlElement& device, const Registry& registry, const std::string& name,
                   ControllerType type, unsigned controller, const ReadOptions& options, Machine& machine) {
  const std::string kind = attribute(&device, "type");
  const auto port = parse_number(attribute(&device, "port")).value_or(0);
  const auto slot = parse_number(attribute(&device, "device")).value_or(0);
  const std::string what = printable(name, 60) + " port " + std::to_string(port) + " device " + std::to_string(slot);
  if (kind != "HardDisk") {
    machine.notes.push_back((kind == "DVD"      ? "CD/DVD drive"
                             : kind == "Floppy" ? "floppy drive"
                                                : "device " + printable(kind, 40)) +
                            std::string(" dropped: ") + what);
    return;
  }
  if (machine.disks.size() >= max_disks)
    throw Error("DESCRIPTION_INVALID", path.string() + " describes too many disks");
  const std::string uuid = parse_uuid(attribute(child(&device, "Image"), "uuid")).value_or("");
  const auto registered = registry.find(uuid);
  if (registered == registry.end())
    throw Error("DISK_MISSING",
                path.string() + ": the disk at " + what + " is not registered in the machine's settings",
                "uuid " + uuid, "export the machine as an OVA, or give the disk image itself");
  MachineDisk disk;
  disk.path = find_disk(path, registered->second, "disk at " + what, options, machine.notes);
  check_parents(path, registry, registered->second, "the disk at " + what, options, machine.notes);
  disk.format = format_of(registered->second.format);
  disk.controller = type;
  disk.controller_index = controller;
  disk.unit =
      static_cast<unsigned>(std::min<std::uint64_t>(type == ControllerType::ide ? port * 2 + slot : port, 65535));
  machine.disks.push_back(disk);
}

void read_storage(const fs::path& path, const XmlElement& element, const Registry& registry, const ReadOptions& options,
                  Machine& machine) {
  const XmlElement* controllers = child(&element, "StorageControllers");
  if (controllers == nullptr) // settings version 1.19: below Hardware
    controllers = descend(&element, {"Hardware", "StorageControllers"});
  std::map<ControllerType, unsigned> counts;
  for (const XmlElement* controller : children(controllers, "StorageController")) {
    const auto type = controller_type(attribute(controller, "type"));
    const unsigned index = counts[type.value_or(ControllerType::unknown)]++;
    for (const XmlElement* device : children(controller, "AttachedDevice"))
      read_attached(path, *device, registry, attribute(controller, "name"), type.value_or(ControllerType::unknown),
                    index, options, machine);
  }
}

/// <Boot><Order position="1" device="HardDisk"/>: VirtualBox boots the first disk; a card that stands before it is
/// kept.
void read_boot_order(const XmlElement* hardware, Machine& machine) {
  unsigned disk = 0, network = 0;
  for (const XmlElement* order : children(child(hardware, "Boot"), "Order")) {
    const auto position =
        static_cast<unsigned>(std::min<std::uint64_t>(parse_number(attribute(order, "position")).value_or(0), 1000));
    if (attribute(order, "device") == "HardDisk")
      disk = position;
    else if (attribute(order, "device") == "Network")
      network = position;
  }
  if (disk > 0 && !machine.disks.empty())
    machine.disks.front().boot_order = disk;
  if (network > 0 && !machine.nics.empty())
    machine.nics.front().boot_order = network;
}

void check_state(const fs::path& path, const XmlElement& element) {
  const std::string state = attribute(&element, "stateFile"), name = attribute(&element, "state");
  if (!state.empty() || name == "Saved" || name == "AbortedSaved")
    throw Error("SOURCE_SUSPENDED", path.string() + ": the machine's state is saved",
                state.empty() ? "state " + name : "stateFile " + printable(state),
                "start it, shut it down, then try again");
}

} // namespace

Machine read_vbox(const fs::path& path, const ReadOptions& options) {
  const auto document = parse_xml(read_file(path, max_description), path.string());
  const XmlElement* root = document->RootElement();
  const XmlElement* element = child(root, "Machine");
  if (child(root, "MachineEncrypted") != nullptr)
    throw Error("DESCRIPTION_UNSUPPORTED", path.string() + ": the machine is encrypted", {},
                "remove the encryption in VirtualBox, then try again");
  if (local_name(*root) != "VirtualBox" || element == nullptr)
    throw Error("DESCRIPTION_INVALID", path.string() + " is not a VirtualBox machine",
                "there is no Machine element below " + printable(root->Name(), 80));
  check_state(path, *element);
  const XmlElement* hardware = child(element, "Hardware");
  Machine machine;
  machine.source_type = "vbox";
  machine.name = attribute(element, "name");
  if (machine.name.empty())
    machine.name = path.stem().string();
  machine.description = child_text(element, "Description");
  const auto mebibytes = parse_number(attribute(child(hardware, "Memory"), "RAMSize"));
  machine.memory = checked_memory(mebibytes ? multiplied(*mebibytes, 1U << 20) : std::nullopt, path.string());
  const std::string count = attribute(child(hardware, "CPU"), "count");
  machine.cpu = checked_cpu(count.empty() ? 1 : parse_number(count).value_or(0), 1, 1, path.string(), machine.notes);
  read_vbox_platform(*element, machine);
  machine.nics = read_vbox_adapters(hardware);
  Registry registry;
  collect_disks(descend(element, {"MediaRegistry", "HardDisks"}), "", registry);
  read_storage(path, *element, registry, options, machine);
  sort_disks(machine);
  read_boot_order(hardware, machine);
  if (child(element, "Snapshot") != nullptr)
    machine.notes.push_back("the machine has snapshots: its current state is converted");
  for (const XmlElement* folder : children(child(hardware, "SharedFolders"), "SharedFolder"))
    machine.notes.push_back("shared folder dropped: " + printable(attribute(folder, "name"), 80));
  name_source_disks(machine);
  return machine;
}

} // namespace kvmport
