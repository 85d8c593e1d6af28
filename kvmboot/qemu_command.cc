// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/qemu_command.h"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace fs = std::filesystem;
using nlohmann::json;

namespace kvmport {
namespace {

Error unsupported(const std::string& what) {
  return Error("BOOT_UNSUPPORTED", what, {}, "try another --bus, or fewer disks");
}

bool has_bus(const BootSpec& spec, DiskBus bus) {
  return std::any_of(spec.disks.begin(), spec.disks.end(), [&](const auto& d) { return d.bus == bus; });
}

using Words = std::vector<std::string>;

void add(Words& command, std::initializer_list<std::string> words) {
  command.insert(command.end(), words);
}
/// An option whose value is JSON, so that no path or serial number can be taken for an option.
void add(Words& command, const char* option, const json& value) {
  add(command, {option, value.dump()});
}

std::string machine_option(const BootSpec& spec) {
  // Without SMM: the text screen's ISA card can't live beside it on q35 (both want 0xA0000). Secure boot needs it.
  std::string machine = has_bus(spec, DiskBus::ide) ? "pc" : "q35";
  machine += spec.firmware == Firmware::uefi && spec.secure_boot ? ",smm=on" : ",smm=off";
  machine += ",hpet=off,usb=off,vmport=off,dump-guest-core=off"; // the HPET is slow, and no guest needs it
  if (spec.firmware == Firmware::uefi)
    machine += ",pflash0=uefi-code,pflash1=uefi-vars";
  return machine;
}

void add_uefi(Words& command, const BootSpec& spec, const QemuSetup& setup) {
  const auto file = [](const char* node, const fs::path& path, bool read_only) {
    return json{{"driver", "raw"},
                {"node-name", node},
                {"read-only", read_only},
                {"file", {{"driver", "file"}, {"filename", path.string()}, {"read-only", read_only}}}};
  };
  add(command, "-blockdev", file("uefi-code", setup.uefi_code, true));
  add(command, "-blockdev", file("uefi-vars", setup.uefi_vars, false));
  if (spec.secure_boot)
    add(command, {"-global", "driver=cfi.pflash01,property=secure,value=on"});
}

/// Hands out places on the buses, and makes their controllers.
class DiskPlaces {
 public:
  DiskPlaces(Words& command, bool ide_machine) : command_(command), ide_machine_(ide_machine) {}

  json device(const BootDisk& disk) {
    struct Bus {
      const char* name;
      std::size_t places;
    };
    static constexpr std::array<Bus, 4> buses{{{"virtio", 20}, {"SCSI", 255}, {"SATA", 6}, {"IDE", 4}}}; // by DiskBus
    const Bus& bus = buses.at(static_cast<std::size_t>(disk.bus));
    const std::size_t place = taken_.at(static_cast<std::size_t>(disk.bus))++;
    if (place >= bus.places)
      throw unsupported(fmt::format("more than {} disks on the {} bus", bus.places, bus.name));
    switch (disk.bus) {
    case DiskBus::virtio_scsi:
      if (place == 0)
        add(command_, "-device", json{{"driver", "virtio-scsi-pci"}, {"id", "scsi"}, {"disable-legacy", "on"}});
      return {{"driver", "scsi-hd"}, {"bus", "scsi.0"}, {"scsi-id", place}};
    case DiskBus::sata:
      if (place == 0 && ide_machine_)
        add(command_, "-device", json{{"driver", "ich9-ahci"}, {"id", "ahci"}});
      return {{"driver", "ide-hd"}, {"bus", (ide_machine_ ? "ahci." : "ide.") + std::to_string(place)}};
    case DiskBus::ide:
      return {{"driver", "ide-hd"}, {"bus", "ide." + std::to_string(place / 2)}, {"unit", place % 2}};
    default:
      return {{"driver", "virtio-blk-pci"}, {"disable-legacy", "on"}};
    }
  }

 private:
  Words& command_;
  bool ide_machine_;
  std::array<std::size_t, 4> taken_{}; ///< by DiskBus
};

void add_disks(Words& command, const BootSpec& spec, const QemuSetup& setup) {
  DiskPlaces places(command, has_bus(spec, DiskBus::ide));
  for (std::size_t n = 0; n < spec.disks.size(); n++) {
    const BootDisk& disk = spec.disks[n];
    const std::string node = "disk" + std::to_string(n);
    // Flushes would only make a throw-away overlay durable.
    add(command, "-blockdev",
        json{{"driver", "nbd"},
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
    add(command, "-device", device);
  }
}

void add_nics(Words& command, const BootSpec& spec, const QemuSetup& setup) {
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
      add(command, "-netdev", json{{"type", "dgram"}, {"id", id}, {"local", {{"type", "fd"}, {"str", fd}}}});
      device["netdev"] = id;
    }
    add(command, "-device", device);
  }
}

void add_consoles(Words& command, const BootSpec& spec, const QemuSetup& setup) {
  const auto chardev = [&](const char* id, int fd) {
    add(command, {"-chardev", std::string("socket,id=") + id + ",fd=" + std::to_string(fd)});
  };
  chardev("qmp", setup.qmp_fd);
  add(command, {"-mon", "chardev=qmp,mode=control"});
  chardev("serial", setup.serial_fd);
  add(command, {"-serial", "chardev:serial"});
  chardev("debug", setup.debug_fd);
  add(command, {"-device", "isa-debugcon,iobase=0x402,chardev=debug"});
  // No kernel driver turns the ISA card into a framebuffer, so its text can be read to the end. UEFI knows only the PCI
  // one.
  add(command, {"-device", spec.firmware == Firmware::uefi ? "VGA" : "isa-vga"});
}

} // namespace

std::vector<std::string> qemu_command(const BootSpec& spec, const QemuSetup& setup) {
  Words command;
  add(command, {"qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-shutdown"});
  add(command, {"-name", "kvm-boot", "-boot", "menu=off,strict=on"});
  add(command, {"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"});
  add(command, {"-machine", machine_option(spec)});
  if (setup.kvm)
    add(command, {"-accel", "kvm", "-cpu", "host"});
  else // everything that TCG knows, so that no guest misses a feature; 5-level paging only costs
    add(command, {"-accel", "tcg", "-cpu", "max,la57=off"});
  add(command, {"-smp", std::to_string(std::max(1U, spec.cpus))});
  add(command, {"-m", std::to_string(std::max<std::uint64_t>(1, spec.memory >> 20)) + "M"});
  add(command, {"-rtc", "base=utc,driftfix=none", "-nic", "none"});
  if (spec.firmware == Firmware::uefi)
    add_uefi(command, spec, setup);
  if (spec.linux) {
    add(command, {"-kernel", spec.linux->kernel.string(), "-append", spec.linux->command_line});
    if (!spec.linux->initrd.empty())
      add(command, {"-initrd", spec.linux->initrd.string()});
  }
  add_consoles(command, spec, setup);
  add(command, {"-object", "rng-random,id=rng,filename=/dev/urandom", "-device",
                "virtio-rng-pci,rng=rng,disable-legacy=on,max-bytes=65536,period=1000"});
  add_disks(command, spec, setup);
  add_nics(command, spec, setup);
  return command;
}

} // namespace kvmport
