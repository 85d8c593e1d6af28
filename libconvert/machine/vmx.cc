// SPDX-License-Identifier: Apache-2.0
// VMware's VMX: lines `key = "value"`, keys in any case, bytes escaped as |HH, encoding named in the file. VMware
// publishes no specification; libvirt's src/vmx/vmx.c and VMware's knowledge base are what readers agree on.
#include "libconvert/machine/limits.h"
#include "libconvert/machine/paths.h"
#include "libconvert/machine/vmware_pci.h"
#include "libconvert/machine/vmx_file.h"

#include <algorithm>
#include <cstdio>
#include <set>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

[[noreturn]] void suspended(const fs::path& path, const std::string& why) {
  throw Error("SOURCE_SUSPENDED", path.string() + ": the machine is suspended", why,
              "resume it, shut it down, then try again");
}

/// Workstation locks with a directory NAME.lck that holds a file per owner, ESXi with a file NAME.lck.
void check_lock(const fs::path& locked) {
  const fs::path lock = locked.string() + ".lck";
  std::error_code error;
  const fs::file_status status = fs::status(lock, error);
  bool live = false;
  if (fs::is_directory(status))
    live = fs::directory_iterator(lock, error) != fs::directory_iterator();
  else if (fs::is_regular_file(status))
    live = fs::file_size(lock, error) > 0;
  if (live)
    throw Error("SOURCE_RUNNING", locked.string() + " is in use: VMware has locked it", "there is " + lock.string(),
                "shut the machine down; remove the lock if its owner crashed");
}

void check_state(const fs::path& path, const VmxFile& vmx) {
  check_lock(path);
  if (const std::string state = vmx.text("checkpoint.vmstate"); !state.empty())
    suspended(path, "checkpoint.vmState = " + printable(state));
  const std::string stem = path.stem().string();
  std::error_code error;
  for (const char* extension : {".vmss", ".vmem"}) {
    const fs::path file = path.parent_path() / (stem + extension);
    if (fs::exists(file, error))
      suspended(path, "there is " + file.string());
  }
  // ESXi: STEM-0123abcd.vmss and .vmem; memory of snapshots is called STEM-SnapshotN.vmem and is no harm.
  const fs::path home = path.parent_path().empty() ? fs::path(".") : path.parent_path();
  for (const fs::directory_entry& entry : fs::directory_iterator(home, error)) {
    const std::string name = entry.path().filename().string();
    const std::string extension = entry.path().extension().string();
    if ((extension != ".vmss" && extension != ".vmem") || name.rfind(stem + "-", 0) != 0)
      continue;
    const std::string middle = entry.path().stem().string().substr(stem.size() + 1);
    if (middle.size() == 8 && middle.find_first_not_of("0123456789abcdef") == std::string::npos)
      suspended(path, "there is " + entry.path().string());
  }
}

ControllerType controller_type(const std::string& bus) {
  if (bus == "ide")
    return ControllerType::ide;
  if (bus == "sata")
    return ControllerType::sata;
  if (bus == "nvme")
    return ControllerType::nvme;
  return ControllerType::scsi;
}

