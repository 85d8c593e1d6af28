// SPDX-License-Identifier: Apache-2.0
// The initramfs of every kernel: has it the drivers of the new hardware? If not, they are appended.
#include "base/bytes.h"
#include "base/error.h"
#include "libconvert/guest/linux/device_names.h"
#include "libconvert/guest/linux/initramfs_part.h"
#include "libconvert/guest/linux/steps.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <array>

namespace kvmport::linux_guest {
namespace {

const std::vector<std::string> virtio_disk{"virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod"};
const std::vector<std::string> sata_disk{"ahci", "sd_mod"};
constexpr std::uint64_t most_initramfs = 1ULL << 30;

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (const auto& name : names)
    text += (text.empty() ? "" : ", ") + name;
  return text;
}

/// Files in an initramfs that name devices, and how.
std::optional<NameStyle> names_devices(const std::string& name) {
  if (name.starts_with("conf/conf.d/") || name == "conf/param.conf" || name == "etc/cmdline" ||
      name.starts_with("etc/cmdline.d/"))
    return NameStyle::tag;
  if (name == "cryptroot/crypttab" || name == "etc/crypttab" || name == "conf/conf.d/cryptroot")
    return NameStyle::path;
  return std::nullopt;
}

class KernelStep {
 public:
  KernelStep(const GuestInfo& info, Draft& draft, const Kernel& kernel)
      : info_(info), draft_(draft), kernel_(kernel), modules_(draft, kernel) {}

  /// Whether the kernel can drive all of these, once they are in its initramfs.
  bool can_drive(const std::vector<std::string>& drivers) {
    look();
    return std::ranges::all_of(drivers, [&](const std::string& d) {
      return modules_.builtin(d) || present_.contains(d) || (tree_ && loads_ && modules_.loadable(d));
    });
  }
  bool can_drive_network(const std::string& driver) const { return modules_.available(driver); }
  std::string why_not() const { return problem_; }

  void convert(const std::vector<std::string>& drivers) {
    look();
    if (!tree_)
      return;
    InitramfsAddition addition;
    std::vector<std::string> missing;
    for (const auto& driver : drivers) {
      if (modules_.builtin(driver) || present_.contains(driver) || !modules_.loadable(driver))
        continue;
      missing.push_back(driver);
      for (const auto& module : modules_.with_dependencies(driver))
        if (!present_.contains(module) && std::ranges::find(addition.modules, module) == addition.modules.end())
          addition.modules.push_back(module);
    }
    if (!missing.empty())
      addition.files = initramfs_loader_files(*tree_, framework_, missing);
    const bool renamed = rename_devices(addition);
    if (missing.empty() && !renamed)
      return;
    std::string reason = "the initramfs of kernel " + kernel_.version + " ";
    if (!missing.empty())
      reason += "has no " + listed(missing) + ": appended, with module indexes";
    if (renamed)
      reason += std::string(missing.empty() ? "" : "; it ") + "names devices that change with the bus";
    append_to_initramfs(kernel_.initramfs, kernel_.version, image_, tree_->parts(),
                        build_initramfs_part(*tree_, image_, draft_, kernel_, modules_, addition), reason, draft_);
  }

 private:
  void look() {
    if (looked_)
      return;
    looked_ = true;
    if (kernel_.initramfs.empty()) {
      problem_ = "it has no initramfs, and they are not built into it";
      return;
    }
    try {
      image_ = draft_.guest().read(kernel_.initramfs, most_initramfs);
      tree_.emplace(image_, [](const std::string& name) { return is_loader_file(name) || names_devices(name); });
    } catch (const Error& error) {
      if (error.code() != "INITRAMFS_UNREADABLE" && error.code() != "GUEST_FILE_TOO_LARGE")
        throw;
      problem_ = kernel_.initramfs + ": " + error.summary() + (error.why().empty() ? "" : " (" + error.why() + ")");
      draft_.warn(problem_ + "; it was left as it is");
      return;
    }
    framework_ = initramfs_framework(*tree_);
    loads_ = framework_ != InitramfsFramework::unknown;
    present_ = initramfs_modules(*tree_, initramfs_modules_directory(*tree_, kernel_.version));
    if (!loads_)
      problem_ = kernel_.initramfs + " has nothing that would load them";
    else
      problem_ = "neither it nor " + (kernel_.modules_dir.empty() ? "/lib/modules" : kernel_.modules_dir) + " has them";
  }

  bool rename_devices(InitramfsAddition& addition) {
    const DeviceTranslator devices(info_);
    bool renamed = false;
    for (const auto& [name, entry] : tree_->entries()) {
      const auto style = names_devices(name);
      const std::string* content = style ? tree_->content(name) : nullptr;
      if (!content)
        continue;
      std::string after = devices.rewrite(*content, *style, kernel_.initramfs + ": " + name, draft_);
      if (after == *content)
        continue;
      addition.files.emplace_back(name, std::move(after));
      renamed = true;
    }
    return renamed;
  }

  const GuestInfo& info_;
  Draft& draft_;
  const Kernel& kernel_;
  KernelModules modules_;
  std::string image_;
  std::optional<InitramfsTree> tree_;
  std::set<std::string> present_;
  InitramfsFramework framework_ = InitramfsFramework::unknown;
  bool looked_ = false, loads_ = false;
  std::string problem_;
};

/// What the newest kernel can drive decides about the new hardware.
std::vector<std::string> choose_hardware(KernelStep& newest, const Kernel& kernel, Plan& plan) {
  const std::vector<std::string> virtio{"virtio_pci", "virtio_blk"};
  plan.virtio_net = newest.can_drive_network("virtio_net");
  if (newest.can_drive(virtio)) {
    if (!plan.virtio_net)
      plan.fallback_reason = "kernel " + kernel.version + " has no virtio_net";
    return virtio_disk;
  }
  plan.virtio_disk = false;
  plan.fallback_reason = "kernel " + kernel.version + " cannot use virtio disks: " + newest.why_not();
  if (!newest.can_drive({"ahci"}))
    plan.warnings.push_back("kernel " + kernel.version +
                            " has no driver for SATA (ahci) either: the converted machine "
                            "may not find its disks");
  return sata_disk;
}

} // namespace

void initramfs_step(const GuestInfo& info, Draft& draft) {
  if (info.kernels.empty()) {
    draft.warn("no kernel was found in /boot: nothing is known about the drivers that it has");
    return;
  }
  std::vector<std::string> drivers;
  std::set<std::string> done;
  for (const auto& kernel : info.kernels) {
    KernelStep step(info, draft, kernel);
    if (drivers.empty())
      drivers = choose_hardware(step, kernel, draft.plan());
    else if (!step.can_drive({drivers.front()}))
      draft.warn("kernel " + kernel.version + " cannot drive the new hardware (" + drivers.front() +
                 "): " + step.why_not() + "; do not choose it in the boot menu");
    if (kernel.initramfs.empty() || done.insert(kernel.initramfs).second)
      step.convert(drivers);
  }
}

} // namespace kvmport::linux_guest
