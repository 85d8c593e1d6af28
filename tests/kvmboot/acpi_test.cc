// SPDX-License-Identifier: Apache-2.0
// The ACPI tables of the built-in machine: as bytes, as ACPICA's compiler reads them, as KVM's interrupts have them,
// and as SeaBIOS and a real kernel use them.
#include "base/file.h"
#include "base/process.h"
#include "kvmboot/engine_kvm.h"
#include "kvmboot/judge.h"
#include "kvmboot/probe.h"
#include "kvmboot/vmm/acpi.h"
#include "kvmboot/vmm/pci.h"
#include "kvmboot/vmm/vm.h"
#include "tests/kvmboot/boot_sector.h"
#include "tests/support/tempdir.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <linux/kvm.h>
#include <numeric>
#include <regex>
#include <sys/ioctl.h>

namespace fs = std::filesystem;

namespace kvmport::vmm {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr std::uint64_t gib = 1ULL << 30;

unsigned sum(ByteSpan bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), 0U,
                         [](unsigned a, std::byte b) { return (a + std::to_integer<unsigned>(b)) & 0xff; });
}

/// The tables, found as a kernel finds them.
class Placed {
 public:
  explicit Placed(const AcpiMachine& machine, std::uint64_t at = 0xe0000)
      : memory_(16U << 20), rsdp_at_(place_acpi(make_acpi(machine), memory_, at)) {}

  ByteSpan rsdp() const { return *memory_.slice(rsdp_at_, 36); }
  std::uint64_t rsdp_at() const { return rsdp_at_; }
  ByteSpan table(std::uint64_t at) const { return *memory_.slice(at, memory_.load<std::uint32_t>(at + 4).value()); }
  ByteSpan xsdt() const { return table(load_le<std::uint64_t>(rsdp(), 24)); }
  ByteSpan rsdt() const { return table(load_le<std::uint32_t>(rsdp(), 16)); }
  ByteSpan fadt() const { return table(load_le<std::uint64_t>(xsdt(), 36)); }
  ByteSpan madt() const { return table(load_le<std::uint64_t>(xsdt(), 44)); }
  ByteSpan dsdt() const { return table(load_le<std::uint32_t>(fadt(), 40)); }
  ByteSpan facs() const { return table(load_le<std::uint32_t>(fadt(), 36)); }

 private:
  GuestMemory memory_;
  std::uint64_t rsdp_at_;
};

std::string signature(ByteSpan table) {
  return std::string(as_text(table).substr(0, 4));
}

class AcpiPlaces : public testing::TestWithParam<std::tuple<unsigned, std::uint64_t>> {};

TEST_P(AcpiPlaces, AreWholeAndFoundFromTheRsdp) {
  const auto [cpus, at] = GetParam();
  const Placed placed({cpus, gib}, at);
  EXPECT_GE(placed.rsdp_at(), at);
  EXPECT_EQ(placed.rsdp_at() % 16, 0U);
  EXPECT_LT(placed.rsdp_at() + 36, at + 0x10000);
  EXPECT_EQ(as_text(placed.rsdp()).substr(0, 8), "RSD PTR ");
  EXPECT_EQ(sum(placed.rsdp().first(20)), 0U);
  EXPECT_EQ(sum(placed.rsdp()), 0U);
  EXPECT_EQ(load_le<std::uint32_t>(placed.rsdp(), 20), 36U);
  const std::pair<ByteSpan, std::string> tables[] = {{placed.xsdt(), "XSDT"},
                                                     {placed.rsdt(), "RSDT"},
                                                     {placed.fadt(), "FACP"},
                                                     {placed.madt(), "APIC"},
                                                     {placed.dsdt(), "DSDT"}};
  for (const auto& [table, name] : tables) {
    EXPECT_EQ(signature(table), name);
    EXPECT_EQ(sum(table), 0U) << name;
  }
  EXPECT_EQ(signature(placed.facs()), "FACS");
  EXPECT_EQ(placed.facs().size(), 64U);
  EXPECT_EQ(load_le<std::uint32_t>(placed.fadt(), 36) % 64, 0U);
  EXPECT_EQ(placed.xsdt().size(), 36U + 16U);
  EXPECT_EQ(placed.rsdt().size(), 36U + 8U);
  for (std::size_t i = 0; i < 2; i++)
    EXPECT_EQ(load_le<std::uint64_t>(placed.xsdt(), 36 + 8 * i), load_le<std::uint32_t>(placed.rsdt(), 36 + 4 * i));
  EXPECT_EQ(load_le<std::uint64_t>(placed.fadt(), 140), load_le<std::uint32_t>(placed.fadt(), 40));
}