/// A drive, "scsi0:1"; empty when it is no hard disk (then a note is made, unless nothing is plugged in).
std::optional<MachineDisk> read_drive(const fs::path& path, const VmxFile& vmx, const VmxDrive& drive,
                                      const ReadOptions& options, std::vector<std::string>& notes) {
  const std::string key = drive.key();
  const std::string file = vmx.text(key + ".filename");
  const std::string type = lower(vmx.text(key + ".devicetype"));
  // Old files have no "present" for IDE drives: their file name tells.
  if (!vmx.flag(key + ".present").value_or(drive.bus == "ide" && !file.empty()))
    return std::nullopt;
  if (vmx.flag(drive.bus + std::to_string(drive.controller) + ".present") == false) {
    notes.push_back(key + " dropped: its controller is not present");
    return std::nullopt;
  }
  const bool iso = file.size() > 4 && lower(file.substr(file.size() - 4)) == ".iso";
  if (type.find("cdrom") != std::string::npos || iso) {
    notes.push_back("CD/DVD drive dropped: " + key);
    return std::nullopt;
  }
  const bool hard_disk = type.empty() || type == "disk" || type.find("harddisk") != std::string::npos;
  if (!hard_disk) {
    notes.push_back("device of the host dropped: " + key + " (" + printable(type, 80) + ")");
    return std::nullopt;
  }
  if (file.empty() || lower(file) == "emptybackingstring" || vmx.flag(key + ".clientdevice").value_or(false)) {
    notes.push_back("empty drive dropped: " + key);
    return std::nullopt;
  }
  MachineDisk disk;
  disk.path = resolve_file(path, file, "disk " + key, options, notes);
  disk.controller = controller_type(drive.bus);
  if (disk.controller == ControllerType::scsi &&
      lower(vmx.text(drive.bus + std::to_string(drive.controller) + ".virtualdev")) == "virtio")
    disk.controller = ControllerType::virtio_scsi;
  disk.controller_index = drive.controller;
  disk.unit = drive.unit;
  if (lower(vmx.text(key + ".mode")) == "independent-nonpersistent")
    notes.push_back(key + " is nonpersistent: what the machine wrote since it was started is not in it");
  if (!vmx.text(key + ".redo").empty())
    notes.push_back(key + " has a redo log (" + printable(vmx.text(key + ".redo"), 80) + "), which is not read");
  check_lock(disk.path);
  return disk;
}

/// bios.hddOrder = "scsi0:0,ide0:0": which disk boots first.
void set_boot_order(const VmxFile& vmx, Machine& machine, const std::vector<std::string>& keys) {
  std::string order = lower(vmx.text("bios.hddorder"));
  unsigned next = 1;
  for (std::size_t at = 0; at < order.size();) {
    const std::size_t end = std::min(order.find(',', at), order.size());
    const std::string key(trimmed(std::string_view(order).substr(at, end - at)));
    for (std::size_t i = 0; i < keys.size(); i++)
      if (keys[i] == key && !machine.disks[i].boot_order)
        machine.disks[i].boot_order = next++;
    at = end + 1;
  }
}

void read_disks(const fs::path& path, const VmxFile& vmx, const ReadOptions& options, Machine& machine) {
  std::vector<std::string> keys;
  for (const VmxDrive& drive : vmx.drives()) {
    if (machine.disks.size() >= max_disks)
      throw Error("DESCRIPTION_INVALID", path.string() + " describes too many disks");
    if (auto disk = read_drive(path, vmx, drive, options, machine.notes)) {
      machine.disks.push_back(*disk);
      keys.push_back(drive.key());
    }
  }
  set_boot_order(vmx, machine, keys);
  for (unsigned i = 0; i < 2; i++) {
    const std::string key = "floppy" + std::to_string(i);
    if (vmx.flag(key + ".present").value_or(false))
      machine.notes.push_back("floppy drive dropped: " + key);
  }
}

void read_cards(const VmxFile& vmx, Machine& machine) {
  for (unsigned number : vmx.numbers("ethernet")) {
    const std::string key = "ethernet" + std::to_string(number);
    if (!vmx.flag(key + ".present").value_or(false))
      continue;
    MachineNic nic;
    const std::string generated = vmx.text(key + ".generatedaddress"), fixed = vmx.text(key + ".address");
    const bool is_static = lower(vmx.text(key + ".addresstype")) == "static";
    nic.mac = parse_mac(is_static || generated.empty() ? fixed : generated).value_or("");
    nic.network = vmx.text(key + ".networkname");
    for (const char* other : {".dvs.portgroupid", ".vnet", ".connectiontype"})
      if (nic.network.empty())
        nic.network = vmx.text(key + other);
    nic.model = lower(vmx.text(key + ".virtualdev"));
    nic.connected = vmx.flag(key + ".startconnected").value_or(true);
    if (const auto slot = parse_number(vmx.text(key + ".pcislotnumber")))
      set_vmware_slot(nic, *slot);
    machine.nics.push_back(nic);
  }
}

