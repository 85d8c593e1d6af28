// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/acpi.h"

#include "base/error.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <utility>

namespace kvmport::vmm {
namespace {

constexpr std::uint32_t header = 36; // of every table but RSDP and FACS (ACPI 6.4, section 5.2.6)
constexpr unsigned max_cpus = 255, slots = 32, pins = 4, sci = 9;
constexpr std::uint16_t pm_events = 0x600, pm_control = 0x604, pm_timer = 0x608; // see PowerManagement
constexpr std::uint32_t io_apic = 0xfec00000, local_apic = 0xfee00000;
// The interrupts that PIIX3's router may raise on a PC.
constexpr std::initializer_list<std::uint32_t> routed = {10, 11};

/// Bytes of a table, or code in AML (ACPI 6.4, chapter 20.2).
using Code = std::string;

Code le(std::uint64_t value, unsigned size) {
  Code code;
  for (unsigned i = 0; i < size; i++)
    code += static_cast<char>(value >> 8 * i);
  return code;
}

Code number(std::uint32_t value) {
  if (value < 2) // ZeroOp, OneOp
    return le(value, 1);
  return value <= 0xff ? "\x0a" + le(value, 1) : value <= 0xffff ? "\x0b" + le(value, 2) : "\x0c" + le(value, 4);
}

/// An operator whose length precedes its body, and counts its own bytes (section 20.2.4).
Code sized(const Code& op, const Code& body) {
  const std::size_t short_size = body.size() + 1, size = body.size() + 3;
  if (short_size < 0x40)
    return op + le(short_size, 1) + body;
  return op + le(0x80 | (size & 0x0f), 1) + le(size >> 4, 2) + body;
}

Code name(const Code& path, const Code& value) {
  return "\x08" + path + value;
}
Code device(const Code& path, const Code& body) {
  return sized("\x5b\x82", path + body);
}
/// Serialized, so that it may make named objects.
Code method(const Code& path, unsigned arguments, const Code& body) {
  return sized("\x14", path + le(8 | arguments, 1) + body);
}
Code package(unsigned count, const Code& elements) {
  return sized("\x12", le(count, 1) + elements);
}
Code store(const Code& value, const Code& to) {
  return "\x70" + value + to;
}
Code bits(const Code& of, unsigned mask) {
  return "\x7b" + of + number(mask) + le(0, 1);
}
Code give(const Code& value) {
  return "\xa4" + value;
}
/// EISAID("PNP…")
Code pnp(unsigned id) {
  return "\x0c\x41\xd0" + le(id >> 8, 1) + le(id, 1);
}

// Resource descriptors (section 6.4)

Code resources(const Code& descriptors) {
  const Code all = descriptors + "\x79" + le(0, 1);
  return sized("\x11", number(static_cast<std::uint32_t>(all.size())) + all);
}
Code io(unsigned port, unsigned count) {
  return "\x47\x01" + le(port, 2) + le(port, 2) + le(1, 1) + le(count, 1);
}
Code irq(unsigned line) {
  return "\x22" + le(1U << line, 2);
}
/// Level-triggered, active high, shared; the first number is at byte 5.
Code interrupt(std::initializer_list<std::uint32_t> lines) {
  Code code = "\x09" + le(lines.size(), 1);
  for (const std::uint32_t line : lines)
    code += le(line, 4);
  return "\x89" + le(code.size(), 2) + code;
}
constexpr unsigned interrupt_number = 5;

enum Space : unsigned { memory_space = 0, io_space = 1, bus_space = 2 };
/// What a bridge hands on: numbers of 2 or 4 bytes.
Code window(Space space, unsigned size, std::uint32_t from, std::uint32_t to) {
  const unsigned flags = space == memory_space ? 1 : space == io_space ? 3 : 0; // writable; all ports
  const Code body = le(space, 1) + le(0x0c, 1) + le(flags, 1) + le(0, size) + le(from, size) + le(to, size) +
                    le(0, size) + le(to - from + 1, size);
  return (size == 2 ? "\x88" : "\x87") + le(body.size(), 2) + body;
}

/// The router's output for one of PIIX3's four inputs, PRQA-PRQD.
///
/// Why links, not fixed numbers in _PRT: firmware sets the router as it likes (SeaBIOS to 10, 10, 11, 11; some OVMF to
/// 11, 11, 10, 10). A link reads what it is set to and can set it, which is right after either, and with the 8259s and
/// the IOAPIC alike, for KVM gives interrupt N to pin N of both. It is also what Windows and Linux know from the board
/// that this one resembles. The MADT tells the same level and polarity.
Code link(char input) {
  const Code route = Code("PRQ") + input, chosen = "IRQ_";
  const auto chosen_in = [&](const Code& buffer) { return "\x8a" + buffer + number(interrupt_number) + chosen; };
  const Code disabled = number(0x80), present = number(9), enabled = number(0x0b);
  return device(Code("LNK") + input,
                name("_HID", pnp(0x0c0f)) + name("_UID", number(static_cast<unsigned>(input - 'A'))) +
                    name("_PRS", resources(interrupt(routed))) +
                    method("_STA", 0, sized("\xa0", bits(route, 0x80) + give(present)) + give(enabled)) +
                    method("_DIS", 0, store(disabled, route)) +
                    method("_CRS", 0,
                           name("NOW_", resources(interrupt({0}))) + chosen_in("NOW_") +
                               store(bits(route, 0x0f), chosen) + give("NOW_")) +
                    method("_SRS", 1, chosen_in("\x68") + store(chosen, route)));
}

/// Which input a pin of a slot is wired to, as PciHost::interrupt_of() has it.
Code routing() {
  Code rows;
  for (unsigned slot = 1; slot < slots; slot++)
    for (unsigned pin = 0; pin < pins; pin++)
      rows += package(4, number(slot << 16 | 0xffff) + number(pin) + "\\\x2f\x04_SB_PCI0ISA_LNK" +
                             static_cast<char>('A' + (slot - 1 + pin) % pins) + number(0));
  return package((slots - 1) * pins, rows);
}

/// PIIX3 with its router's registers (Intel 82371SB data sheet, section 2.2.4), and what hangs on it.
Code isa_bridge() {
  Code code = name("_ADR", number(1U << 16)) + "\x5b\x80PIRQ\x02" + number(0x60) + number(pins);
  Code fields = "PIRQ\x01", links; // accessed by bytes
  for (char input = 'A'; input < 'A' + static_cast<char>(pins); input++) {
    fields += Code("PRQ") + input + "\x08"; // bits
    links += link(input);
  }
  code += sized("\x5b\x81", fields) + links;
  code += device("KBD_", name("_HID", pnp(0x0303)) + name("_CRS", resources(io(0x60, 1) + io(0x64, 1) + irq(1))));
  code += device("RTC_", name("_HID", pnp(0x0b00)) + name("_CRS", resources(io(0x70, 2) + irq(8))));
  code += device("COM1",
                 name("_HID", pnp(0x0501)) + name("_UID", number(1)) + name("_CRS", resources(io(0x3f8, 8) + irq(4))));
  return device("ISA_", code);
}

Code dsdt(const AcpiMachine& machine) {
  // Where SeaBIOS and OVMF put BARs; RAM ends below.
  const std::uint32_t pci_memory = machine.memory <= 2ULL << 30 ? 0x80000000 : 0xc0000000;
  const Code windows = window(bus_space, 2, 0, 0) + io(0xcf8, 8) + window(io_space, 2, 0, 0xcf7) +
                       window(io_space, 2, 0xd00, 0xffff) + window(memory_space, 4, 0xa0000, 0xbffff) +
                       window(memory_space, 4, pci_memory, io_apic - 1);
  Code system = device("PCI0", name("_HID", pnp(0x0a03)) + name("_UID", number(0)) + name("_CRS", resources(windows)) +
                                   name("_PRT", routing()) + isa_bridge());
  for (unsigned i = 0; i < machine.cpus; i++) { // Processor(), which older Windows know too
    const std::string digits = std::to_string(1000 + i).substr(1);
    system += sized("\x5b\x83", "C" + digits + le(i, 1) + le(0, 5));
  }
  return sized("\x10", "\\_SB_" + system) + name("_S5_", package(2, number(0) + number(0))); // see PowerManagement
}

Code facs() {
  return "FACS" + le(64, 4) + Code(24, '\0') + le(2, 1) + Code(31, '\0');
}

/// Revision 5, without its header. Offsets are those of ACPI 6.4, table 5.9.
Code fadt() {
  Code table(268 - header, '\0');
  const auto put = [&](std::size_t at, std::uint64_t value, unsigned size) {
    table.replace(at - header, size, le(value, size));
  };
  // The same ports in the old fields and as generic addresses (section 5.2.3.2) of the width that is accessed.
  const auto ports = [&](std::size_t generic, unsigned port, unsigned bits_wide, unsigned access) {
    put(generic, 1 | bits_wide << 8 | access << 24, 4);
    put(generic + 4, port, 8);
  };
  put(46, sci, 2);
  // No SMI_CMD: the machine is in ACPI mode always.
  put(56, pm_events, 4);
  put(64, pm_control, 4);
  put(76, pm_timer, 4);
  put(88, 4, 1); // lengths
  put(89, 2, 1);
  put(91, 4, 1);
  put(96, 0xffff, 2); // no C2, no C3
  put(98, 0xffff, 2);
  put(108, 0x32, 1); // the century in Cmos
  put(109, 3, 2);    // legacy devices, 8042
  constexpr std::uint32_t wbinvd = 1, c1 = 1U << 2, no_power_button = 1U << 4, no_sleep_button = 1U << 5,
                          no_rtc_wake = 1U << 6, reset = 1U << 10;
  put(112, wbinvd | c1 | no_power_button | no_sleep_button | no_rtc_wake | reset, 4);
  ports(116, 0xcf9, 8, 1);
  put(128, 6, 1); // reset value
  ports(148, pm_events, 32, 2);
  ports(172, pm_control, 16, 2);
  ports(208, pm_timer, 32, 3);
  return table;
}

Code madt(const AcpiMachine& machine) {
  constexpr std::uint16_t high_level = 0x0d;
  Code code = le(local_apic, 4) + le(1, 4); // with two 8259s
  for (unsigned i = 0; i < machine.cpus; i++)
    code += le(0, 1) + le(8, 1) + le(i, 1) + le(i, 1) + le(1, 4);
  code += le(1, 1) + le(12, 1) + le(0, 2) + le(io_apic, 4) + le(0, 4);
  const auto source = [&](unsigned line, unsigned pin, unsigned flags) {
    code += le(2, 1) + le(10, 1) + le(0, 1) + le(line, 1) + le(pin, 4) + le(flags, 2);
  };
  source(0, 2, 0); // the timer, see Vm
  source(sci, sci, high_level);
  for (const std::uint32_t line : routed)
    source(line, line, high_level);
  return code + le(4, 1) + le(6, 1) + le(0xff, 1) + le(0, 2) + le(1, 1); // NMI on LINT1 of all
}

// The script: entries of 128 bytes, a command and fields at fixed places.
constexpr std::size_t entry_size = 128, name_size = 56, field_1 = 4, field_2 = 60, field_3 = 116;
enum Command : std::uint32_t { allocate = 1, add_pointer = 2, add_checksum = 3 };
enum Zone : unsigned { high = 1, f_segment = 2 };

Code entry(Command command, const char* file, const Code& fields) {
  Code code = le(command, 4) + file;
  code.resize(field_2);
  code += fields;
  code.resize(entry_size);
  return code;
}

/// Puts tables into their files, and what is to be done to them there into the script.
class Builder {
 public:
  std::uint32_t add(const Code& table) {
    tables_.resize(round_up(tables_.size(), 8));
    const auto at = static_cast<std::uint32_t>(tables_.size());
    tables_ += table;
    return at;
  }
  std::uint32_t add(const char* signature, unsigned revision, const Code& body) {
    const auto size = static_cast<std::uint32_t>(header + body.size());
    const std::uint32_t at = add(signature + le(size, 4) + le(revision, 1) + le(0, 1) + "KVMPRTKVMPORT " + le(1, 4) +
                                 "KVMP" + le(1, 4) + body);
    checksum(acpi_tables_file, at + 9, at, size);
    return at;
  }
  void set_rsdp(const Code& rsdp) { rsdp_ = rsdp; }
  /// The field at `offset` of `file` points to the table at `to`.
  void point(const char* file, std::uint32_t offset, unsigned size, std::uint32_t to) {
    (file == acpi_rsdp_file ? rsdp_ : tables_).replace(offset, size, le(to, size));
    Code source(acpi_tables_file);
    source.resize(name_size);
    pointers_ += entry(add_pointer, file, source + le(offset, 4) + le(size, 1));
  }
  /// After the pointers are set; outer ranges after inner ones.
  void checksum(const char* file, std::uint32_t offset, std::uint32_t start, std::uint32_t length) {
    checksums_ += entry(add_checksum, file, le(offset, 4) + le(start, 4) + le(length, 4));
  }
  AcpiTables take() const {
    const auto bytes = [](const Code& code) { return Bytes(as_bytes(code).begin(), as_bytes(code).end()); };
    const Code files = entry(allocate, acpi_tables_file, le(64, 4) + le(high, 1)) + // the FACS wants 64
                       entry(allocate, acpi_rsdp_file, le(16, 4) + le(f_segment, 1));
    return {bytes(tables_), bytes(rsdp_), bytes(files + pointers_ + checksums_)};
  }

