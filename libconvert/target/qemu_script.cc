// SPDX-License-Identifier: Apache-2.0
// The script is POSIX sh (dash runs it). Arguments are built with `set --`, so that values with any byte but NUL pass
// through unchanged.
#include "libconvert/target/target.h"

#include <map>

namespace kvmport {
namespace {

/// One shell word.
std::string quoted(const std::string& value) {
  std::string out = "'";
  for (char c : value) {
    if (c == '\'')
      out += "'\\''";
    else if (c != '\0')
      out += c;
  }
  return out + "'";
}

/// A value inside a QEMU option list, where a comma is written twice.
std::string option_value(const std::string& value) {
  std::string out;
  for (char c : value)
    out += c == ',' ? std::string(",,") : std::string(1, c);
  return out;
}

/// Collects QEMU options, one `set -- "$@" …` line each.
class Script {
 public:
  void add(const std::string& option, const std::string& value) {
    text_ += "set -- \"$@\" " + option + " " + quoted(value) + "\n";
  }
  void line(const std::string& text) { text_ += text + "\n"; }
  std::string result() const { return text_; }

 private:
  std::string text_;
};

void add_firmware(Script& script, const TargetMachine& machine) {
  if (!machine.uefi)
    return;
  const FirmwareFiles firmware = firmware_files(machine.secure_boot);
  script.line("");
  script.line("# UEFI: the code is read only; the machine's own variables");
  script.add("-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + option_value(firmware.code));
  if (machine.nvram_file.empty()) {
    script.line("# (changes of the variables are dropped at the end)");
    script.add("-drive", "if=pflash,unit=1,format=raw,snapshot=on,file=" + option_value(firmware.variables));
  } else {
    script.line("nvram=" + quoted(machine.nvram_file));
    script.line("[ -e \"$nvram\" ] || cp " + quoted(firmware.variables) + " \"$nvram\"");
    script.add("-drive", "if=pflash,unit=1,format=raw,file=" + option_value(machine.nvram_file));
  }
  if (machine.secure_boot) {
    script.add("-global", "driver=cfi.pflash01,property=secure,value=on");
    script.add("-global", "ICH9-LPC.disable_s3=1");
  }
}

void add_disks(Script& script, const TargetMachine& machine, const std::map<std::size_t, unsigned>& order) {
  std::size_t sata = 0, scsi = 0;
  for (std::size_t i = 0; i < machine.disks.size(); i++) {
    const TargetDisk& disk = machine.disks[i];
    const std::string id = "disk" + std::to_string(i);
    script.add("-drive", "if=none,id=" + id + ",format=" + option_value(disk.format) +
                             ",discard=unmap,file=" + option_value(disk.file));
    std::string device = "virtio-blk-pci";
    const TargetBus bus = target_bus(machine, disk);
    if (bus == TargetBus::sata) {
      // The machine has six SATA ports; what is beyond them goes to further controllers.
      const std::size_t controller = sata / 6, port = sata % 6;
      if (port == 0 && controller > 0)
        script.add("-device", "ahci,id=sata" + std::to_string(controller));
      device =
          "ide-hd,bus=" + (controller == 0 ? "ide" : "sata" + std::to_string(controller)) + "." + std::to_string(port);
      sata++;
    } else if (bus == TargetBus::scsi) {
      if (scsi++ == 0)
        script.add("-device", "megasas,id=scsi0");
      device = "scsi-hd,bus=scsi0.0";
    }
    device += ",drive=" + id;
    if (disk.logical_sector != 512 || disk.physical_sector != 512)
      device += ",logical_block_size=" + std::to_string(disk.logical_sector) +
                ",physical_block_size=" + std::to_string(disk.physical_sector);
    if (!disk.serial.empty())
      device += ",serial=" + option_value(disk.serial.substr(0, 20));
    if (auto at = order.find(i); at != order.end())
      device += ",bootindex=" + std::to_string(at->second);
    script.add("-device", device);
  }
}

void add_nics(Script& script, const TargetMachine& machine, const std::map<std::size_t, unsigned>& order) {
  if (machine.source.nics.empty())
    script.line("set -- \"$@\" -nic none");
  for (std::size_t i = 0; i < machine.source.nics.size(); i++) {
    const MachineNic& nic = machine.source.nics[i];
    const std::string id = "net" + std::to_string(i);
    std::string device = machine.virtio_net ? "virtio-net-pci" : "e1000e";
    if (nic.connected) {
      script.add("-netdev", "user,id=" + id);
      device += ",netdev=" + id;
    }
    if (!nic.mac.empty())
      device += ",mac=" + option_value(nic.mac);
    if (auto at = order.find(i); at != order.end())
      device += ",bootindex=" + std::to_string(at->second);
    script.add("-device", device);
  }
}

void add_smbios(Script& script, const MachineSmbios& smbios) {
  using Entries = std::vector<std::pair<const char*, const std::string*>>;
  const auto add = [&](const char* type, const Entries& entries) {
    std::string value;
    for (const auto& [key, text] : entries)
      if (!text->empty())
        value += std::string(",") + key + "=" + option_value(*text);
    if (!value.empty())
      script.add("-smbios", std::string("type=") + type + value);
  };
  add("1", {{"manufacturer", &smbios.manufacturer},
            {"product", &smbios.product},
            {"version", &smbios.version},
            {"serial", &smbios.serial},
            {"sku", &smbios.sku},
            {"family", &smbios.family}});
  add("2", {{"manufacturer", &smbios.board_manufacturer},
            {"product", &smbios.board_product},
            {"version", &smbios.board_version},
            {"serial", &smbios.board_serial},
            {"asset", &smbios.board_asset}});
  add("3", {{"manufacturer", &smbios.chassis_manufacturer},
            {"version", &smbios.chassis_version},
            {"serial", &smbios.chassis_serial},
            {"asset", &smbios.chassis_asset},
            {"sku", &smbios.chassis_sku}});
}

void add_tpm(Script& script, const TargetMachine& machine) {
  if (!machine.source.tpm)
    return;
  script.line("");
  script.line("# TPM 2.0, emulated by swtpm");
  script.line("if command -v swtpm >/dev/null 2>&1; then");
  script.line("  tpm=$(dirname -- \"$0\")/" + safe_name(machine.source.name) + ".tpm");
  script.line("  mkdir -p -- \"$tpm\"");
  script.line(
      "  swtpm socket --tpm2 --daemon --terminate --tpmstate \"dir=$tpm\" --ctrl \"type=unixio,path=$tpm/socket\"");
  script.line("  set -- \"$@\" -chardev \"socket,id=tpm,path=$(printf '%s' \"$tpm\" | sed 's/,/,,/g')/socket\" "
              "-tpmdev emulator,id=tpm0,chardev=tpm -device tpm-crb,tpmdev=tpm0");
  script.line("else");
  script.line("  echo \"$0: swtpm is not installed: the machine starts without its TPM\" >&2");
  script.line("fi");
}

} // namespace

std::string qemu_script(const TargetMachine& machine) {
  const Machine& source = machine.source;
  std::map<std::size_t, unsigned> disk_order, nic_order;
  unsigned next = 1;
  for (const BootEntry& entry : boot_entries(machine))
    (entry.nic ? nic_order : disk_order)[entry.index] = next++;

  Script script;
  script.line("#!/bin/sh");
  script.line("# Starts the machine " + safe_name(source.name) + " with QEMU. Arguments are further QEMU options.");
  script.line("# The picture is on VNC, first free port from 5900 on; in a terminal also the serial console.");
  script.line("# QEMU_ACCEL=tcg in the environment runs it without KVM.");
  script.line("set -eu");
  script.line("accel=${QEMU_ACCEL:-}");
  script.line("[ -n \"$accel\" ] || if [ -r /dev/kvm ] && [ -w /dev/kvm ]; then accel=kvm; else accel=tcg; fi");
  script.line("if [ \"$accel\" = kvm ]; then cpu=host; else cpu=max; fi");
  script.line("extra=$#");
  script.line(std::string("set -- \"$@\" -machine \"q35,accel=$accel") +
              (machine.uefi && machine.secure_boot ? ",smm=on" : "") + "\" -cpu \"$cpu\"");
  script.add("-name", "guest=" + option_value(source.name.empty() ? safe_name({}) : source.name));
  if (!source.uuid.empty())
    script.add("-uuid", source.uuid);
  script.add("-m", std::to_string((source.memory == 0 ? fallback_memory : source.memory) / (1U << 20)) + "M");
  script.add("-smp", std::to_string(source.cpu.count()) + ",sockets=" + std::to_string(source.cpu.sockets) + ",cores=" +
                         std::to_string(source.cpu.cores) + ",threads=" + std::to_string(source.cpu.threads));
  script.add("-rtc", source.rtc_localtime ? "base=localtime,driftfix=slew" : "base=utc,driftfix=slew");
  add_smbios(script, source.smbios);
  if (!source.genid.empty())
    script.add("-device", "vmgenid,guid=" + option_value(source.genid));
  script.line("set -- \"$@\" -nodefaults -boot strict=on");
  add_firmware(script, machine);
  script.line("");
  add_disks(script, machine, disk_order);
  add_nics(script, machine, nic_order);
  script.line("");
  script.add("-vga", machine.virtio_disk ? "virtio" : "std");
  script.line("set -- \"$@\" -vnc 127.0.0.1:0,to=99");
  script.line("set -- \"$@\" -device qemu-xhci -device usb-tablet");
  script.line("set -- \"$@\" -device virtio-balloon-pci -device virtio-rng-pci");
  script.line("if [ -t 0 ]; then set -- \"$@\" -serial mon:stdio; else set -- \"$@\" -serial null; fi");
  add_tpm(script, machine);
  script.line("");
  script.line("# the user's own options last, so that they win");
  script.line("while [ \"$extra\" -gt 0 ]; do set -- \"$@\" \"$1\"; shift; extra=$((extra - 1)); done");
  script.line("exec qemu-system-x86_64 \"$@\"");
  return script.result();
}

} // namespace kvmport
