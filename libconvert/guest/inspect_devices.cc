// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/inspect_devices.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <sstream>

namespace kvmport {
namespace {

using Fields = std::map<std::string, std::string, std::less<>>;

int hex_digit(char c) {
  if (c >= '0' && c <= '9')
    return c - '0';
  if (c >= 'a' && c <= 'f')
    return c - 'a' + 10;
  return -1;
}

/// NAME="value" pairs of lsblk -P; odd bytes come as \xHH.
Fields parse_pairs(std::string_view line) {
  Fields fields;
  while (true) {
    const auto equals = line.find("=\"");
    if (equals == std::string_view::npos)
      return fields;
    std::string name(line.substr(line.find_first_not_of(' '), equals - line.find_first_not_of(' ')));
    std::string value;
    std::size_t i = equals + 2;
    for (; i < line.size() && line[i] != '"'; i++) {
      if (line[i] == '\\' && i + 3 < line.size() && line[i + 1] == 'x' && hex_digit(line[i + 2]) >= 0 &&
          hex_digit(line[i + 3]) >= 0) {
        value += static_cast<char>(hex_digit(line[i + 2]) * 16 + hex_digit(line[i + 3]));
        i += 3;
      } else {
        value += line[i];
      }
    }
    fields[name] = value;
    if (i >= line.size())
      return fields;
    line.remove_prefix(i + 1);
  }
}

std::string lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

template <class T> std::optional<T> number(std::string_view text) {
  T value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size())
    return std::nullopt;
  return value;
}

/// The appliance's disks are SCSI targets in the order in which they were added: "HOST:0:TARGET:LUN".
std::optional<int> disk_index(std::string_view hctl) {
  const auto first = hctl.find(':'), second = hctl.find(':', first + 1), third = hctl.find(':', second + 1);
  if (first == std::string_view::npos || second == std::string_view::npos || third == std::string_view::npos)
    return std::nullopt;
  return number<int>(hctl.substr(second + 1, third - second - 1));
}

class Survey {
 public:
  explicit Survey(const Machine& machine) : machine_(machine) {}

  void read(std::string_view text) {
    std::istringstream lines{std::string(text)};
    std::vector<Fields> found;
    std::string array;
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("@md ")) {
        array = line.substr(4);
      } else if (line.starts_with("MD_NAME=")) {
        md_names_[array] = line.substr(8);
      } else if (line.find("KNAME=\"") != std::string::npos) {
        found.push_back(parse_pairs(line));
      }
    }
    for (auto& fields : found)
      add(fields);
  }

  std::vector<FoundDevice> devices;

 private:
  FoundDevice* by_kernel_name(const std::string& name) {
    const auto it = names_.find(name);
    return it == names_.end() ? nullptr : &devices[it->second];
  }

  void add(Fields& fields) {
    const std::string& kernel_name = fields["KNAME"];
    // Devices over several others are listed once for each of them.
    if (by_kernel_name(kernel_name))
      return;
    FoundDevice found;
    found.kind = fields["TYPE"];
    found.appliance = found.guestfs = "/dev/" + kernel_name;
    BlockDevice& device = found.device;
    device.table = fields["PTTYPE"];
    device.type = fields["FSTYPE"];
    device.uuid = fields["UUID"];
    device.label = fields["LABEL"];
    device.part_uuid = lower(fields["PARTUUID"]);
    device.part_label = fields["PARTLABEL"];
    device.part_type = lower(fields["PARTTYPE"]);
    device.size = number<std::uint64_t>(fields["SIZE"]).value_or(0);
    if (device.size == 0 || !name(found, fields))
      return;
    names_[kernel_name] = devices.size();
    devices.push_back(std::move(found));
  }

  bool name(FoundDevice& found, Fields& fields) {
    BlockDevice& device = found.device;
    const std::string& kernel_name = fields["KNAME"];
    if (found.kind == "disk") {
      const auto index = disk_index(fields["HCTL"]);
      if (!index || *index < 0 || static_cast<std::size_t>(*index) >= machine_.disks.size())
        return false;
      device.disk = *index;
      device.source_name = "/dev/" + machine_.disks[static_cast<std::size_t>(*index)].source_name;
      found.guestfs = "/dev/sd" + disk_letters(static_cast<unsigned>(*index));
      return true;
    }
    if (found.kind == "part") {
      const FoundDevice* parent = by_kernel_name(fields["PKNAME"]);
      if (!parent || !kernel_name.starts_with(fields["PKNAME"]))
        return false;
      std::string_view digits = std::string_view(kernel_name).substr(fields["PKNAME"].size());
      if (digits.starts_with('p'))
        digits.remove_prefix(1);
      device.partition = number<unsigned>(digits).value_or(0);
      device.disk = parent->device.disk;
      device.source_name = partition_name(parent->device.source_name, device.partition);
      device.table = parent->device.table;
      found.guestfs = parent->guestfs + std::to_string(device.partition);
      return device.partition > 0;
    }
    if (found.kind == "lvm")
      device.source_name = volume_name(fields["NAME"]);
    else if (kernel_name.starts_with("md"))
      device.source_name = md_names_[kernel_name].empty() ? "/dev/" + kernel_name : array_name(md_names_[kernel_name]);
    else if (kernel_name.starts_with("dm-"))
      device.source_name = "/dev/mapper/" + fields["NAME"];
    return !device.source_name.empty();
  }

  const Machine& machine_;
  std::map<std::string, std::string> md_names_;
  std::map<std::string, std::size_t> names_;
};

} // namespace

std::string partition_name(const std::string& disk, unsigned partition) {
  const bool digit = !disk.empty() && disk.back() >= '0' && disk.back() <= '9';
  return disk + (digit ? "p" : "") + std::to_string(partition);
}

std::string array_name(const std::string& md_name) {
  const std::string name = md_name.substr(md_name.rfind(':') + 1);
  return (number<unsigned>(name) ? "/dev/md" : "/dev/md/") + name;
}

std::string volume_name(std::string_view mapper_name) {
  std::string group, volume;
  std::string* into = &group;
  for (std::size_t i = 0; i < mapper_name.size(); i++) {
    if (mapper_name[i] == '-' && i + 1 < mapper_name.size() && mapper_name[i + 1] == '-')
      *into += mapper_name[i++];
    else if (mapper_name[i] == '-' && into == &group)
      into = &volume;
    else
      *into += mapper_name[i];
  }
  return volume.empty() ? "/dev/mapper/" + std::string(mapper_name) : "/dev/" + group + "/" + volume;
}

std::string survey_script() {
  return "lsblk -b -P -o NAME,KNAME,PKNAME,TYPE,SIZE,HCTL,FSTYPE,UUID,LABEL,PARTUUID,PARTLABEL,PARTTYPE,PTTYPE\n"
         "for m in /sys/block/md*; do\n"
         "  [ -e $m/md ] || continue\n"
         "  echo \"@md ${m##*/}\"; mdadm --detail --export /dev/${m##*/}\n"
         "done\n"
         "true\n";
}

std::vector<FoundDevice> parse_survey(std::string_view text, const Machine& machine) {
  Survey survey(machine);
  survey.read(text);
  return std::move(survey.devices);
}

std::vector<FoundDevice> survey_devices(const ApplianceHandle& appliance, const Machine& machine) {
  return parse_survey(appliance.script(survey_script()), machine);
}

} // namespace kvmport
