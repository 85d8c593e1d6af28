// SPDX-License-Identifier: Apache-2.0
// The tables in which firmware describes the machine: SMBIOS Reference Specification, DMTF DSP0134 version 3.7. The
// tables are bytes from outside: whatever they hold, reading takes bounded time and gives clean text.
#pragma once

#include "base/bytes.h"
#include "libconvert/machine/machine.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace kvmport {

/// One structure (6.1.2). A field beyond the formatted part is one that this version of the table doesn't have.
struct SmbiosStructure {
  std::uint8_t type = 0;
  std::uint16_t handle = 0;
  ByteSpan formatted; ///< with the header; points into the table
  std::vector<std::string> strings;

  template <std::unsigned_integral T> std::optional<T> field(std::size_t offset) const {
    if (offset + sizeof(T) > formatted.size())
      return std::nullopt;
    return load_le<T>(formatted, offset);
  }
  /// The string whose number (from 1) stands at `offset`, clean UTF-8 without blanks around it; empty: none.
  std::string text(std::size_t offset) const;
};

/// All structures up to the end-of-table (type 127), or to the first that does not fit.
std::vector<SmbiosStructure> parse_smbios(ByteSpan table);

struct SmbiosSummary {
  MachineSmbios identity;
  std::string uuid; ///< lower case; empty: not set
  std::string bios_vendor, bios_version, bios_date;
  std::uint64_t memory = 0; ///< bytes of all modules of system memory; 0: not told
  unsigned modules = 0;
  bool memory_complete = true; ///< false: a module has an unknown size
};

/// `entry_point`: the bytes of "_SM_" or "_SM3_" (5.2), which tell the version; may be empty (taken as 2.6 or later).
SmbiosSummary summarize_smbios(ByteSpan entry_point, ByteSpan table);

} // namespace kvmport