INSTANTIATE_TEST_SUITE_P(All, AcpiPlaces,
                         testing::Combine(testing::Values(1U, 2U, 255U), testing::Values(0xe0000U, 0x123450U)));

TEST(Acpi, RefusesMoreProcessorsThanApicIds) {
  EXPECT_THROW(make_acpi({256, gib}), Error);
}

TEST(Acpi, NothingIsWrittenOutsideOfMemory) {
  const GuestMemory memory(1U << 20);
  EXPECT_THROW(place_acpi(make_acpi({1, gib}), memory, (1U << 20) - 1024), std::exception);
}

TEST(Acpi, FadtNamesThePortsOfPowerManagement) {
  const Placed placed({1, gib});
  const ByteSpan fadt = placed.fadt();
  ASSERT_EQ(fadt.size(), 268U);
  EXPECT_EQ(load_le<std::uint16_t>(fadt, 46), 9U);
  EXPECT_EQ(load_le<std::uint32_t>(fadt, 48), 0U) << "SMI_CMD";
  const std::tuple<unsigned, unsigned, unsigned> blocks[] = {{56, 148, 0x600}, {64, 172, 0x604}, {76, 208, 0x608}};
  for (const auto& [old, generic, port] : blocks) {
    EXPECT_EQ(load_le<std::uint32_t>(fadt, old), port);
    EXPECT_EQ(load_le<std::uint64_t>(fadt, generic + 4), port);
    EXPECT_EQ(fadt[generic], std::byte{1}) << "I/O space";
  }
  EXPECT_EQ(load_le<std::uint64_t>(fadt, 120), 0xcf9U);

  bool off = false, reset = false;
  PowerManagement power([&] { off = true; });
  EXPECT_EQ(power.read(4, 2) & 1, 1U) << "SCI_EN";
  power.write(4, 2, 0);
  EXPECT_EQ(power.read(4, 2) & 1, 1U) << "SCI_EN stays";
  EXPECT_LE(power.read(8, 4), 0xffffffU) << "TMR_VAL_EXT is not set";
  EXPECT_FALSE(off);
  power.write(4, 2, 1U << 13); // SLP_TYP of _S5
  EXPECT_TRUE(off);
  PciHost pci([&] { reset = true; });
  pci.write(1, 1, std::to_integer<std::uint64_t>(fadt[128]));
  EXPECT_TRUE(reset);
}

TEST(Acpi, MadtListsProcessorsAndInterrupts) {
  const Placed placed({3, gib});
  std::vector<std::string> seen;
  for (ByteSpan left = placed.madt().subspan(44); !left.empty();
       left = left.subspan(std::to_integer<unsigned>(left[1]))) {
    const auto byte = [&](unsigned at) { return std::to_integer<unsigned>(left[at]); };
    if (byte(0) == 0)
      seen.push_back(fmt::format("cpu {} apic {}", byte(2), byte(3)));
    else if (byte(0) == 1)
      seen.push_back(fmt::format("ioapic {} at {:x} from {}", byte(2), load_le<std::uint32_t>(left, 4), byte(8)));
    else if (byte(0) == 2)
      seen.push_back(fmt::format("irq {} to {} flags {:x}", byte(3), byte(4), load_le<std::uint16_t>(left, 8)));
    else
      seen.push_back(fmt::format("type {} cpu {} lint {}", byte(0), byte(2), byte(5)));
  }
  EXPECT_THAT(seen, testing::ElementsAre("cpu 0 apic 0", "cpu 1 apic 1", "cpu 2 apic 2", "ioapic 0 at fec00000 from 0",
                                         "irq 0 to 2 flags 0", "irq 9 to 9 flags d", "irq 10 to 10 flags d",
                                         "irq 11 to 11 flags d", "type 4 cpu 255 lint 1"));
}

