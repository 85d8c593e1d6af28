// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/inspect_system.h"

#include "base/bytes.h"
#include "formats/partitions.h"
#include "libconvert/guest/filesystem_paths.h"
#include "libconvert/guest/linux/device_names.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <array>
#include <set>

namespace kvmport {
namespace {

using namespace linux_guest;

std::vector<std::string> split_list(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const std::string_view part = text.substr(0, text.find(separator));
    text.remove_prefix(std::min(text.size(), part.size() + 1));
    if (!part.empty())
      parts.emplace_back(part);
  }
  return parts;
}

/// fstab writes blanks as \040 and the like.
std::string unescape(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); i++) {
    const auto octal = [&](std::size_t at) { return at < text.size() && text[at] >= '0' && text[at] <= '7'; };
    if (text[i] == '\\' && octal(i + 1) && octal(i + 2) && octal(i + 3)) {
      out += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

/// e_machine of the ELF specification, for the processors that Linux guests run on.
std::string elf_machine(std::string_view head) {
  if (head.size() < 20 || !head.starts_with("\x7f"
                                            "ELF"))
    return {};
  const ByteSpan bytes = as_bytes(head);
  const bool big = head[5] == 2;
  const auto machine = big ? load_be<std::uint16_t>(bytes, 18) : load_le<std::uint16_t>(bytes, 18);
  switch (machine) {
  case 3:
    return "i686";
  case 21:
    return big ? "ppc64" : "ppc64le";
  case 22:
    return "s390x";
  case 40:
    return "armv7l";
  case 62:
    return "x86_64";
  case 183:
    return "aarch64";
  case 243:
    return "riscv64";
  case 258:
    return "loongarch64";
  default:
    return {};
  }
}

/// Distributions before os-release: their own files, whose first line names them.
void read_old_identity(const GuestFilesystem& guest, GuestInfo& info) {
  static constexpr std::array<std::pair<const char*, const char*>, 6> files{{{"/etc/redhat-release", "rhel"},
                                                                             {"/etc/SuSE-release", "sles"},
                                                                             {"/etc/debian_version", "debian"},
                                                                             {"/etc/alpine-release", "alpine"},
                                                                             {"/etc/gentoo-release", "gentoo"},
                                                                             {"/etc/arch-release", "arch"}}};
  for (const auto& [path, id] : files) {
    const auto text = guest.try_read(path);
    if (!text)
      continue;
    info.distro = id;
    const auto lines = split_lines(*text);
    info.pretty_name = lines.empty() ? id : std::string(trim(line_body(lines.front())));
    if (info.distro == "rhel" && lower(info.pretty_name).starts_with("centos"))
      info.distro = "centos";
    const auto digit = info.pretty_name.find_first_of("0123456789");
    if (digit != std::string::npos)
      info.version = info.pretty_name.substr(digit, info.pretty_name.find_first_not_of("0123456789.", digit) - digit);
    if (info.distro == "debian")
      info.pretty_name = "Debian " + info.pretty_name;
    return;
  }
}

} // namespace

std::vector<FstabEntry> parse_fstab(std::string_view text) {
  std::vector<FstabEntry> entries;
  std::size_t number = 0;
  for (const auto& line : split_lines(text)) {
    number++;
    const auto words = split_words(line_body(line));
    if (words.size() < 2 || words[0].text.starts_with('#'))
      continue;
    FstabEntry entry;
    entry.spec = unescape(words[0].text);
    std::erase(entry.spec, '"'); // UUID="…" and "UUID=…" both occur
    entry.path = unescape(words[1].text);
    entry.type = words.size() > 2 ? std::string(words[2].text) : "auto";
    entry.options = words.size() > 3 ? std::string(words[3].text) : "defaults";
    entry.line = number;
    entries.push_back(std::move(entry));
  }
  return entries;
}

bool needed_mount(const FstabEntry& entry) {
  static const std::set<std::string, std::less<>> no_device{
      "proc",    "sysfs", "tmpfs", "devtmpfs",  "devpts",   "swap",       "nfs",       "nfs4",       "cifs",
      "overlay", "aufs",  "none",  "bind",      "9p",       "fuse",       "sshfs",     "cgroup",     "debugfs",
      "iso9660", "udf",   "ceph",  "glusterfs", "efivarfs", "securityfs", "hugetlbfs", "binfmt_misc"};
  if (no_device.contains(entry.type) || !entry.path.starts_with('/') || entry.path == "/")
    return false;
  for (const auto& option : split_list(entry.options, ','))
    if (option == "bind" || option == "rbind" || option == "loop")
      return false;
  for (const char* directory : {"/boot", "/efi", "/esp", "/usr", "/var", "/opt"})
    if (entry.path == directory)
      return true;
  return guest_path::below(entry.path, "/boot") || guest_path::below(entry.path, "/usr") || entry.path == "/var/lib" ||
         entry.path == "/var/cache";
}

std::string mount_options(const FstabEntry& entry) {
  std::string options = "noatime";
  for (const auto& option : split_list(entry.options, ','))
    if (option.starts_with("subvol=") || option.starts_with("subvolid="))
      options += "," + option;
  if (entry.type == "xfs")
    options += ",nouuid";
  return options;
}

bool is_esp(const BlockDevice& device) {
  return device.partition > 0 && is_efi_system_type(device.part_type);
}
bool is_extended_boot(const BlockDevice& device) {
  return device.partition > 0 && device.part_type == "bc13c2ff-59e6-4262-a352-b275fd6f7172";
}
bool is_bios_boot(const BlockDevice& device) {
  return is_bios_boot_type(device.part_type);
}

std::string place_for_esp(const GuestFilesystem& guest, const std::vector<Mount>& mounts) {
  for (const char* place : {"/efi", "/boot/efi", "/boot", "/esp", "/mnt"}) {
    const bool used = std::ranges::any_of(mounts, [&](const Mount& m) { return m.path == place; });
    const auto st = guest.lstat(place);
    if (!used && st && st->type == FileType::directory && guest.list(place).empty())
      return place;
  }
  return {};
}

bool has_efi_loader(const GuestFilesystem& guest, const std::string& path) {
  for (const auto& top : guest.list(path)) {
    if (lower(top) != "efi")
      continue;
    const std::string efi = guest_path::join(path, top);
    for (const auto& vendor : guest.list(efi))
      for (const auto& file : guest.list(guest_path::join(efi, vendor)))
        if (lower(file).ends_with(".efi"))
          return true;
  }
  return false;
}

void read_identity(const GuestFilesystem& guest, GuestInfo& info) {
  for (const char* path : {"/etc/os-release", "/usr/lib/os-release"}) {
    const auto text = guest.try_read(path);
    if (!text)
      continue;
    info.distro = shell_value(*text, "ID").value_or("");
    info.version = shell_value(*text, "VERSION_ID").value_or("");
    info.pretty_name = shell_value(*text, "PRETTY_NAME").value_or(shell_value(*text, "NAME").value_or(info.distro));
    info.like = split_list(shell_value(*text, "ID_LIKE").value_or(""), ' ');
    break;
  }
  if (info.distro.empty())
    read_old_identity(guest, info);
  if (info.distro.empty())
    info.distro = "linux";
  if (info.pretty_name.empty())
    info.pretty_name = info.distro;
  static constexpr std::array<std::pair<const char*, const char*>, 5> databases{{{"/var/lib/dpkg/status", "dpkg"},
                                                                                 {"/var/lib/rpm", "rpm"},
                                                                                 {"/usr/lib/sysimage/rpm", "rpm"},
                                                                                 {"/lib/apk/db/installed", "apk"},
                                                                                 {"/var/lib/pacman/local", "pacman"}}};
  for (const auto& [path, kind] : databases)
    if (info.packages.empty() && guest.exists(path))
      info.packages = kind;
  for (const char* program : {"/bin/sh", "/sbin/init", "/usr/bin/env", "/usr/lib/systemd/systemd", "/bin/busybox"})
    if (info.arch.empty() && guest.is_file(program))
      info.arch = elf_machine(guest.read_head(program, 64));
}

void read_boot_loaders(const GuestFilesystem& guest, GuestInfo& info) {
  const auto any = [&](std::initializer_list<const char*> paths) {
    return std::ranges::any_of(paths, [&](const char* path) { return guest.is_file(path); });
  };
  if (any({"/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"}))
    info.boot_loaders.emplace_back("grub2");
  if (any({"/boot/grub/menu.lst", "/boot/grub/grub.conf"}))
    info.boot_loaders.emplace_back("grub-legacy");
  if (any({"/boot/extlinux/extlinux.conf", "/boot/syslinux/syslinux.cfg", "/extlinux.conf", "/boot/extlinux.conf"}))
    info.boot_loaders.emplace_back("extlinux");
  if (any({"/etc/lilo.conf"}))
    info.boot_loaders.emplace_back("lilo");
  if (!info.esp_path.empty() && guest.is_directory(guest_path::join(info.esp_path, "loader/entries")))
    info.boot_loaders.emplace_back("systemd-boot");
}

std::string crypttab_name(const GuestFilesystem& guest, const GuestInfo& info, const BlockDevice& container) {
  const auto text = guest.try_read("/etc/crypttab");
  if (!text)
    return {};
  const DeviceTranslator devices(info);
  for (const auto& line : split_lines(*text)) {
    const auto words = split_words(line_body(line));
    if (words.size() < 2 || words[0].text.starts_with('#'))
      continue;
    const BlockDevice* device = devices.find(unquote(words[1].text));
    if (device && device->source_name == container.source_name)
      return std::string(words[0].text);
  }
  return {};
}

bool GuestInfo::is(std::string_view id) const {
  return distro == id || std::ranges::find(like, id) != like.end();
}

} // namespace kvmport
