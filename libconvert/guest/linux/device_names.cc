// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/linux/device_names.h"

#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <set>

namespace kvmport::linux_guest {

namespace {

/// "sdb3" taken apart: family "sd", disk 1, partition 3.
struct KernelName {
  std::string_view family;
  unsigned disk = 0, partition = 0;
};

std::optional<unsigned> number(std::string_view text) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size() || value > 100000)
    return std::nullopt;
  return value;
}

/// nvmeXnY[pZ] and mmcblkX[pZ]: X is the disk.
std::optional<KernelName> parse_nvme(std::string_view name) {
  if (!name.starts_with("nvme"))
    return std::nullopt;
  const std::size_t n = name.find('n', 4);
  if (n == std::string_view::npos)
    return std::nullopt;
  const std::size_t p = name.find('p', n);
  const auto controller = number(name.substr(4, n - 4));
  const auto space = number(name.substr(n + 1, p == std::string_view::npos ? p : p - n - 1));
  const auto partition = p == std::string_view::npos ? std::optional<unsigned>(0) : number(name.substr(p + 1));
  if (!controller || !space || *space == 0 || !partition)
    return std::nullopt;
  return KernelName{"nvme", *controller, *partition};
}

/// sdX, hdX, xvdX, vdX with an optional partition number.
std::optional<KernelName> parse_lettered(std::string_view name) {
  for (std::string_view family : {"xvd", "sd", "hd", "vd"}) {
    if (!name.starts_with(family))
      continue;
    std::string_view rest = name.substr(family.size());
    std::size_t letters = 0;
    unsigned disk = 0;
    while (letters < rest.size() && letters < 3 && rest[letters] >= 'a' && rest[letters] <= 'z')
      disk = disk * 26 + static_cast<unsigned>(rest[letters++] - 'a' + 1);
    if (letters == 0)
      return std::nullopt;
    const auto partition = letters == rest.size() ? std::optional<unsigned>(0) : number(rest.substr(letters));
    if (!partition || (letters != rest.size() && rest[letters] == '0'))
      return std::nullopt;
    return KernelName{family, disk - 1, *partition};
  }
  return std::nullopt;
}

std::optional<KernelName> parse_kernel_name(std::string_view path) {
  if (!path.starts_with("/dev/"))
    return std::nullopt;
  const std::string_view name = path.substr(5);
  if (auto nvme = parse_nvme(name))
    return nvme;
  return parse_lettered(name);
}

constexpr std::string_view by_path = "/dev/disk/by-path/", by_id = "/dev/disk/by-id/";
/// Links that Azure's udev rules make.
constexpr std::string_view azure = "/dev/disk/azure/", cloud = "/dev/disk/cloud/";

bool is_link(std::string_view name) {
  return name.starts_with(by_path) || name.starts_with(by_id) || name.starts_with(azure) || name.starts_with(cloud);
}

/// "/dev/sdb3" → "sdb": the part of a kernel name that names the disk.
std::string_view disk_part(std::string_view path) {
  std::string_view name = path.substr(5);
  if (name.starts_with("nvme"))
    return name.substr(0, name.find('p'));
  return name.substr(0, name.find_first_of("0123456789"));
}

/// by-id names that udev makes of what is on the disk, not of the controller.
bool is_stable_id(std::string_view id) {
  for (std::string_view prefix : {"dm-", "md-", "lvm-", "usb-"})
    if (id.starts_with(prefix))
      return true;
  return false;
}

/// The text after `tag` up to the next '-', ':' or '.' as a number.
std::optional<unsigned> number_after(std::string_view text, std::string_view tag) {
  const std::size_t at = text.find(tag);
  if (at == std::string_view::npos)
    return std::nullopt;
  std::string_view rest = text.substr(at + tag.size());
  return number(rest.substr(0, rest.find_first_of("-:.")));
}

/// The unit of a disk inside its controller as a by-path name tells it.
std::optional<unsigned> unit_of_path(std::string_view link) {
  for (std::string_view tag : {"-scsi-", "-sas-", "-vmbus-"}) {
    const std::size_t at = link.find(tag);
    if (at == std::string_view::npos)
      continue;
    // HOST:CHANNEL:TARGET:LUN
    const std::string_view address = link.substr(at + tag.size());
    std::array<std::optional<unsigned>, 4> parts;
    std::size_t from = 0;
    for (auto& part : parts) {
      const std::size_t end = address.find(':', from);
      part = number(address.substr(from, end == std::string_view::npos ? end : end - from));
      if (end == std::string_view::npos)
        break;
      from = end + 1;
    }
    return parts[2];
  }
  if (const auto port = number_after(link, "-ata-"); port && *port > 0)
    return *port - 1;
  return std::nullopt;
}

bool is_name_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         std::string_view("_./+@-#%~").find(c) != std::string_view::npos;
}

} // namespace

DeviceTranslator::DeviceTranslator(const GuestInfo& info) : info_(info) {}

