// SPDX-License-Identifier: Apache-2.0
#include "libconvert/target/target.h"

#include <algorithm>

namespace kvmport {

FirmwareFiles firmware_files(bool secure_boot) {
  // The .ms variant of the code only boots what the enrolled keys sign; its variables hold Microsoft's keys.
  if (secure_boot)
    return {"/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"};
  return {"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"};
}

TargetBus target_bus(const TargetMachine& machine, const TargetDisk& disk) {
  if (machine.virtio_disk)
    return TargetBus::virtio;
  return disk.logical_sector == 512 ? TargetBus::sata : TargetBus::scsi;
}

std::vector<BootEntry> boot_entries(const TargetMachine& machine) {
  std::vector<std::pair<unsigned, BootEntry>> ordered;
  bool has_disk = false;
  for (std::size_t i = 0; i < machine.disks.size(); i++)
    if (machine.disks[i].boot_order) {
      ordered.push_back({*machine.disks[i].boot_order, {false, i}});
      has_disk = true;
    }
  for (std::size_t i = 0; i < machine.source.nics.size(); i++)
    if (machine.source.nics[i].boot_order)
      ordered.push_back({*machine.source.nics[i].boot_order, {true, i}});
  std::stable_sort(ordered.begin(), ordered.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<BootEntry> entries;
  if (!has_disk && !machine.disks.empty())
    entries.push_back({false, 0});
  for (const auto& entry : ordered)
    entries.push_back(entry.second);
  return entries;
}

std::string safe_name(const std::string& name) {
  std::string safe;
  for (char c : name) {
    const bool good =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
    if (good)
      safe += c;
    else if (safe.empty() || safe.back() != '_')
      safe += '_';
  }
  while (!safe.empty() && (safe.front() == '.' || safe.front() == '-'))
    safe.erase(safe.begin());
  while (!safe.empty() && safe.back() == '_')
    safe.pop_back();
  // Leaves room for "-sda.qcow2.partial" below the 255 bytes that file systems allow.
  constexpr std::size_t longest = 200;
  if (safe.size() > longest)
    safe.resize(longest);
  if (safe.empty() || safe.find_first_not_of("_") == std::string::npos)
    return "machine";
  return safe;
}

} // namespace kvmport