/// vm.genid and vm.genidX hold the halves of the generation ID as signed numbers.
std::string generation_id(const VmxFile& vmx) {
  const auto half = [&](const char* key) -> std::optional<std::uint64_t> {
    const std::string text = vmx.text(key);
    const bool negative = !text.empty() && text.front() == '-';
    const auto number = parse_number(negative ? std::string_view(text).substr(1) : std::string_view(text));
    if (!number)
      return std::nullopt;
    return negative ? ~*number + 1 : *number;
  };
  const auto first = half("vm.genid"), second = half("vm.genidx");
  if (!first || !second)
    return "";
  char text[40];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(*first),
                static_cast<unsigned long long>(*second));
  return parse_uuid(text).value_or("");
}

void note_dropped(const VmxFile& vmx, Machine& machine) {
  static constexpr std::pair<const char*, const char*> devices[] = {{"sound", "sound card"},
                                                                    {"serial0", "serial port"},
                                                                    {"serial1", "serial port"},
                                                                    {"parallel0", "parallel port"},
                                                                    {"pcipassthru0", "passed-through PCI device"},
                                                                    {"usb_xhci", ""},
                                                                    {"sharedfolder0", "shared folder"}};
  for (const auto& [key, name] : devices)
    if (*name != '\0' && vmx.flag(std::string(key) + ".present").value_or(false))
      machine.notes.push_back(std::string(name) + " dropped: " + key);
  if (const std::string nvram = vmx.text("nvram"); !nvram.empty() && machine.firmware == MachineFirmware::uefi)
    machine.notes.push_back("VMware's UEFI variables (" + printable(nvram, 80) + ") are not carried over");
}

} // namespace

Machine read_vmx(const fs::path& path, const ReadOptions& options) {
  Machine machine;
  machine.source_type = "vmx";
  const VmxFile vmx = VmxFile::read(path, machine.notes);
  for (const char* key : {"encryption.keysafe", "encryption.data"})
    if (vmx.has(key))
      throw Error("DESCRIPTION_UNSUPPORTED", path.string() + ": the machine is encrypted", key,
                  "remove the encryption in VMware, then try again");
  check_state(path, vmx);
  machine.name = vmx.text("displayname");
  if (machine.name.empty())
    machine.name = path.stem().string();
  machine.description = vmx.text("annotation");
  machine.uuid = parse_uuid(vmx.text("uuid.bios")).value_or("");
  machine.genid = generation_id(vmx);
  machine.os_hint = vmx.text("guestos");
  std::optional<std::uint64_t> memory;
  if (const std::string text = vmx.text("memsize"); !text.empty()) {
    const auto mebibytes = parse_number(text);
    memory = mebibytes ? multiplied(*mebibytes, 1U << 20) : std::nullopt;
    if (!memory)
      throw Error("DESCRIPTION_INVALID", path.string() + ": memsize is not understood", printable(text, 80));
  }
  machine.memory = checked_memory(memory, path.string());
  const auto count = [&](const char* key) {
    const std::string text = vmx.text(key);
    const auto number = text.empty() ? std::optional<std::uint64_t>(1) : parse_number(text);
    if (!number)
      throw Error("DESCRIPTION_INVALID", path.string() + ": " + key + " is not a number", printable(text, 80));
    return *number;
  };
  machine.cpu = checked_cpu(count("numvcpus"), count("cpuid.corespersocket"), 1, path.string(), machine.notes);
  const std::string firmware = lower(vmx.text("firmware"));
  machine.firmware = firmware == "efi" ? MachineFirmware::uefi : MachineFirmware::bios;
  machine.secure_boot = vmx.flag("uefi.secureboot.enabled").value_or(false);
  const std::string difference = vmx.text("rtc.difffromutc");
  machine.rtc_localtime = !difference.empty() && difference != "0";
  machine.tpm = vmx.flag("vtpm.present").value_or(false) || !vmx.text("managedvm.autoaddvtpm").empty();
  machine.graphics = MachineGraphics{vmx.flag("remotedisplay.vnc.enabled").value_or(false) ? "vnc" : "none", "vmvga"};
  read_disks(path, vmx, options, machine);
  read_cards(vmx, machine);
  note_dropped(vmx, machine);
  name_source_disks(machine);
  return machine;
}

} // namespace kvmport
