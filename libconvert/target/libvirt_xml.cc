// SPDX-License-Identifier: Apache-2.0
// Follows libvirt's domain format, https://libvirt.org/formatdomain.html (elements in the order in which libvirt writes
// them).
#include "libconvert/machine/text.h"
#include "libconvert/target/target.h"

#include <map>
#include <string_view>
#include <tinyxml2.h>
#include <utility>

namespace kvmport {
namespace {

using Attributes = std::vector<std::pair<const char*, std::string>>;

/// Writes elements in order; every value goes through clean_utf8 and the printer's escaping.
class Writer {
 public:
  void open(const char* name, const Attributes& attributes = {}) {
    printer_.OpenElement(name);
    for (const auto& [key, value] : attributes)
      printer_.PushAttribute(key, clean_utf8(value).c_str());
  }
  void close() { printer_.CloseElement(); }
  void empty(const char* name, const Attributes& attributes = {}) {
    open(name, attributes);
    close();
  }
  void text(const char* name, const std::string& value, const Attributes& attributes = {}) {
    open(name, attributes);
    printer_.PushText(clean_utf8(value).c_str());
    close();
  }
  /// A comment may not contain "--" nor end with "-".
  void comment(const std::string& value) {
    std::string safe = " ";
    for (char c : clean_utf8(value))
      safe += c == '-' && safe.back() == '-' ? '_' : c;
    printer_.PushComment((safe + " ").c_str());
  }
  std::string result() const { return printer_.CStr(); }

 private:
  tinyxml2::XMLPrinter printer_;
};

/// What libvirt's schema and QEMU's devices accept as a serial number.
bool good_serial(const std::string& serial) {
  if (serial.empty())
    return false;
  for (char c : serial)
    if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
          std::string_view("_.+- ").find(c) != std::string_view::npos))
      return false;
  return serial.size() <= 36;
}

void write_identity(Writer& xml, const TargetMachine& machine) {
  const Machine& source = machine.source;
  const std::string name = safe_name(source.name);
  xml.text("name", name);
  if (!source.uuid.empty())
    xml.text("uuid", source.uuid);
  if (!source.genid.empty())
    xml.text("genid", source.genid);
  std::string title = source.name;
  for (char& c : title)
    if (c == '\n' || c == '\r')
      c = ' ';
  if (title != name && !title.empty())
    xml.text("title", title);
  if (!source.description.empty())
    xml.text("description", source.description);
  const std::uint64_t memory = (source.memory == 0 ? fallback_memory : source.memory) / 1024;
  xml.text("memory", std::to_string(memory), {{"unit", "KiB"}});
  xml.text("currentMemory", std::to_string(memory), {{"unit", "KiB"}});
  xml.text("vcpu", std::to_string(source.cpu.count()), {{"placement", "static"}});
}

/// formatdomain.html, "SMBIOS System Information".
void write_smbios(Writer& xml, const MachineSmbios& smbios) {
  using Entries = std::vector<std::pair<const char*, const std::string*>>;
  const auto block = [&](const char* name, const Entries& entries) {
    bool open = false;
    for (const auto& [key, value] : entries)
      if (!value->empty()) {
        if (!std::exchange(open, true))
          xml.open(name);
        xml.text("entry", *value, {{"name", key}});
      }
    if (open)
      xml.close();
  };
  xml.open("sysinfo", {{"type", "smbios"}});
  block("system", {{"manufacturer", &smbios.manufacturer},
                   {"product", &smbios.product},
                   {"version", &smbios.version},
                   {"serial", &smbios.serial},
                   {"sku", &smbios.sku},
                   {"family", &smbios.family}});
  block("baseBoard", {{"manufacturer", &smbios.board_manufacturer},
                      {"product", &smbios.board_product},
                      {"version", &smbios.board_version},
                      {"serial", &smbios.board_serial},
                      {"asset", &smbios.board_asset}});
  block("chassis", {{"manufacturer", &smbios.chassis_manufacturer},
                    {"version", &smbios.chassis_version},
                    {"serial", &smbios.chassis_serial},
                    {"asset", &smbios.chassis_asset},
                    {"sku", &smbios.chassis_sku}});
  xml.close();
}

void write_system(Writer& xml, const TargetMachine& machine) {
  const Machine& source = machine.source;
  if (!source.smbios.empty())
    write_smbios(xml, source.smbios);
  xml.open("os");
  xml.text("type", "hvm", {{"arch", "x86_64"}, {"machine", "q35"}});
  if (machine.uefi) {
    const FirmwareFiles firmware = firmware_files(machine.secure_boot);
    Attributes loader = {{"readonly", "yes"}, {"type", "pflash"}};
    if (machine.secure_boot)
      loader.insert(loader.begin() + 1, {"secure", "yes"});
    xml.text("loader", firmware.code, loader);
    if (machine.nvram_file.empty())
      xml.empty("nvram", {{"template", firmware.variables}});
    else
      xml.text("nvram", machine.nvram_file, {{"template", firmware.variables}});
  }
  if (!source.smbios.empty())
    xml.empty("smbios", {{"mode", "sysinfo"}});
  xml.close();
  xml.open("features");
  xml.empty("acpi");
  xml.empty("apic");
  if (machine.uefi && machine.secure_boot)
    xml.empty("smm", {{"state", "on"}});
  xml.close();
  xml.open("cpu", {{"mode", "host-model"}, {"check", "partial"}});
  xml.empty("topology", {{"sockets", std::to_string(source.cpu.sockets)},
                         {"cores", std::to_string(source.cpu.cores)},
                         {"threads", std::to_string(source.cpu.threads)}});
  xml.close();
  xml.open("clock", {{"offset", source.rtc_localtime ? "localtime" : "utc"}});
  xml.empty("timer", {{"name", "rtc"}, {"tickpolicy", "catchup"}});
  xml.empty("timer", {{"name", "pit"}, {"tickpolicy", "delay"}});
  xml.empty("timer", {{"name", "hpet"}, {"present", "no"}});
  xml.close();
  xml.text("on_poweroff", "destroy");
  xml.text("on_reboot", "restart");
  xml.text("on_crash", "destroy");
}