/// What iasl makes of a table; it must find nothing wrong with it.
std::string disassemble(ByteSpan table, const fs::path& directory, const std::string& name) {
  write_file_durably(directory / (name + ".dat"), as_text(table));
  const ProcessResult result = run_process({"iasl", "-d", name + ".dat"}, std::chrono::minutes(1), directory);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out + result.err, Not(testing::ContainsRegex("rror|arning|nvalid|ncorrect")));
  return read_file(directory / (name + ".dsl"));
}

TEST(Acpi, CompilerUnderstandsTheTables) {
  TempDir temp;
  const Placed placed({2, gib});
  EXPECT_THAT(disassemble(placed.fadt(), temp.path(), "facp"), HasSubstr("Reset Register Supported (V2) : 1"));
  disassemble(placed.madt(), temp.path(), "apic");
  const std::string dsl = disassemble(placed.dsdt(), temp.path(), "dsdt");
  EXPECT_THAT(dsl, HasSubstr("Processor (C001, 0x01"));
  const ProcessResult again = run_process({"iasl", "dsdt.dsl"}, std::chrono::minutes(1), temp.path());
  EXPECT_EQ(again.exit_code, 0) << again.out << again.err;
  EXPECT_THAT(again.out + again.err, HasSubstr(" 0 Errors"));
}

/// What ACPICA's interpreter says to commands.
std::string interpret(ByteSpan dsdt, const std::string& commands) {
  TempDir temp;
  write_file_durably(temp.path() / "dsdt.dat", as_text(dsdt));
  const ProcessResult result =
      run_process({"acpiexec", "-b", commands, "dsdt.dat"}, std::chrono::minutes(1), temp.path());
  EXPECT_THAT(result.out + result.err, Not(HasSubstr("AE_")));
  return result.out;
}

TEST(Acpi, RoutingTableIsTheRouters) {
  const Placed placed({1, gib});
  std::string said;
  for (unsigned first = 0; first < 31 * 4; first += 31) { // acpiexec takes 1023 characters
    std::string commands;
    for (unsigned index = first; index < first + 31; index++)
      commands += fmt::format("execute \\_SB.PCI0.ROW {:#x};", index);
    said += interpret(placed.dsdt(), commands);
  }
  PciHost pci([] {});
  const std::array<unsigned, 4> routes{3, 5, 10, 11};
  for (unsigned i = 0; i < 4; i++)
    pci.at(1, 0)->config_write(0x60 + i, 1, routes.at(i));
  const std::regex row(R"(Integer\] = 0+(..)FFFF\s.*\s.*Integer\] = 0+(.)\s.*LNK([A-D])\s.*\s.*Integer\] = 0+\s)");
  unsigned rows = 0;
  for (std::sregex_iterator i(said.begin(), said.end(), row), end; i != end; ++i, rows++) {
    const auto slot = static_cast<unsigned>(std::stoul((*i)[1], nullptr, 16));
    const auto input = static_cast<unsigned>((*i)[3].str().at(0) - 'A');
    EXPECT_EQ(slot, 1 + rows / 4);
    EXPECT_EQ((*i)[2], std::to_string(rows % 4));
    if (rows % 4 == 0) {
      EXPECT_EQ(routes.at(input), pci.interrupt_of(slot)) << "slot " << slot;
    }
    EXPECT_EQ(input, (slot - 1 + rows % 4) % 4);
  }
  EXPECT_EQ(rows, 31U * 4U);
}

