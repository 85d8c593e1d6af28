// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/pc.h"

#include "base/error.h"
#include "kvmboot/qemu_console.h"
#include "kvmboot/vmm/acpi.h"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>

namespace fs = std::filesystem;

namespace kvmport::vmm {
namespace {

constexpr std::uint64_t gib = 1ULL << 30, max_memory = 3 * gib, shadow_at = 0xc0000, mib = 1U << 20;
constexpr std::uint64_t kvm_pages_at = 0xfeffc000, kvm_pages = 0x4000; // see Vm: identity map and TSS
constexpr unsigned uart_irq = 4, first_disk_slot = 2, max_disks = 29;
constexpr std::size_t max_writes_told = 64;
// fw_cfg items (seabios src/fw/paravirt.h)
constexpr std::uint16_t cfg_cpus = 0x05, cfg_boot_menu = 0x0e, cfg_max_cpus = 0x0f, cfg_irq0_override = 0x8002;

// Debian and Ubuntu; Fedora, RHEL, Arch and openSUSE keep them with QEMU.
constexpr const char* firmware_directories[] = {"/usr/share/seabios", "/usr/share/qemu"};

Bytes read_firmware(std::initializer_list<const char*> names) {
  for (const char* directory : firmware_directories)
    for (const char* name : names) {
      std::error_code error;
      const fs::path path = fs::path(directory) / name;
      if (!fs::is_regular_file(path, error))
        continue;
      const std::string text = read_file(path);
      const auto bytes = as_bytes(text);
      return {bytes.begin(), bytes.end()};
    }
  throw Error("FIRMWARE_MISSING", std::string("SeaBIOS's ") + *names.begin() + " is not installed", {},
              "install the package seabios");
}

Bytes number16(std::uint16_t value) {
  Bytes bytes(2);
  store_le<std::uint16_t>(bytes, 0, value);
  return bytes;
}

struct Region {
  std::uint64_t at, length;
  std::uint32_t type; ///< ACPI 6.4, table 15.3: 1 RAM, 2 reserved
};

Bytes e820(std::initializer_list<Region> regions) {
  Bytes table(regions.size() * 20);
  std::size_t at = 0;
  for (const Region& region : regions) {
    store_le<std::uint64_t>(table, at, region.at);
    store_le<std::uint64_t>(table, at + 8, region.length);
    store_le<std::uint32_t>(table, at + 16, region.type);
    at += 20;
  }
  return table;
}

std::uint64_t ram_of(const BootSpec& spec) {
  return std::clamp<std::uint64_t>(spec.memory / mib * mib, 16 * mib, max_memory);
}

} // namespace

struct Pc::Disk {
  VirtioBlk blk;
  unsigned raises = 0; ///< the interrupt that it raises now; 0: none
  Disk(Overlay& overlay, std::uint32_t sector, std::string serial, std::function<void(Range)> on_write)
      : blk(overlay, sector, std::move(serial), std::move(on_write)) {}
};

BiosImages read_bios_images() {
  BiosImages images{read_firmware({"bios-256k.bin", "bios.bin"}), read_firmware({"vgabios-isavga.bin", "vgabios.bin"})};
  if (images.bios.size() != 256U << 10 && images.bios.size() != 128U << 10)
    throw Error("FIRMWARE_MISSING", "SeaBIOS's image has a size that is not known");
  return images;
}

Pc::Pc(const BootSpec& spec, const BiosImages& images)
    : memory_(ram_of(spec)), bios_(images.bios.size()), fw_cfg_(memory_),
      cmos_(memory_.size(), std::max(1U, spec.cpus)), i8042_([this] { stop(End::reset); }),
      fast_reset_([this] { stop(End::reset); }), uart_([this](bool level) { vm_.set_irq(uart_irq, level); }),
      pci_([this] { stop(End::reset); }), power_([this] { stop(End::power_off); }) {
  if (spec.firmware != Firmware::bios)
    throw Error("BOOT_UNSUPPORTED", "the built-in engine boots BIOS machines only", {}, "use --engine qemu");
  vm_.map(0, *memory_.slice(0, memory_.size()), false);
  add_firmware(spec, images);
  add_boards();
  add_disks(spec);
  for (unsigned i = 0; i < std::max(1U, spec.cpus); i++)
    vcpus_.push_back(std::make_unique<Vcpu>(vm_, i));
}

Pc::~Pc() {
  stop(End::stopped);
  for (std::thread& thread : threads_)
    thread.join();
}

void Pc::add_firmware(const BootSpec& spec, const BiosImages& images) {
  // The image ends at 4 GiB, where the processor starts, and its last 256 KiB stand in the RAM below 1 MiB too.
  const auto rom = *bios_.slice(0, images.bios.size());
  std::memcpy(rom.data(), images.bios.data(), images.bios.size());
  vm_.map(4 * gib - images.bios.size(), rom, true);
  const auto shadow = *memory_.slice(shadow_at + (256U << 10) - images.bios.size(), images.bios.size());
  std::memcpy(shadow.data(), images.bios.data(), images.bios.size());

  fw_cfg_.add(cfg_cpus, number16(static_cast<std::uint16_t>(std::max(1U, spec.cpus))));
  fw_cfg_.add(cfg_max_cpus, number16(static_cast<std::uint16_t>(std::max(1U, spec.cpus))));
  fw_cfg_.add(cfg_boot_menu, number16(0));
  fw_cfg_.add(cfg_irq0_override, Bytes(1, std::byte{1})); // see Vm's routing
  AcpiTables acpi = make_acpi({std::max(1U, spec.cpus), memory_.size()});
  fw_cfg_.add_file(acpi_tables_file, std::move(acpi.tables));
  fw_cfg_.add_file(acpi_rsdp_file, std::move(acpi.rsdp));
  fw_cfg_.add_file("etc/table-loader", std::move(acpi.loader));
  fw_cfg_.add_file("etc/e820", e820({{0, memory_.size(), 1}, {kvm_pages_at, kvm_pages, 2}}));
  fw_cfg_.add_file("vgaroms/vgabios.bin", images.vga);
  std::string order;
  for (std::size_t i = 0; i < spec.disks.size(); i++)
    order += fmt::format("/pci@i0cf8/scsi@{:x}/disk@0,0\n", first_disk_slot + i);
  order += "HALT"; // and nothing else
  order += '\0';
  const auto text = as_bytes(order);
  fw_cfg_.add_file("bootorder", Bytes(text.begin(), text.end()));
}

void Pc::add_boards() {
  ports_.add(0x60, 5, i8042_); // 0x61 is the kernel's
  ports_.add(0x70, 2, cmos_);
  ports_.add(0x92, 1, fast_reset_);
  ports_.add(0x3b0, 0x30, vga_);
  ports_.add(0x3f8, 8, uart_);
  ports_.add(0x402, 1, debug_);
  ports_.add(0x510, 12, fw_cfg_);
  ports_.add(0x600, 64, power_); // where SeaBIOS puts them; versions before 1.8 took 0xB000
  ports_.add(0xb000, 64, power_);
  ports_.add(0xcf8, 8, pci_);
}

void Pc::add_disks(const BootSpec& spec) {
  if (spec.disks.size() > max_disks)
    throw Error("BOOT_UNSUPPORTED", fmt::format("the built-in engine takes {} disks", max_disks));
  for (std::size_t i = 0; i < spec.disks.size(); i++) {
    const BootDisk& disk = spec.disks[i];
    if (disk.bus != DiskBus::virtio_blk)
      throw Error("BOOT_UNSUPPORTED", "the built-in engine has virtio disks only", {}, "use --engine qemu");
    disks_.push_back(std::make_unique<Disk>(*disk.overlay, disk.logical_sector, disk.serial, [this, i](Range range) {
      if (writes_.size() < max_writes_told)
        writes_.push_back(fmt::format("{} {} {}", i, range.offset, range.length));
    }));
    const auto slot = static_cast<unsigned>(first_disk_slot + i);
    unsigned& raises = disks_.back()->raises;
    pci_.add(slot, 0,
             std::make_unique<VirtioPci>(disks_.back()->blk, memory_, mmio_,
                                         [this, slot, &raises](bool level) { share_irq(slot, raises, level); }));
  }
}

void Pc::share_irq(unsigned slot, unsigned& raises, bool level) {
  if (level == (raises != 0))
    return;
  if (level) {
    raises = pci_.interrupt_of(slot);
    if (raises != 0 && raised_.at(raises)++ == 0)
      vm_.set_irq(raises, true);
  } else {
    if (--raised_.at(raises) == 0)
      vm_.set_irq(raises, false);
    raises = 0;
  }
}

void Pc::start() {
  for (const auto& vcpu : vcpus_)
    threads_.emplace_back([this, cpu = vcpu.get()] {
      const Vcpu::End end = cpu->run(ports_, mmio_, devices_);
      if (end == Vcpu::End::failed) {
        const std::lock_guard lock(ends_);
        failure_ = cpu->failure();
      }
      if (end != Vcpu::End::stopped)
        stop(end == Vcpu::End::reset ? End::reset : End::failed);
    });
}

void Pc::stop(End end) {
  {
    const std::lock_guard lock(ends_);
    if (!end_)
      end_ = end;
  }
  ended_.notify_all();
  for (const auto& vcpu : vcpus_)
    vcpu->ask_to_stop();
}

std::optional<Pc::End> Pc::wait(std::chrono::milliseconds time) {
  std::unique_lock lock(ends_);
  ended_.wait_for(lock, time, [this] { return end_.has_value(); });
  return end_;
}

Pc::News Pc::take_news() {
  const std::lock_guard lock(devices_);
  News news{uart_.take(), debug_.take(), std::exchange(writes_, {}), 0, {}};
  for (const auto& disk : disks_) {
    news.disk_bytes += disk->blk.bytes_moved();
    if (news.disk_failure.empty())
      news.disk_failure = disk->blk.failure();
  }
  return news;
}

Bytes Pc::text_window() const {
  const auto window = *memory_.slice(vga_text_address, vga_text_size);
  return {window.begin(), window.end()};
}

void Pc::type(std::string_view text) {
  const std::lock_guard lock(devices_);
  uart_.type(text);
}

} // namespace kvmport::vmm
