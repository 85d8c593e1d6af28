// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/qemu_command.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

namespace fs = std::filesystem;
using nlohmann::json;

namespace kvmport {
namespace {

constexpr std::size_t ide_places = 4, sata_places = 6, scsi_places = 255, virtio_places = 20;

Error unsupported(const std::string& what) {
  return Error("BOOT_UNSUPPORTED", what, {}, "try another --bus, or fewer disks");
}

bool has_bus(const BootSpec& spec, DiskBus bus) {
  return std::any_of(spec.disks.begin(), spec.disks.end(), [&](const auto& d) { return d.bus == bus; });
}

/// Builds the vector: plain options, and options whose value is JSON (so that no path or serial number can be taken for
/// an option).
class Command {
 public:
  void add(std::initializer_list<std::string> words) { argv_.insert(argv_.end(), words); }
  void add(const char* option, const json& value) { add({option, value.dump()}); }
  std::vector<std::string> take() { return std::move(argv_); }

 private:
  std::vector<std::string> argv_;
};

std::string machine_option(const BootSpec& spec) {
  // Without SMM: the text screen's ISA card can't live beside it on q35 (both want 0xA0000). Secure boot needs it.
  std::string machine = has_bus(spec, DiskBus::ide) ? "pc" : "q35";
  machine += spec.firmware == Firmware::uefi && spec.secure_boot ? ",smm=on" : ",smm=off";
  machine += ",hpet=off,usb=off,vmport=off,dump-guest-core=off"; // the HPET is slow, and no guest needs it
  if (spec.firmware == Firmware::uefi)
    machine += ",pflash0=uefi-code,pflash1=uefi-vars";
  return machine;
}

void add_uefi(Command& command, const BootSpec& spec, const QemuSetup& setup) {
  const auto file = [](const char* node, const fs::path& path, bool read_only) {
    return json{{"driver", "raw"},
                {"node-name", node},
                {"read-only", read_only},
                {"file", {{"driver", "file"}, {"filename", path.string()}, {"read-only", read_only}}}};
  };
  command.add("-blockdev", file("uefi-code", setup.uefi_code, true));
  command.add("-blockdev", file("uefi-vars", setup.uefi_vars, false));
  if (spec.secure_boot)
    command.add({"-global", "driver=cfi.pflash01,property=secure,value=on"});
}

/// Hands out places on the buses, and makes their controllers.
class DiskPlaces {
 public:
  DiskPlaces(Command& command, bool ide_machine) : command_(command), ide_machine_(ide_machine) {}

  json device(const BootDisk& disk) {
    switch (disk.bus) {
    case DiskBus::virtio_blk:
      claim(virtio_, virtio_places, "virtio");
      return {{"driver", "virtio-blk-pci"}, {"disable-legacy", "on"}};
    case DiskBus::virtio_scsi: {
      if (scsi_ == 0)
        command_.add("-device", json{{"driver", "virtio-scsi-pci"}, {"id", "scsi"}, {"disable-legacy", "on"}});
      const std::size_t id = claim(scsi_, scsi_places, "SCSI");
      return {{"driver", "scsi-hd"}, {"bus", "scsi.0"}, {"scsi-id", id}};
    }
    case DiskBus::sata: {
      if (sata_ == 0 && ide_machine_)
        command_.add("-device", json{{"driver", "ich9-ahci"}, {"id", "ahci"}});
      const std::size_t port = claim(sata_, sata_places, "SATA");
      return {{"driver", "ide-hd"}, {"bus", (ide_machine_ ? "ahci." : "ide.") + std::to_string(port)}};
    }
    case DiskBus::ide: {
      const std::size_t place = claim(ide_, ide_places, "IDE");
      return {{"driver", "ide-hd"}, {"bus", "ide." + std::to_string(place / 2)}, {"unit", place % 2}};
    }
    }
    throw unsupported("unknown disk bus");
  }

 private:
  static std::size_t claim(std::size_t& next, std::size_t places, const std::string& bus) {
    if (next >= places)
      throw unsupported("more than " + std::to_string(places) + " disks on the " + bus + " bus");
    return next++;
  }