DeviceTranslator::DeviceTranslator(const GuestInfo& info, const GuestFilesystem& guest) : info_(info) {
  if (info.machine.disks.size() > 1)
    learn_from_root(guest);
}

void DeviceTranslator::learn_from_root(const GuestFilesystem& guest) {
  const BlockDevice* root = nullptr;
  for (const BlockDevice& device : info_.devices)
    if (device.source_name == info_.root_device && device.disk >= 0)
      root = &device;
  const auto text = guest.try_read("/etc/fstab");
  if (!root || !text)
    return;
  for (const std::string& line : split_lines(*text)) {
    const auto words = split_words(line_body(line));
    if (words.size() < 2 || words[0].text.starts_with('#') || words[1].text != "/")
      continue;
    const auto name = parse_kernel_name(words[0].text);
    if (!name || name->partition != root->partition)
      return;
    const Found expected = by_kernel_name(words[0].text);
    if (expected.device == root && expected.doubt.empty())
      return;
    const std::string disk(disk_part(words[0].text));
    learned_[disk] = root->disk;
    if (info_.machine.disks.size() != 2)
      return;
    // With two disks the other name is the other disk.
    std::string other = disk;
    const std::size_t letter = name->family == "nvme" ? 4 : disk.size() - 1;
    const char first = name->family == "nvme" ? '0' : 'a';
    if (disk[letter] == first || disk[letter] == first + 1) {
      other[letter] = static_cast<char>(disk[letter] == first ? first + 1 : first);
      learned_[other] = 1 - root->disk;
    }
    return;
  }
}

bool DeviceTranslator::depends_on_bus(std::string_view name) {
  if (name.starts_with(by_path) || name.starts_with(azure) || name.starts_with(cloud))
    return true;
  if (name.starts_with(by_id))
    return !is_stable_id(name.substr(by_id.size()));
  return parse_kernel_name(name).has_value();
}

const BlockDevice* DeviceTranslator::of_disk(int disk, unsigned partition) const {
  for (const BlockDevice& device : info_.devices)
    if (device.disk == disk && device.partition == partition)
      return &device;
  return nullptr;
}

DeviceTranslator::Found DeviceTranslator::by_kernel_name(std::string_view name) const {
  if (!learned_.empty() && name.size() > 5)
    if (const auto hit = learned_.find(disk_part(name)); hit != learned_.end())
      if (const auto parsed = parse_kernel_name(name))
        return {of_disk(hit->second, parsed->partition),
                "the guest's own fstab shows that it numbered the disks otherwise than the machine's description"};
  for (const BlockDevice& device : info_.devices)
    if (device.source_name == name)
      return {&device, {}};
  const auto parsed = parse_kernel_name(name);
  if (!parsed)
    return {};
  const auto& disks = info_.machine.disks;
  // The same family would have matched above: this disk or partition isn't there.
  const auto same_family = [&](const MachineDisk& disk) {
    const auto own = parse_kernel_name("/dev/" + disk.source_name);
    return own && own->family == parsed->family;
  };
  if (std::any_of(disks.begin(), disks.end(), same_family))
    return {};
  // The guest used another driver's names than the description lets expect.
  int disk = -1;
  if (parsed->family == "hd") // hda..hdd are places, not an order: primary master, primary slave, …
    for (std::size_t i = 0; i < disks.size(); i++)
      if (disks[i].controller == ControllerType::ide && disks[i].controller_index * 2 + disks[i].unit == parsed->disk)
        disk = static_cast<int>(i);
  if (disk < 0 && parsed->disk < disks.size())
    disk = static_cast<int>(parsed->disk);
  const BlockDevice* device = disk < 0 ? nullptr : of_disk(disk, parsed->partition);
  if (!device)
    return {};
  if (disks.size() == 1)
    return {device, {}};
  return {device, "the disks were matched by their order, as the machine's description has no disk of that kind"};
}

DeviceTranslator::Found DeviceTranslator::by_link_name(std::string_view name) const {
  std::string_view link = base_name(name);
  unsigned partition = 0;
  if (const std::size_t at = link.rfind("-part"); at != std::string_view::npos)
    if (const auto parsed = number(link.substr(at + 5))) {
      partition = *parsed;
      link = link.substr(0, at);
    }
  const auto& disks = info_.machine.disks;
  if (name.starts_with(azure) || name.starts_with(cloud)) // others are temporary disks, or by their place
    return link == "root" || link == "azure_root" ? Found{of_disk(0, partition), {}} : Found{};
  if (disks.size() == 1)
    return {of_disk(0, partition), {}};
  if (name.starts_with(by_id)) {
    for (std::size_t i = 0; i < disks.size(); i++)
      if (disks[i].serial.size() >= 4 && lower(link).find(lower(disks[i].serial)) != std::string::npos)
        return {of_disk(static_cast<int>(i), partition), {}};
    return {};
  }
  const auto unit = unit_of_path(link);
  std::vector<std::size_t> fitting;
  for (std::size_t i = 0; unit && i < disks.size(); i++)
    if ((disks[i].controller == ControllerType::ide ? disks[i].controller_index : disks[i].unit) == *unit)
      fitting.push_back(i);
  if (fitting.size() != 1)
    return {};
  return {of_disk(static_cast<int>(fitting[0]), partition), "the disk was found by its place on the old controller"};
}

