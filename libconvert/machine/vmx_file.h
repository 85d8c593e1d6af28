// SPDX-License-Identifier: Apache-2.0
// The keys and values of a VMX file.
#pragma once

#include "base/file.h"

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace kvmport {

/// A place for a drive: "scsi0:1".
struct VmxDrive {
  std::string bus; ///< "ide", "sata", "scsi", "nvme"
  unsigned controller = 0, unit = 0;
  std::string key() const { return bus + std::to_string(controller) + ":" + std::to_string(unit); }
};

class VmxFile {
 public:
  /// Error DESCRIPTION_INVALID for lines that are no setting, lines longer than 64 KiB, files past 4 MiB.
  static VmxFile read(const std::filesystem::path& path, std::vector<std::string>& notes);

  // Keys are given in lower case.
  bool has(const std::string& key) const { return values_.contains(key); }
  /// The value in UTF-8; "" when the key is not there.
  std::string text(const std::string& key) const;
  /// TRUE or FALSE; nothing when the key is not there or says something else.
  std::optional<bool> flag(const std::string& key) const;
  /// Every drive that has a key: SCSI, SATA, IDE, NVMe, each by controller and unit.
  std::vector<VmxDrive> drives() const;
  /// The numbers that follow `prefix` ("ethernet" → 0, 1, …), ascending.
  std::vector<unsigned> numbers(const std::string& prefix) const;

 private:
  std::map<std::string, std::string> values_;
};

} // namespace kvmport
