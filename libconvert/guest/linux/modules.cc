// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/linux/modules.h"

#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <array>

namespace kvmport::linux_guest {
namespace {

/// Drivers that matter to us and their configuration symbols, for kernels without modules.builtin.
constexpr std::array<std::pair<std::string_view, std::string_view>, 10> symbols{{
    {"CONFIG_VIRTIO_PCI", "virtio_pci"},
    {"CONFIG_VIRTIO_BLK", "virtio_blk"},
    {"CONFIG_SCSI_VIRTIO", "virtio_scsi"},
    {"CONFIG_VIRTIO_NET", "virtio_net"},
    {"CONFIG_BLK_DEV_SD", "sd_mod"},
    {"CONFIG_SATA_AHCI", "ahci"},
    {"CONFIG_ATA_PIIX", "ata_piix"},
    {"CONFIG_E1000E", "e1000e"},
    {"CONFIG_E1000", "e1000"},
    {"CONFIG_SCSI", "scsi_mod"},
}};

} // namespace

std::string plain_module_path(std::string_view path) {
  for (std::string_view ending : {".gz", ".xz", ".zst"})
    if (path.ends_with(ending))
      path.remove_suffix(ending.size());
  return std::string(path);
}

std::string module_name(std::string_view path) {
  const std::string plain = plain_module_path(path);
  if (!plain.ends_with(".ko"))
    return {};
  std::string name(base_name(plain));
  name.resize(name.size() - 3);
  std::ranges::replace(name, '-', '_');
  return name;
}

KernelModules::KernelModules(const Draft& draft, const Kernel& kernel) {
  if (!kernel.modules_dir.empty()) {
    if (const auto text = draft.try_read(kernel.modules_dir + "/modules.dep"))
      read_dep(*text, kernel.version);
    if (const auto text = draft.try_read(kernel.modules_dir + "/modules.builtin"))
      for (const auto& line : split_lines(*text))
        if (std::string name = module_name(trim(line_body(line))); !name.empty())
          builtin_.insert(std::move(name));
  }
  for (const auto& path : {"/boot/config-" + kernel.version, kernel.modules_dir + "/config"})
    if (const auto text = draft.try_read(path)) {
      read_config(*text);
      break;
    }
}

void KernelModules::read_dep(std::string_view text, const std::string& version) {
  const std::string old_prefix = "/lib/modules/" + version + "/"; // as depmod wrote until 2008
  for (const auto& line : split_lines(text)) {
    const std::string_view body = line_body(line);
    const auto colon = body.find(':');
    if (colon == std::string_view::npos || body.starts_with('#'))
      continue;
    std::string_view path = body.substr(0, colon);
    if (path.starts_with(old_prefix))
      path.remove_prefix(old_prefix.size());
    const std::string name = module_name(path);
    // Other absolute paths and paths out of the directory are not ours to follow.
    if (name.empty() || path.find("..") != std::string_view::npos || path.starts_with('/'))
      continue;
    paths_[name] = path;
    auto& needs = needs_[name];
    for (const auto& word : split_words(body.substr(colon + 1)))
      if (std::string other = module_name(word.text); !other.empty())
        needs.push_back(std::move(other));
  }
}

void KernelModules::read_config(std::string_view text) {
  for (const auto& line : split_lines(text))
    for (const auto& [symbol, name] : symbols)
      if (line.starts_with(symbol) && line_body(line).substr(symbol.size()) == "=y")
        builtin_.emplace(name);
}

std::vector<std::string> KernelModules::with_dependencies(const std::string& name) const {
  std::vector<std::string> order;
  std::set<std::string> seen;
  // modules.dep lists all that a module needs, the nearest first; the walk also copes with lists of direct needs only.
  const std::function<void(const std::string&)> visit = [&](const std::string& module) {
    if (!loadable(module) || !seen.insert(module).second)
      return;
    const auto& needs = needs_.at(module);
    for (auto it = needs.rbegin(); it != needs.rend(); ++it)
      visit(*it);
    order.push_back(module);
  };
  visit(name);
  return order;
}

} // namespace kvmport::linux_guest
