// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/pc.h"

#include "base/error.h"
#include "base/firmware_files.h"
#include "kvmboot/vmm/acpi.h"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>

namespace fs = std::filesystem;

namespace kvmport::vmm {
namespace {

constexpr std::uint64_t gib = 1ULL << 30, max_memory = 3 * gib, shadow_end = 0x100000, mib = 1U << 20;
constexpr std::size_t max_firmware = 8U << 20;
constexpr std::uint64_t pci_window_at = 0xe0000000, acpi_at = 0xe0000; // without firmware
constexpr unsigned uart_irq = 4, first_card_slot = 2, max_cards = 29;
constexpr std::chrono::milliseconds listen_round{50};
constexpr std::size_t max_told = 64;
// fw_cfg items (seabios src/fw/paravirt.h)
constexpr std::uint16_t cfg_cpus = 0x05, cfg_boot_menu = 0x0e, cfg_max_cpus = 0x0f, cfg_irq0_override = 0x8002;

template <typename T> Bytes bytes_of(std::span<const T> values) {
  const ByteSpan bytes = std::as_bytes(values);
  return {bytes.begin(), bytes.end()};
}

std::size_t rom_size(const FirmwareImages& images) {
  // Memory is never empty, also when a kernel starts without firmware.
  return std::max<std::size_t>(images.bios.size() + images.variables.size() + images.code.size(), 4096);
}

std::uint64_t ram_of(const BootSpec& spec) {
  return std::clamp<std::uint64_t>(spec.memory / mib * mib, 16 * mib, max_memory);
}

} // namespace

struct Pc::Disk {
  VirtioBlk blk;
  unsigned drivers = 0; ///< how many have taken it over
};

struct Pc::Nic {
  VirtioNet net;
  int cable;
  VirtioPci* pci = nullptr; ///< owned by the bus
};

FirmwareImages read_firmware_images(const BootSpec& spec) {
  FirmwareImages images;
  images.vga = bytes_of<char>(read_file(find_seabios({"vgabios-isavga.bin", "vgabios.bin"})));
  if (spec.linux) {
    images.linux = read_linux_images(*spec.linux);
    return images;
  }
  if (spec.firmware == Firmware::uefi) {
    const UefiImages files = find_uefi_images(false, spec.nvram);
    images.code = bytes_of<char>(read_file(files.code));
    images.variables = bytes_of<char>(read_file(files.vars));
    const auto bad = [](const Bytes& image) {
      return image.size() < Flash::block || image.size() % Flash::block != 0 || image.size() > max_firmware;
    };
    if (bad(images.code) || bad(images.variables))
      throw Error("FIRMWARE_MISSING", "the UEFI firmware's image has a size that is not known", files.code.string());
    return images;
  }
  images.bios = bytes_of<char>(read_file(find_seabios({"bios-256k.bin", "bios.bin"})));
  if (images.bios.size() != 256U << 10 && images.bios.size() != 128U << 10)
    throw Error("FIRMWARE_MISSING", "SeaBIOS's image has a size that is not known");
  return images;
}

std::string Pc::unsupported(const BootSpec& spec) {
  if (spec.firmware == Firmware::uefi && spec.secure_boot)
    return "the built-in engine has no secure boot";
  if (spec.firmware == Firmware::uefi && spec.linux)
    return "a kernel is started without UEFI";
  if (spec.disks.size() + spec.nics.size() > max_cards)
    return fmt::format("the built-in engine takes {} disks and network cards", max_cards);
  for (const BootDisk& disk : spec.disks)
    if (disk.bus != DiskBus::virtio_blk)
      return "the built-in engine has virtio disks only";
  for (const BootNic& nic : spec.nics)
    if (nic.model != "virtio")
      return "the built-in engine has virtio network cards only";
  return {};
}

Pc::Pc(const BootSpec& spec, const Supplies& supplies)
    : memory_(ram_of(spec)), rom_(rom_size(supplies.images)), vm_(supplies.kvm), fw_cfg_(memory_),
      cmos_(memory_.size(), std::max(1U, spec.cpus)), i8042_([this] { stop(End::reset); }),
      fast_reset_([this] { stop(End::reset); }), uart_([this](bool level) { vm_.set_irq(uart_irq, level); }),
      pci_([this] { stop(End::reset); }), power_([this] { stop(End::power_off); }) {
  if (const std::string why = unsupported(spec); !why.empty())
    throw Error("BOOT_UNSUPPORTED", why, {}, "use --engine qemu");
  memory_.share(VideoMemory::address, VideoMemory::size, supplies.video);
  vm_.map(0, *memory_.slice(0, memory_.size()), false);
  if (!supplies.images.linux)
    add_firmware(supplies.images);
  add_configuration(spec, supplies.images);
  add_boards();
  add_disks(spec, supplies);
  add_nics(spec, supplies.cables);
  for (unsigned i = 0; i < std::max(1U, spec.cpus); i++)
    vcpus_.push_back(std::make_unique<Vcpu>(vm_, i));
  if (supplies.images.linux)
    start_kernel(*supplies.images.linux);
}

Pc::~Pc() {
  stop(End::stopped);
  for (std::thread& thread : threads_)
    thread.join();
}

/// The code ends at 4 GiB, where the processor starts; all of SeaBIOS and the last 128 KiB of UEFI's stand below 1 MiB
/// too. UEFI's variables lie before its code, in a flash chip, as OVMF knows it.
void Pc::add_firmware(const FirmwareImages& images) {
  const bool uefi = images.bios.empty();
  const Bytes& image = uefi ? images.code : images.bios;
  const auto variables = *rom_.slice(0, images.variables.size()), code = *rom_.slice(variables.size(), image.size());
  std::ranges::copy(images.variables, variables.begin());
  std::ranges::copy(image, code.begin());
  vm_.map(4 * gib - code.size(), code, true);
  const std::size_t low = uefi ? std::min<std::size_t>(code.size(), 128U << 10) : code.size();
  std::ranges::copy(code.last(low), memory_.slice(shadow_end - low, low)->begin());
  if (!uefi)
    return;
  const std::uint64_t base = 4 * gib - code.size() - variables.size();
  const unsigned slot = vm_.map(base, variables, true);
  flash_.emplace(variables, [this, slot](bool visible) { vm_.show(slot, visible); });
  mmio_.add(base, variables.size(), *flash_);
}

void Pc::add_configuration(const BootSpec& spec, const FirmwareImages& images) {
  const std::array cpus{static_cast<std::uint16_t>(std::max(1U, spec.cpus))}, none{std::uint16_t{0}};
  const std::array<boot_e820_entry, 2> map{{{0, memory_.size(), e820_ram}, {kvm_pages_at, kvm_pages, e820_reserved}}};
  fw_cfg_.add(cfg_cpus, bytes_of<std::uint16_t>(cpus));
  fw_cfg_.add(cfg_max_cpus, bytes_of<std::uint16_t>(cpus));
  fw_cfg_.add(cfg_boot_menu, bytes_of<std::uint16_t>(none));
  fw_cfg_.add(cfg_irq0_override, Bytes(1, std::byte{1})); // see Vm's routing
  AcpiTables acpi = make_acpi({std::max(1U, spec.cpus), memory_.size()});
  fw_cfg_.add_file(acpi_tables_file, std::move(acpi.tables));
  fw_cfg_.add_file(acpi_rsdp_file, std::move(acpi.rsdp));
  fw_cfg_.add_file("etc/table-loader", std::move(acpi.loader));
  fw_cfg_.add_file("etc/e820", bytes_of<boot_e820_entry>(map));
  fw_cfg_.add_file("vgaroms/vgabios.bin", images.vga);
  std::string order;
  for (std::size_t i = 0; i < spec.disks.size(); i++)
    order += fmt::format("/pci@i0cf8/scsi@{:x}/disk@0,0\n", first_card_slot + i);
  order += "HALT"; // and nothing else
  order += '\0';
  fw_cfg_.add_file("bootorder", bytes_of<char>(order));
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

VirtioPci& Pc::add_card(VirtioDevice& device) {
  const unsigned slot = first_card_slot + cards_++;
  auto function = std::make_unique<VirtioPci>(
      device, memory_, mmio_, [this, slot](bool level) { share_irq(slot, level); },
      [this](std::uint64_t address, std::uint32_t data) { vm_.send_msi(address, data); });
  VirtioPci& card = *function;
  pci_.add(slot, 0, std::move(function));
  return card;
}

void Pc::add_disks(const BootSpec& spec, const Supplies& supplies) {
  for (std::size_t i = 0; i < spec.disks.size(); i++) {
    const BootDisk& disk = spec.disks[i];
    const auto used = [i, told = supplies.disk_used](Range range, bool write) { told(i, range, write); };
    Disk& made = disks_.emplace_back(Disk{VirtioBlk(*disk.overlay, disk.logical_sector, disk.serial, used)});
    // The firmware's driver comes first, and knows no MSI-X; the next is a kernel's.
    add_card(made.blk).on_driver_ready([this, i, &made](bool msix) {
      if ((++made.drivers > 1 || msix) && drivers_.size() < max_told)
        drivers_.push_back(fmt::format("a kernel's driver took over disk {}{}", i, msix ? " with MSI-X" : ""));
    });
  }
}

void Pc::add_nics(const BootSpec& spec, const std::vector<int>& cables) {
  for (std::size_t i = 0; i < spec.nics.size(); i++) {
    Nic& nic = nics_.emplace_back(Nic{VirtioNet(spec.nics[i].mac, cables.at(i)), cables.at(i)});
    nic.pci = &add_card(nic.net);
  }
}

/// Hands the guest the frames that come, until the machine's end.
void Pc::listen(std::vector<pollfd> cables) {
  while (!wait(std::chrono::milliseconds(0))) {
    if (::poll(cables.data(), cables.size(), static_cast<int>(listen_round.count())) <= 0)
      continue;
    const std::lock_guard lock(devices_);
    for (Nic& nic : nics_) {
      nic.net.take_frames();
      nic.pci->serve(VirtioNet::receive_queue);
    }
  }
}

/// What firmware would have done is done here.
void Pc::start_kernel(const LinuxImages& images) {
  pci_.configure(pci_window_at);
  const auto cpus = static_cast<unsigned>(vcpus_.size());
  const std::uint64_t rsdp = place_acpi(make_acpi({cpus, memory_.size()}), memory_, acpi_at);
  vcpus_.front()->start_at(load_linux(images, rsdp, memory_));
}

void Pc::share_irq(unsigned slot, bool level) {
  unsigned& raises = raises_.at(slot);
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
  std::vector<pollfd> cables;
  for (const Nic& nic : nics_)
    if (nic.cable >= 0)
      cables.push_back({nic.cable, POLLIN, 0});
  if (!cables.empty())
    threads_.emplace_back([this, cables] { listen(cables); });
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
  News news{uart_.take(), debug_.take(), std::exchange(drivers_, {}), {}};
  for (const Disk& disk : disks_)
    if (news.disk_failure.empty())
      news.disk_failure = disk.blk.failure();
  return news;
}

unsigned Pc::screen_start() const {
  const std::lock_guard lock(devices_);
  return vga_.screen_start();
}

void Pc::type(std::string_view text) {
  const std::lock_guard lock(devices_);
  uart_.type(text);
}

} // namespace kvmport::vmm