void write_disk(Writer& xml, const TargetMachine& machine, std::size_t index, unsigned boot_order) {
  const TargetDisk& disk = machine.disks[index];
  xml.open("disk", {{"type", "file"}, {"device", "disk"}});
  xml.empty("driver", {{"name", "qemu"}, {"type", disk.format}, {"discard", "unmap"}});
  xml.empty("source", {{"file", disk.file}});
  if (disk.logical_sector != 512 || disk.physical_sector != 512)
    xml.empty("blockio", {{"logical_block_size", std::to_string(disk.logical_sector)},
                          {"physical_block_size", std::to_string(disk.physical_sector)}});
  const TargetBus bus = target_bus(machine, disk);
  xml.empty("target", {{"dev", (bus == TargetBus::virtio ? "vd" : "sd") + disk_letters(static_cast<unsigned>(index))},
                       {"bus", bus == TargetBus::virtio ? "virtio"
                               : bus == TargetBus::sata ? "sata"
                                                        : "scsi"}});
  if (good_serial(disk.serial))
    xml.text("serial", disk.serial);
  if (boot_order > 0)
    xml.empty("boot", {{"order", std::to_string(boot_order)}});
  xml.close();
}

void write_nic(Writer& xml, const TargetMachine& machine, const MachineNic& nic, unsigned boot_order) {
  if (!nic.network.empty())
    xml.comment("on the source: network " + nic.network);
  xml.open("interface", {{"type", "network"}});
  if (!nic.mac.empty())
    xml.empty("mac", {{"address", nic.mac}});
  xml.empty("source", {{"network", "default"}});
  xml.empty("model", {{"type", machine.virtio_net ? "virtio" : "e1000e"}});
  if (!nic.connected)
    xml.empty("link", {{"state", "down"}});
  if (boot_order > 0)
    xml.empty("boot", {{"order", std::to_string(boot_order)}});
  xml.close();
}

void write_other_devices(Writer& xml, const TargetMachine& machine) {
  xml.empty("controller", {{"type", "usb"}, {"model", "qemu-xhci"}});
  for (const TargetDisk& disk : machine.disks)
    if (target_bus(machine, disk) == TargetBus::scsi) {
      xml.empty("controller", {{"type", "scsi"}, {"index", "0"}, {"model", "lsisas1078"}});
      break;
    }
  xml.empty("controller", {{"type", "virtio-serial"}, {"index", "0"}});
  xml.empty("serial", {{"type", "pty"}});
  xml.open("console", {{"type", "pty"}});
  xml.empty("target", {{"type", "serial"}, {"port", "0"}});
  xml.close();
  xml.open("channel", {{"type", "unix"}});
  xml.empty("target", {{"type", "virtio"}, {"name", "org.qemu.guest_agent.0"}});
  xml.close();
  xml.empty("input", {{"type", "tablet"}, {"bus", "usb"}});
  if (machine.source.tpm) {
    xml.open("tpm", {{"model", "tpm-crb"}});
    xml.empty("backend", {{"type", "emulator"}, {"version", "2.0"}});
    xml.close();
  }
  xml.open("graphics", {{"type", "vnc"}, {"port", "-1"}, {"autoport", "yes"}});
  xml.empty("listen", {{"type", "address"}, {"address", "127.0.0.1"}});
  xml.close();
  // virtio-vga is VGA compatible, so that old systems have a picture too; a system without virtio gets plain VGA.
  xml.open("video");
  xml.empty("model", {{"type", machine.virtio_disk ? "virtio" : "vga"}});
  xml.close();
  xml.empty("memballoon", {{"model", "virtio"}});
  xml.open("rng", {{"model", "virtio"}});
  xml.text("backend", "/dev/urandom", {{"model", "random"}});
  xml.close();
}

} // namespace

std::string libvirt_xml(const TargetMachine& machine) {
  std::map<std::size_t, unsigned> disk_order, nic_order;
  unsigned next = 1;
  for (const BootEntry& entry : boot_entries(machine))
    (entry.nic ? nic_order : disk_order)[entry.index] = next++;
  auto order = [](const std::map<std::size_t, unsigned>& orders, std::size_t index) {
    auto found = orders.find(index);
    return found == orders.end() ? 0U : found->second;
  };

  Writer xml;
  xml.open("domain", {{"type", "kvm"}});
  write_identity(xml, machine);
  write_system(xml, machine);
  xml.open("devices");
  for (std::size_t i = 0; i < machine.disks.size(); i++)
    write_disk(xml, machine, i, order(disk_order, i));
  for (std::size_t i = 0; i < machine.source.nics.size(); i++)
    write_nic(xml, machine, machine.source.nics[i], order(nic_order, i));
  write_other_devices(xml, machine);
  xml.close();
  xml.close();
  return xml.result();
}

} // namespace kvmport