TEST(Acpi, PciWindowIsAboveTheMemory) {
  TempDir temp;
  const std::tuple<std::uint64_t, const char*> cases[] = {
      {gib, "0x80000000"}, {2 * gib, "0x80000000"}, {2 * gib + 4096, "0xC0000000"}, {3 * gib, "0xC0000000"}};
  for (const auto& [memory, from] : cases)
    EXPECT_THAT(disassemble(Placed({1, memory}).dsdt(), temp.path(), "dsdt"),
                testing::ContainsRegex(std::string(from) + ", +// Range Minimum\n +0xFEBFFFFF, +// Range Maximum"));
}

TEST(Acpi, InterruptsOfKvmAreThoseOfTheMadt) {
  if (host_probe().kvm == Probe::Class::none)
    GTEST_SKIP() << "the built-in engine was not tested: " << host_probe().reasons.at(0);
  const UniqueFd kvm = open_kvm();
  const Vm vm(kvm.get());
  kvm_irqchip chip{};
  chip.chip_id = KVM_IRQCHIP_IOAPIC;
  ASSERT_EQ(::ioctl(vm.fd(), KVM_GET_IRQCHIP, &chip), 0);
  for (auto& pin : chip.chip.ioapic.redirtbl)
    pin.fields.mask = pin.fields.trig_mode = 1; // a masked level is remembered
  ASSERT_EQ(::ioctl(vm.fd(), KVM_SET_IRQCHIP, &chip), 0);
  const std::pair<unsigned, unsigned> pins[] = {{0, 2}, {1, 1}, {4, 4}, {9, 9}, {10, 10}, {11, 11}, {23, 23}};
  for (const auto& [irq, pin] : pins) {
    vm.set_irq(irq, true);
    ASSERT_EQ(::ioctl(vm.fd(), KVM_GET_IRQCHIP, &chip), 0);
    EXPECT_EQ(chip.chip.ioapic.irr, 1U << pin) << irq;
    vm.set_irq(irq, false);
  }
}

/// Prints whose the RSDP in the F segment is.
Bytes rsdp_owner_sector() {
  const unsigned char code[] = {
      0xb8, 0x00, 0xf0, 0x8e, 0xc0, 0x31, 0xff,      // mov ax, 0xf000; mov es, ax; xor di, di
      0x26, 0x66, 0x81, 0x3d, 'R',  'S',  'D',  ' ', // next: cmp dword es:[di], "RSD "
      0x74, 0x05, 0x83, 0xc7, 0x10, 0x75, 0xf1,      // je found; add di, 16; jnz next
      0x83, 0xc7, 0x09, 0xb9, 0x06, 0x00,            // found: add di, 9; mov cx, 6
      0xba, 0xf8, 0x03,                              // mov dx, 0x3f8
      0x26, 0x8a, 0x05, 0xee, 0x47, 0xe2, 0xf9,      // more: mov al, es:[di]; out dx, al; inc di; loop more
      0xb0, '\n', 0xee, 0xfa, 0xf4,                  // mov al, '\n'; out dx, al; cli; hlt
  };
  Bytes sector(512);
  std::memcpy(sector.data(), code, sizeof code);
  sector[510] = std::byte{0x55};
  sector[511] = std::byte{0xaa};
  return sector;
}

TEST(Acpi, SeaBiosTakesTheTables) {
  if (host_probe().kvm == Probe::Class::none)
    GTEST_SKIP() << "the built-in engine was not tested: " << host_probe().reasons.at(0);
  TempDir temp;
  const test::MemoryDisk disk(rsdp_owner_sector());
  Overlay overlay(disk, temp.path(), 1U << 20);
  BootSpec spec;
  spec.memory = 64U << 20;
  spec.cpus = 2;
  spec.timeout = std::chrono::seconds(120);
  spec.disks.push_back({&overlay, DiskBus::virtio_blk, 512, ""});
  std::string serial;
  StopToken stop;
  const EngineOutcome outcome = make_kvm_engine()->run(
      spec,
      [&](const Evidence& e) {
        if (e.kind == Evidence::Kind::serial)
          serial += e.text;
        return serial.find('\n') == std::string::npos;
      },
      stop);
  EXPECT_EQ(outcome.end, EngineOutcome::End::judged) << outcome.detail;
  EXPECT_EQ(serial, "KVMPRT\n");
}

