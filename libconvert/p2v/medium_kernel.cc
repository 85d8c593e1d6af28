// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/medium_kernel.h"

#include "base/file.h"
#include "base/process.h"
#include "libconvert/guest/linux/modules.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fmt/format.h>
#include <sstream>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

constexpr const char* kernel_hint =
    "install linux-image-amd64, or name one: --kernel VMLINUZ --modules DIR, or --kernel-deb FILE";

bool newer(const std::string& a, const std::string& b) {
  return ::strverscmp(a.c_str(), b.c_str()) > 0;
}

bool for_real_hardware(const std::string& version) {
  return version.find("cloud") == version.npos;
}

/// Names in a folder that begin and end like this, what lies between, newest first.
std::vector<std::string> versions_in(const fs::path& folder, const std::string& begin, const std::string& end) {
  std::vector<std::string> out;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename();
    if (name.starts_with(begin) && name.ends_with(end) && name.size() > begin.size() + end.size())
      out.push_back(name.substr(begin.size(), name.size() - begin.size() - end.size()));
  }
  std::ranges::sort(out, newer);
  return out;
}

bool readable(const fs::path& path) {
  return ::access(path.c_str(), R_OK) == 0;
}

/// Runs a program of this host that must succeed.
void must(const std::vector<std::string>& argv) {
  const ProcessResult r = run_process(argv, std::chrono::minutes(10));
  if (r.exit_code != 0)
    throw Error("KERNEL_MISSING", argv.front() + " failed", r.err.substr(0, 500), kernel_hint);
}

MediumKernel unpack(const fs::path& package, const fs::path& scratch) {
  const fs::path root = scratch / "kernel-package";
  must({"dpkg-deb", "-x", package, root});
  for (const char* lib : {"lib", "usr/lib"}) {
    for (const auto& version : versions_in(root / lib / "modules", "", "")) {
      const fs::path image = root / "boot" / ("vmlinuz-" + version);
      if (!readable(image))
        continue;
      must({"depmod", "-b", lib == std::string_view("lib") ? root : root / "usr", version});
      return {version, image, root / lib / "modules" / version, package.filename()};
    }
  }
  throw Error("KERNEL_MISSING", package.string() + ": no kernel with its modules is in this package", {}, kernel_hint);
}

MediumKernel named(const KernelChoice& choice) {
  if (choice.image.empty() || choice.modules.empty())
    throw Error("USAGE", "--kernel and --modules go together", "a kernel takes no other kernel's modules");
  MediumKernel k{choice.modules.filename(), choice.image, choice.modules, choice.image};
  if (k.version.empty()) // "DIR/"
    k.version = choice.modules.parent_path().filename();
  return k;
}

/// Folders whose modules are taken, and what in them is not.
constexpr std::array wanted_folders{
    "arch/x86/crypto/", "crypto/", "lib/", // checksums and ciphers that others ask for by name
    "drivers/ata/", "drivers/block/", "drivers/cdrom/", "drivers/firewire/", "drivers/md/", "drivers/memstick/",
    "drivers/message/", "drivers/mmc/", "drivers/nvdimm/", "drivers/acpi/nfit/", "drivers/nvme/", "drivers/scsi/",
    "drivers/dax/", "drivers/ufs/", "drivers/virtio/", "drivers/hv/", "drivers/xen/", "drivers/pci/",
    "drivers/thunderbolt/", "drivers/usb/", "drivers/phy/", "drivers/hid/", "drivers/input/keyboard/",
    "drivers/input/serio/", "drivers/net/", "drivers/ptp/", "drivers/char/tpm/", "drivers/misc/cardreader/",
    // A watchdog that the firmware armed is kept quiet by its driver alone.
    "drivers/watchdog/", "drivers/mfd/lpc_", "drivers/i2c/busses/i2c-i801.", "drivers/i2c/i2c-smbus.", "fs/ext4/",
    "fs/xfs/", "fs/btrfs/", "fs/fat/", "fs/exfat/", "fs/ntfs3/", "fs/isofs/", "fs/efivarfs/", "fs/nls/", "net/8021q/",
    "net/802/", "net/llc/", "net/packet/", "net/ipv6/ipv6."};
constexpr std::array unwanted_folders{"drivers/net/wireless/",
                                      "drivers/net/wwan/",
                                      "drivers/net/can/",
                                      "drivers/net/hamradio/",
                                      "drivers/net/ieee802154/",
                                      "drivers/net/wan/",
                                      "drivers/net/arcnet/",
                                      "drivers/net/ppp/",
                                      "drivers/net/slip/",
                                      "drivers/net/plip/",
                                      "drivers/net/wireguard/",
                                      "drivers/net/fddi/",
                                      "drivers/net/netdevsim/",
                                      "drivers/usb/gadget/",
                                      "drivers/usb/serial/",
                                      "drivers/usb/misc/",
                                      "drivers/usb/atm/",
                                      "drivers/usb/usbip/",
                                      "drivers/usb/image/",
                                      "drivers/scsi/qla2xxx/tcm_",
                                      "drivers/block/drbd/",
                                      "drivers/block/zram/",
                                      "drivers/block/rnbd/",
                                      "drivers/hid/intel-ish-hid/",
                                      "drivers/hid/amd-sfh-hid/",
                                      "drivers/phy/qualcomm/",
                                      "drivers/xen/xen-pciback/",
                                      "drivers/watchdog/softdog.",
                                      "drivers/nvme/target/",
                                      "drivers/usb/class/usblp.",
                                      "lib/test_",
                                      "crypto/tcrypt."};

