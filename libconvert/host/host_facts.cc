// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"
#include "libconvert/host/host.h"
#include "libconvert/machine/text.h"
#include "libconvert/p2v/sys_tree.h"

#include <algorithm>
#include <sys/stat.h>
#include <sys/statvfs.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

bool has_flag(const CpuInventory& cpu, const char* flag) {
  return std::find(cpu.flags.begin(), cpu.flags.end(), flag) != cpu.flags.end();
}

/// A line "NAME:  123 kB" of /proc/meminfo, in bytes.
std::uint64_t memory_line(const std::string& meminfo, const std::string& name) {
  const std::string text = "\n" + meminfo;
  const std::size_t at = text.find("\n" + name + ":");
  if (at == std::string::npos)
    return 0;
  const std::size_t begin = at + name.size() + 2;
  std::string_view line = trimmed(std::string_view(text).substr(begin, text.find('\n', begin) - begin));
  if (line.ends_with(" kB"))
    line.remove_suffix(3);
  return multiplied(parse_number(line).value_or(0), 1024).value_or(0);
}

void read_modules(const SysTree& tree, HostFacts& facts) {
  for (const std::string& name : tree.list("/sys/module"))
    if (name.starts_with("kvm_"))
      facts.kvm_modules.push_back(name);
  const auto off = [&](const char* path) {
    const std::string value = tree.word(path);
    return value == "N" || value == "0";
  };
  facts.paging_off = off("/sys/module/kvm_intel/parameters/ept") || off("/sys/module/kvm_amd/parameters/npt");
}

void read_huge_pages(const SysTree& tree, HostFacts& facts) {
  constexpr std::string_view prefix = "hugepages-";
  const std::string at = "/sys/kernel/mm/hugepages/";
  for (const std::string& name : tree.list(at)) {
    if (!name.starts_with(prefix) || !name.ends_with("kB"))
      continue;
    const auto kibi = parse_number(name.substr(prefix.size(), name.size() - prefix.size() - 2));
    facts.huge_pages.push_back({multiplied(kibi.value_or(0), 1024).value_or(0),
                                tree.number(at + name + "/nr_hugepages").value_or(0),
                                tree.number(at + name + "/free_hugepages").value_or(0)});
  }
  const std::string modes = tree.word("/sys/kernel/mm/transparent_hugepage/enabled"); // "always [madvise] never"
  const std::size_t open = modes.find('['), close = modes.find(']');
  if (open != std::string::npos && close != std::string::npos && close > open)
    facts.transparent_huge_pages = modes.substr(open + 1, close - open - 1);
}

} // namespace

HostFacts read_host(const fs::path& root) {
  const Inventory inventory = read_inventory(root);
  const SysTree tree(root);
  HostFacts facts;
  facts.cpu = inventory.cpu;
  facts.extension = has_flag(facts.cpu, "vmx") ? "VT-x" : has_flag(facts.cpu, "svm") ? "AMD-V" : "";
  facts.paging = has_flag(facts.cpu, "ept") ? "EPT" : has_flag(facts.cpu, "npt") ? "NPT" : "";
  facts.guest = has_flag(facts.cpu, "hypervisor");
  if (facts.guest) {
    const std::string xen = tree.word("/sys/hypervisor/type");
    facts.hypervisor = !xen.empty() ? xen : inventory.smbios.manufacturer;
  }
  const std::string meminfo = tree.word("/proc/meminfo");
  facts.memory = memory_line(meminfo, "MemTotal");
  facts.available = memory_line(meminfo, "MemAvailable");
  facts.swap = memory_line(meminfo, "SwapTotal");
  read_modules(tree, facts);
  read_huge_pages(tree, facts);
  return facts;
}

FilesystemSpace filesystem_of(const fs::path& path) {
  fs::path at = fs::absolute(path).lexically_normal();
  std::error_code ec;
  while (!fs::exists(at, ec) && at != at.root_path())
    at = at.parent_path();
  at = fs::canonical(at, ec);
  struct statvfs space {};
  struct stat here {};
  if (ec || ::statvfs(at.c_str(), &space) != 0 || ::stat(at.c_str(), &here) != 0)
    throw Error("NOT_FOUND", "there is no filesystem for " + path.string());
  for (fs::path up = at.parent_path(); at != up; up = at.parent_path()) {
    struct stat above {};
    if (::stat(up.c_str(), &above) != 0 || above.st_dev != here.st_dev)
      break;
    at = up;
  }
  return {at.string(), std::uint64_t{space.f_frsize} * space.f_blocks, std::uint64_t{space.f_frsize} * space.f_bavail};
}

} // namespace kvmport