/// A cpio archive in the new ASCII format (Linux Documentation/driver-api/early-userspace/buffer-format.rst).
class Initramfs {
 public:
  void add(const std::string& name, std::string_view content, unsigned mode) {
    text_ += fmt::format("070701{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
                         ++inode_, mode, 0, 0, 1, 0, content.size(), 0, 0, 0, 0, name.size() + 1, 0);
    text_ += name + '\0';
    text_.resize(round_up(text_.size(), 4));
    text_ += content;
    text_.resize(round_up(text_.size(), 4));
  }
  std::string take() {
    add("TRAILER!!!", {}, 0);
    return text_;
  }

 private:
  std::string text_;
  unsigned inode_ = 0;
};

/// Boots the host's kernel in QEMU with two processors and our tables, one time as SeaBIOS lays them down by the
/// script, one time as place_acpi() does; the guest reads its disk and powers itself off.
class AcpiBoot : public testing::Test {
 protected:
  static constexpr std::uint64_t memory = 256U << 20, placed_at = 240U << 20, placed_size = 64U << 10;

  void SetUp() override {
    for (const auto& file : fs::directory_iterator("/boot"))
      if (file.path().filename().string().rfind("vmlinuz-", 0) == 0)
        kernel_ = std::max(kernel_, file.path());
    const auto busybox = find_program("busybox");
    if (kernel_.empty() || !busybox)
      GTEST_SKIP() << "NO KERNEL or no busybox here: the tables were not tried by a kernel";
    const std::string version = kernel_.filename().string().substr(8);
    Initramfs initramfs;
    std::string init = "#!/busybox sh\nb=/busybox\n$b mkdir /proc /dev; $b mount -t proc p /proc; "
                       "$b mount -t devtmpfs d /dev\n";
    for (const char* module : {"virtio/virtio_ring", "virtio/virtio", "virtio/virtio_pci_modern_dev",
                               "virtio/virtio_pci_legacy_dev", "virtio/virtio_pci", "block/virtio_blk"}) {
      const std::string name = fs::path(module).filename().string() + ".ko";
      const fs::path file = fmt::format("/lib/modules/{}/kernel/drivers/{}.ko", version, module);
      if (!fs::exists(file))
        continue; // built in
      initramfs.add(name, read_file(file), 0100644);
      init += "$b insmod /" + name + "\n";
    }
    init += "$b head -c 11 /dev/vda; $b cat /proc/interrupts; $b poweroff -f\n";
    initramfs.add("busybox", read_file(*busybox), 0100755);
    initramfs.add("init", init, 0100755);
    write_file_durably(temp_.path() / "initramfs", initramfs.take());
    write_file_durably(temp_.path() / "disk", "HELLO DISK\n");
    fs::resize_file(temp_.path() / "disk", 1U << 20);
  }

