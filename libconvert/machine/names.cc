// SPDX-License-Identifier: Apache-2.0
#include "libconvert/machine/machine.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

namespace kvmport {
namespace {} // namespace

std::string disk_letters(unsigned index) {
  std::string letters;
  for (std::uint64_t n = std::uint64_t{index} + 1; n > 0; n = (n - 1) / 26)
    letters.insert(letters.begin(), static_cast<char>('a' + (n - 1) % 26));
  return letters;
}

void sort_disks(Machine& machine) {
  std::map<ControllerType, std::size_t> rank;
  for (const MachineDisk& disk : machine.disks)
    rank.try_emplace(disk.controller, rank.size());
  std::stable_sort(machine.disks.begin(), machine.disks.end(), [&](const MachineDisk& a, const MachineDisk& b) {
    return std::make_tuple(rank.at(a.controller), a.controller_index, a.unit) <
           std::make_tuple(rank.at(b.controller), b.controller_index, b.unit);
  });
}

void name_source_disks(Machine& machine) {
  unsigned sd = 0, vd = 0, xvd = 0;
  std::set<unsigned> nvme_controllers;
  for (const MachineDisk& disk : machine.disks)
    if (disk.controller == ControllerType::nvme)
      nvme_controllers.insert(disk.controller_index);
  for (MachineDisk& disk : machine.disks) {
    std::string name;
    switch (disk.controller) {
    case ControllerType::virtio_blk:
      name = "vd" + disk_letters(vd++);
      break;
    case ControllerType::xen:
      name = "xvd" + disk_letters(xvd++);
      break;
    case ControllerType::nvme: {
      // Controllers are counted, whatever numbers the description gives them; namespaces start at 1.
      const auto number = std::distance(nvme_controllers.begin(), nvme_controllers.find(disk.controller_index));
      name = "nvme" + std::to_string(number) + "n" + std::to_string(std::uint64_t{disk.unit} + 1);
      break;
    }
    case ControllerType::unknown:
    case ControllerType::ide:
    case ControllerType::sata:
    case ControllerType::scsi:
    case ControllerType::virtio_scsi:
    case ControllerType::usb:
      name = "sd" + disk_letters(sd++);
      break;
    }
    if (disk.source_name.empty())
      disk.source_name = name;
  }
}

} // namespace kvmport