const BlockDevice* DeviceTranslator::find(std::string_view name) const {
  static constexpr std::array<std::pair<std::string_view, std::string BlockDevice::*>, 8> tags{{
      {"UUID=", &BlockDevice::uuid},
      {"LABEL=", &BlockDevice::label},
      {"PARTUUID=", &BlockDevice::part_uuid},
      {"PARTLABEL=", &BlockDevice::part_label},
      {"/dev/disk/by-uuid/", &BlockDevice::uuid},
      {"/dev/disk/by-label/", &BlockDevice::label},
      {"/dev/disk/by-partuuid/", &BlockDevice::part_uuid},
      {"/dev/disk/by-partlabel/", &BlockDevice::part_label},
  }};
  for (const auto& [tag, member] : tags) {
    if (!name.starts_with(tag))
      continue;
    const std::string value = unquote(name.substr(tag.size()));
    for (const BlockDevice& device : info_.devices)
      if (!value.empty() && equal_nocase(device.*member, value))
        return &device;
    return nullptr;
  }
  if (is_link(name))
    return by_link_name(name).device;
  return by_kernel_name(name).device;
}

std::string DeviceTranslator::stable_text(const BlockDevice& device, NameStyle style) const {
  const auto tag_or_path = [&](std::string_view tag, std::string_view directory, const std::string& value) {
    const bool path = style == NameStyle::path || style == NameStyle::stable_path;
    return (path ? "/dev/disk/" + std::string(directory) + "/" : std::string(tag)) + value;
  };
  const bool shared = device.type == "LVM2_member" || device.type == "linux_raid_member";
  const bool by_partition = style == NameStyle::kernel_tag || style == NameStyle::stable_path || shared;
  if (by_partition && !device.part_uuid.empty())
    return tag_or_path("PARTUUID=", "by-partuuid", device.part_uuid);
  if (by_partition && (style == NameStyle::kernel_tag || shared))
    return {};
  if (!device.uuid.empty())
    return tag_or_path("UUID=", "by-uuid", device.uuid);
  if (!device.part_uuid.empty())
    return tag_or_path("PARTUUID=", "by-partuuid", device.part_uuid);
  return {};
}

DeviceName DeviceTranslator::translate(std::string_view name, NameStyle style) const {
  DeviceName result;
  if (!depends_on_bus(name))
    return result;
  const bool link = is_link(name);
  Found found = link ? by_link_name(name) : by_kernel_name(name);
  result.verdict = DeviceName::Verdict::unknown;
  result.device = found.device;
  if (!found.device)
    return result;
  result.text = stable_text(*found.device, style);
  if (result.text.empty())
    return result;
  result.verdict = DeviceName::Verdict::translated;
  result.doubt = std::move(found.doubt);
  return result;
}

std::string DeviceTranslator::rewrite(std::string_view text, NameStyle style, const std::string& where,
                                      Draft& draft) const {
  std::string out;
  std::size_t copied = 0;
  for (std::size_t at = text.find("/dev/"); at != std::string_view::npos; at = text.find("/dev/", at)) {
    if (at > 0 && (is_name_char(text[at - 1]) || text[at - 1] == ':')) {
      at += 5;
      continue;
    }
    std::size_t end = at;
    const bool link = is_link(text.substr(at));
    while (end < text.size() && (is_name_char(text[end]) || (link && (text[end] == ':' || text[end] == '\\'))))
      end++;
    std::string_view name = text.substr(at, end - at);
    DeviceName result = translate(name, style);
    if (link && result.verdict == DeviceName::Verdict::unknown) // cryptdevice=/dev/disk/by-path/…:name
      if (const std::size_t colon = name.rfind(':'); colon != std::string_view::npos) {
        DeviceName shorter = translate(name.substr(0, colon), style);
        if (shorter.verdict == DeviceName::Verdict::translated) {
          result = std::move(shorter);
          name = name.substr(0, colon);
        }
      }
    if (result.verdict == DeviceName::Verdict::translated) {
      out.append(text.substr(copied, at - copied)).append(result.text);
      copied = at + name.size();
      if (!result.doubt.empty())
        draft.warn(where + ": " + std::string(name) + " was taken for " + result.text + ": " + result.doubt);
    } else if (result.verdict == DeviceName::Verdict::unknown) {
      draft.warn(where + ": " + std::string(name) + " is a name of the old hardware, and " +
                 (result.device ? "it has no UUID" : "no disk or partition of the machine fits it") +
                 "; it was left as it is");
    }
    at += name.size();
  }
  return out.append(text.substr(copied));
}

} // namespace kvmport::linux_guest
