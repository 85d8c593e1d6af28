// SPDX-License-Identifier: Apache-2.0
// The text in which LVM writes its metadata: sections, values and arrays (lvm2, lib/config/config.c; lvm.conf(5)).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace kvmport::lvm_config {

struct Value {
  std::string text;         ///< of a string; empty for a number
  std::uint64_t number = 0; ///< of an integer; 0 for a string
};

/// Every accessor: Error IMAGE_CORRUPT when the value is missing or of another kind.
struct Section {
  std::map<std::string, std::vector<Value>, std::less<>> values; ///< a single value is an array of one
  std::map<std::string, Section, std::less<>> sections;

  const Section* section(std::string_view name) const;
  const std::vector<Value>* find(std::string_view key) const;
  bool has(std::string_view key) const { return find(key) != nullptr; }
  const std::string& text(std::string_view key) const;
  std::uint64_t number(std::string_view key) const;
  /// All strings of an array; empty when it is missing.
  std::vector<std::string> texts(std::string_view key) const;
};

/// At most 16 levels and 65536 values. Error IMAGE_CORRUPT.
Section parse(std::string_view text);

} // namespace kvmport::lvm_config