 private:
  Code tables_, rsdp_, pointers_, checksums_;
};

std::string name_at(ByteSpan entry, std::size_t field) {
  const std::string_view text = as_text(entry.subspan(field, name_size));
  return std::string(text.substr(0, text.find('\0')));
}

} // namespace

AcpiTables make_acpi(const AcpiMachine& machine) {
  if (machine.cpus > max_cpus)
    throw Error("BOOT_UNSUPPORTED", "the built-in engine has at most 255 processors");
  Builder builder;
  const std::uint32_t facs_at = builder.add(facs()), dsdt_at = builder.add("DSDT", 1, dsdt(machine));
  const std::uint32_t fadt_at = builder.add("FACP", 5, fadt()), madt_at = builder.add("APIC", 3, madt(machine));
  const std::uint32_t rsdt_at = builder.add("RSDT", 1, le(0, 8)), xsdt_at = builder.add("XSDT", 1, le(0, 16));
  builder.point(acpi_tables_file, fadt_at + 36, 4, facs_at);
  builder.point(acpi_tables_file, fadt_at + 40, 4, dsdt_at);
  builder.point(acpi_tables_file, fadt_at + 140, 8, dsdt_at);
  std::uint32_t rsdt_entry = rsdt_at + header, xsdt_entry = xsdt_at + header;
  for (const std::uint32_t table : {fadt_at, madt_at}) {
    builder.point(acpi_tables_file, std::exchange(rsdt_entry, rsdt_entry + 4), 4, table);
    builder.point(acpi_tables_file, std::exchange(xsdt_entry, xsdt_entry + 8), 8, table);
  }
  builder.set_rsdp("RSD PTR " + le(0, 1) + "KVMPRT" + le(2, 1) + le(0, 4) + le(36, 4) + le(0, 12));
  builder.point(acpi_rsdp_file, 16, 4, rsdt_at);
  builder.point(acpi_rsdp_file, 24, 8, xsdt_at);
  builder.checksum(acpi_rsdp_file, 8, 0, 20);
  builder.checksum(acpi_rsdp_file, 32, 0, 36);
  return builder.take();
}

std::uint64_t place_acpi(const AcpiTables& acpi, const GuestMemory& memory, std::uint64_t at) {
  struct File {
    std::uint64_t at;
    std::span<std::byte> content;
  };
  std::map<std::string, File> files;
  for (std::size_t i = 0; i < acpi.loader.size(); i += entry_size) {
    const ByteSpan entry = ByteSpan(acpi.loader).subspan(i, entry_size);
    const auto number_at = [&](std::size_t field) { return load_le<std::uint32_t>(entry, field); };
    const std::string name = name_at(entry, field_1);
    switch (number_at(0)) {
    case allocate: {
      const Bytes& content = name == acpi_tables_file ? acpi.tables : acpi.rsdp;
      at = round_up(at, number_at(field_2));
      files[name] = {at, memory.slice(at, content.size()).value()};
      std::copy(content.begin(), content.end(), files[name].content.begin());
      at += content.size();
      break;
    }
    case add_pointer: {
      const auto field =
          files.at(name).content.subspan(number_at(field_3), std::to_integer<unsigned>(entry[field_3 + 4]));
      std::uint64_t pointer = 0;
      std::memcpy(&pointer, field.data(), field.size());
      pointer += files.at(name_at(entry, field_2)).at;
      std::memcpy(field.data(), &pointer, field.size());
      break;
    }
    case add_checksum: {
      const auto content = files.at(name).content;
      const auto range = content.subspan(number_at(field_2 + 4), number_at(field_2 + 8));
      auto& checksum = reinterpret_cast<std::uint8_t&>(content[number_at(field_2)]);
      checksum = std::accumulate(range.begin(), range.end(), checksum, [](std::uint8_t sum, std::byte byte) {
        return static_cast<std::uint8_t>(sum - std::to_integer<unsigned>(byte));
      });
      break;
    }
    default:
      break;
    }
  }
  return files.at(acpi_rsdp_file).at;
}

} // namespace kvmport::vmm