  Command& command_;
  bool ide_machine_;
  std::size_t virtio_ = 0, scsi_ = 0, sata_ = 0, ide_ = 0;
};

void add_disks(Command& command, const BootSpec& spec, const QemuSetup& setup) {
  DiskPlaces places(command, has_bus(spec, DiskBus::ide));
  for (std::size_t n = 0; n < spec.disks.size(); n++) {
    const BootDisk& disk = spec.disks[n];
    const std::string node = "disk" + std::to_string(n);
    // Flushes would only make a throw-away overlay durable.
    command.add("-blockdev", json{{"driver", "nbd"},
                                  {"node-name", node},
                                  {"server", {{"type", "unix"}, {"path", setup.nbd_sockets.at(n).string()}}},
                                  {"discard", "unmap"},
                                  {"cache", {{"no-flush", true}}}});
    json device = places.device(disk);
    device["drive"] = node;
    device["bootindex"] = n + 1;
    device["logical_block_size"] = disk.logical_sector;
    device["physical_block_size"] = std::max<std::uint32_t>(disk.logical_sector, 512);
    if (!disk.serial.empty())
      device["serial"] = disk.serial.substr(0, 20);
    command.add("-device", device);
  }
}

void add_nics(Command& command, const BootSpec& spec, const QemuSetup& setup) {
  static constexpr std::array<std::pair<std::string_view, const char*>, 3> models{
      {{"virtio", "virtio-net-pci"}, {"e1000e", "e1000e"}, {"e1000", "e1000"}}};
  for (std::size_t n = 0; n < spec.nics.size(); n++) {
    const BootNic& nic = spec.nics[n];
    const auto* model = std::find_if(models.begin(), models.end(), [&](const auto& m) { return m.first == nic.model; });
    if (model == models.end())
      throw unsupported("unknown network card model " + nic.model);
    json device{{"driver", model->second}, {"romfile", ""}};
    if (!nic.mac.empty())
      device["mac"] = nic.mac;
    if (nic.model == "virtio")
      device["disable-legacy"] = "on";
    if (!nic.hub.empty()) {
      const std::string id = "nic" + std::to_string(n), fd = std::to_string(setup.first_nic_fd + static_cast<int>(n));
      command.add("-netdev", json{{"type", "dgram"}, {"id", id}, {"local", {{"type", "fd"}, {"str", fd}}}});
      device["netdev"] = id;
    }
    command.add("-device", device);
  }
}

void add_consoles(Command& command, const BootSpec& spec, const QemuSetup& setup) {
  const auto chardev = [&](const char* id, int fd) {
    command.add({"-chardev", std::string("socket,id=") + id + ",fd=" + std::to_string(fd)});
  };
  chardev("qmp", setup.qmp_fd);
  command.add({"-mon", "chardev=qmp,mode=control"});
  chardev("serial", setup.serial_fd);
  command.add({"-serial", "chardev:serial"});
  chardev("debug", setup.debug_fd);
  command.add({"-device", "isa-debugcon,iobase=0x402,chardev=debug"});
  // No kernel driver turns the ISA card into a framebuffer, so its text can be read to the end. UEFI knows only the PCI
  // one.
  command.add({"-device", spec.firmware == Firmware::uefi ? "VGA" : "isa-vga"});
}

} // namespace

std::vector<std::string> qemu_command(const BootSpec& spec, const QemuSetup& setup) {
  Command command;
  command.add({"qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-shutdown"});
  command.add({"-name", "kvm-boot", "-boot", "menu=off,strict=on"});
  command.add({"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"});
  command.add({"-machine", machine_option(spec)});
  if (setup.kvm)
    command.add({"-accel", "kvm", "-cpu", "host"});
  else // everything that TCG knows, so that no guest misses a feature; 5-level paging only costs
    command.add({"-accel", "tcg", "-cpu", "max,la57=off"});
  command.add({"-smp", std::to_string(std::max(1U, spec.cpus))});
  command.add({"-m", std::to_string(std::max<std::uint64_t>(1, spec.memory >> 20)) + "M"});
  command.add({"-rtc", "base=utc,driftfix=none", "-nic", "none"});
  if (spec.firmware == Firmware::uefi)
    add_uefi(command, spec, setup);
  if (spec.linux) {
    command.add({"-kernel", spec.linux->kernel.string(), "-append", spec.linux->command_line});
    if (!spec.linux->initrd.empty())
      command.add({"-initrd", spec.linux->initrd.string()});
  }
  add_consoles(command, spec, setup);
  command.add({"-object", "rng-random,id=rng,filename=/dev/urandom", "-device",
               "virtio-rng-pci,rng=rng,disable-legacy=on,max-bytes=65536,period=1000"});
  add_disks(command, spec, setup);
  add_nics(command, spec, setup);
  return command.take();
}

} // namespace kvmport