  /// The serial log of a boot that ended by itself.
  /// What the kernel says. It gives the timer's interrupt a few ticks to come and complains when it was not seen: on a
  /// busy host that happens once, with tables that are wrong always.
  std::string boot(const std::string& machine, const std::string& parameters, const std::vector<std::string>& more) {
    const std::string log = boot_once(machine, parameters, more);
    return log.find("MP-BIOS bug") == std::string::npos ? log : boot_once(machine, parameters, more);
  }
  std::string boot_once(const std::string& machine, const std::string& parameters,
                        const std::vector<std::string>& more) {
    std::vector<std::string> argv{"qemu-system-x86_64",
                                  "-nodefaults",
                                  "-no-reboot",
                                  "-display",
                                  "none",
                                  "-accel",
                                  "tcg",
                                  "-cpu",
                                  "qemu64",
                                  "-smp",
                                  "2"};
    const auto add = [&](std::initializer_list<std::string> words) { argv.insert(argv.end(), words); };
    add({"-machine", machine, "-m", fmt::format("{}M", memory >> 20), "-serial", "file:serial"});
    add({"-kernel", kernel_, "-initrd", "initramfs", "-append", "console=ttyS0 panic=-1 " + parameters});
    add({"-drive", "file=disk,format=raw,if=none,id=disk", "-device", "virtio-blk-pci,drive=disk"});
    argv.insert(argv.end(), more.begin(), more.end());
    const ProcessResult result = run_process(argv, std::chrono::minutes(4), temp_.path());
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_FALSE(result.timed_out);
    return read_file(temp_.path() / "serial");
  }

  static void expect_good(const std::string& log) {
    EXPECT_THAT(log, HasSubstr("(v02 KVMPRT)"));
    EXPECT_THAT(log, HasSubstr("ACPI: Interpreter enabled"));
    EXPECT_THAT(log, HasSubstr("ACPI: PM: (supports S0 S5)"));
    EXPECT_THAT(log, HasSubstr("Using IOAPIC for interrupt routing"));
    EXPECT_THAT(log, HasSubstr("Brought up 1 node, 2 CPUs"));
    EXPECT_THAT(log, HasSubstr("HELLO DISK"));
    EXPECT_THAT(log, HasSubstr("reboot: Power down"));
    EXPECT_THAT(log, Not(testing::ContainsRegex(R"(ACPI (BIOS )?(Error|Warning)|Firmware (Bug|Warn)|MP-BIOS bug)")));
  }

  TempDir temp_;
  fs::path kernel_;
};

TEST_F(AcpiBoot, KernelUsesTheTablesThatSeaBiosLaidDown) {
  // The last machine with PIIX4 that has no tables of QEMU itself; without ACPI, newer ones have no PIIX4.
  const std::string machine = "pc-i440fx-1.6";
  if (test::must_run({"qemu-system-x86_64", "-machine", "help"}).find(machine + " ") == std::string::npos)
    GTEST_SKIP() << "THIS QEMU has no machine without tables: SeaBIOS's use of ours was not tried with a kernel";
  const AcpiTables acpi = make_acpi({2, memory});
  write_file_durably(temp_.path() / "tables", as_text(acpi.tables));
  write_file_durably(temp_.path() / "rsdp", as_text(acpi.rsdp));
  write_file_durably(temp_.path() / "loader", as_text(acpi.loader));
  const std::string log = boot(machine + ",hpet=off", "pci=nomsi",
                               {"-fw_cfg", "name=etc/table-loader,file=loader", "-fw_cfg",
                                "name=etc/acpi/tables,file=tables", "-fw_cfg", "name=etc/acpi/rsdp,file=rsdp"});
  expect_good(log);
  EXPECT_THAT(log, testing::ContainsRegex("LNK[A-D]: Enabled at IRQ 1[01]"));
  EXPECT_THAT(log, testing::ContainsRegex("1[01]: .* IO-APIC .*fasteoi   virtio0"));
}

TEST_F(AcpiBoot, KernelUsesTheTablesThatWePlaced) {
  const GuestMemory guest(memory);
  const std::uint64_t rsdp = place_acpi(make_acpi({2, memory}), guest, placed_at);
  write_file_durably(temp_.path() / "placed", as_text(*guest.slice(placed_at, placed_size)));
  const std::string log =
      boot("pc,hpet=off", fmt::format("acpi_rsdp={:#x} memmap={}K${:#x}", rsdp, placed_size >> 10, placed_at),
           {"-device", fmt::format("loader,file=placed,addr={:#x},force-raw=on", placed_at)});
  expect_good(log);
  EXPECT_THAT(log, testing::ContainsRegex("PCI-MSI .*virtio0-req"));
}

} // namespace
} // namespace kvmport::vmm
