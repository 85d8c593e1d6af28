// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/acpi.h"

#include "base/error.h"

#include <cstring>
#include <fmt/format.h>
#include <map>
#include <numeric>
#include <utility>

namespace kvmport::vmm {
namespace {

#include "kvmboot/vmm/dsdt.hex" // of dsdt.asl: dsdt_aml_code

constexpr std::uint32_t header = 36; // of every table but RSDP and FACS (ACPI 6.4, section 5.2.6)
constexpr unsigned max_cpus = 255, sci = 9;
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

/// An operator whose length precedes its body, and counts its own bytes (section 20.2.4).
Code sized(const Code& op, const Code& body) {
  const std::size_t short_size = body.size() + 1, size = body.size() + 3;
  if (short_size < 0x40)
    return op + le(short_size, 1) + body;
  return op + le(0x80 | (size & 0x0f), 1) + le(size >> 4, 2) + body;
}

/// What dsdt.asl says, without its header, and what depends on the machine.
Code dsdt(const AcpiMachine& machine) {
  Code code(reinterpret_cast<const char*>(dsdt_aml_code) + header, sizeof dsdt_aml_code - header);
  // First and last address, translation and length, as they stand in a descriptor (section 6.4.3.5.2).
  const auto pci_window = [](std::uint32_t from) {
    return le(from, 4) + le(io_apic - 1, 4) + le(0, 4) + le(io_apic - from, 4);
  };
  const Code low = pci_window(0x80000000);
  if (machine.memory > 2ULL << 30)
    code.replace(code.find(low), low.size(), pci_window(0xc0000000));
  Code processors; // Processor(), which older Windows know too
  for (unsigned i = 0; i < machine.cpus; i++)
    processors += sized("\x5b\x83", fmt::format("C{:03}", i) + le(i, 1) + le(0, 5));
  return code + sized("\x10", "\\_SB_" + processors);
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