struct ModuleTable {
  std::map<std::string, std::string> paths; ///< by name
  std::map<std::string, std::vector<std::string>> needs;
};

ModuleTable read_module_table(const fs::path& modules) {
  ModuleTable table;
  std::istringstream text(read_file(modules / "modules.dep", 64U << 20));
  for (std::string line; std::getline(text, line);) {
    const auto colon = line.find(':');
    if (colon == line.npos)
      continue;
    const std::string path = line.substr(0, colon), name = linux_guest::module_name(path);
    if (name.empty() || path.find("..") != path.npos || path.front() == '/')
      throw Error("MODULES_UNREADABLE", (modules / "modules.dep").string() + ": a line names no module", path);
    table.paths[name] = path;
    std::istringstream others(line.substr(colon + 1));
    for (std::string other; others >> other;)
      table.needs[name].push_back(linux_guest::module_name(other));
  }
  return table;
}

void choose(const ModuleTable& table, const std::string& name, std::map<std::string, std::string>& chosen) {
  const auto path = table.paths.find(name);
  if (path == table.paths.end() || !chosen.emplace(name, path->second).second)
    return;
  if (const auto needs = table.needs.find(name); needs != table.needs.end())
    for (const auto& other : needs->second) // modules.dep lists them all, not only the next
      choose(table, other, chosen);
}

} // namespace

MediumKernel find_medium_kernel(const KernelChoice& choice, const fs::path& scratch) {
  if (!choice.package.empty())
    return unpack(choice.package, scratch);
  if (!choice.image.empty() || !choice.modules.empty())
    return named(choice);
  for (const auto& version : versions_in(choice.root / "boot", "vmlinuz-", "")) {
    const fs::path image = choice.root / "boot" / ("vmlinuz-" + version),
                   modules = choice.root / "lib/modules" / version;
    if (for_real_hardware(version) && readable(image) && readable(modules / "modules.dep") &&
        fs::is_directory(modules / "kernel/drivers/ata"))
      return {version, image, modules, "installed"};
  }
  const fs::path cache = choice.root / "var/cache/apt/archives";
  for (const auto& rest : versions_in(cache, "linux-image-", ".deb"))
    if (rest.front() >= '0' && rest.front() <= '9' && rest.find("-amd64_") != rest.npos && for_real_hardware(rest) &&
        readable(cache / ("linux-image-" + rest + ".deb")))
      return unpack(cache / ("linux-image-" + rest + ".deb"), scratch);
  throw Error("KERNEL_MISSING", "no kernel for real hardware is installed or in apt's cache",
              "looked in /boot, /lib/modules and /var/cache/apt/archives", kernel_hint);
}

bool wanted_on_medium(std::string_view path) {
  if (!path.starts_with("kernel/"))
    return false;
  path.remove_prefix(7);
  const auto begins = [&](const char* folder) { return path.starts_with(folder); };
  return std::ranges::any_of(wanted_folders, begins) && std::ranges::none_of(unwanted_folders, begins);
}

MediumModules choose_medium_modules(const MediumKernel& kernel) {
  const ModuleTable table = read_module_table(kernel.modules);
  MediumModules out;
  for (const auto& [name, path] : table.paths)
    if (wanted_on_medium(path))
      choose(table, name, out.chosen);
  for (const char* name : {"ahci", "nvme", "sd_mod", "usb_storage", "e1000e", "megaraid_sas"})
    if (!out.chosen.contains(name))
      throw Error("KERNEL_MISSING", fmt::format("{}: this kernel has no module {}", kernel.version, name),
                  "it is not made for real hardware", kernel_hint);
  const auto read = [&](const char* name) -> std::optional<std::string> {
    const fs::path path = kernel.modules / name;
    return fs::exists(path) ? std::optional(read_file(path, 64U << 20)) : std::nullopt;
  };
  auto indexes = linux_guest::cut_module_indexes(out.chosen, read);
  if (!indexes)
    throw Error("MODULES_UNREADABLE", kernel.modules.string() + ": the indexes of the modules can't be used", {},
                "run depmod " + kernel.version);
  out.indexes = std::move(*indexes);
  return out;
}

std::set<std::string> firmware_of_module(std::string_view module) {
  std::set<std::string> out;
  const std::string_view key("\0firmware=", 10);
  for (auto at = module.find(key); at != module.npos; at = module.find(key, at + 1)) {
    const std::string_view rest = module.substr(at + key.size(), 256), value = rest.substr(0, rest.find('\0'));
    if (value.size() < rest.size() && !value.empty() && value.front() != '/' && value.find("..") == value.npos)
      out.emplace(value);
  }
  return out;
}

} // namespace kvmport
