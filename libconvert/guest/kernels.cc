// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/kernels.h"

#include "formats/kernel_image.h"

#include "base/bytes.h"
#include "libconvert/guest/filesystem_paths.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>

namespace kvmport {
namespace {

using namespace linux_guest;

constexpr std::array<std::string_view, 6> image_names{"vmlinuz", "vmlinux", "kernel", "bzImage", "Image", "linux"};
constexpr std::array<std::string_view, 4> initramfs_names{"initrd.img", "initramfs", "initrd", "initramfs-genkernel"};
constexpr std::size_t image_head = 64U << 10;

/// A kernel image and what its file name ends with ("-6.1.0-9-amd64", "-lts", "").
struct Image {
  std::string path, suffix;
};

class KernelSearch {
 public:
  explicit KernelSearch(const GuestFilesystem& guest) : guest_(guest) {
    for (const auto& version : guest.list("/lib/modules"))
      if (guest.is_directory("/lib/modules/" + version))
        modules_.push_back(version);
  }

  void directory(const std::string& boot) {
    std::vector<Image> images;
    std::vector<std::string> files;
    for (const auto& name : guest_.list(boot)) {
      if (name.ends_with(aside_suffix) || name.ends_with(".old") || name.ends_with(".bak"))
        continue;
      files.push_back(name);
      for (const auto& prefix : image_names)
        if (name == prefix || (name.starts_with(prefix) && name[prefix.size()] == '-')) {
          // /vmlinuz and /boot/vmlinuz are often links to a versioned one.
          const auto st = guest_.lstat(boot + "/" + name);
          if (st && st->type == FileType::regular)
            images.push_back({guest_path::join(boot, name), name.substr(prefix.size())});
          break;
        }
    }
    for (const auto& image : images)
      add_image(image, boot, files);
  }

  /// Boot Loader Specification entries: they name kernel and initramfs outright.
  void loader_entries(const std::string& boot) {
    for (const auto& name : guest_.list(boot + "/loader/entries")) {
      if (!name.ends_with(".conf"))
        continue;
      const auto text = guest_.try_read(boot + "/loader/entries/" + name);
      if (!text)
        continue;
      std::string version, image;
      std::vector<std::string> initramfs;
      for (const auto& line : split_lines(*text)) {
        const auto words = split_words(line_body(line));
        if (words.size() < 2)
          continue;
        if (words[0].text == "version")
          version = words[1].text;
        else if (words[0].text == "linux")
          image = on_boot(boot, words[1].text);
        else if (words[0].text == "initrd")
          for (std::size_t i = 1; i < words.size(); i++)
            if (auto path = on_boot(boot, words[i].text); !path.empty())
              initramfs.push_back(std::move(path));
      }
      if (image.empty())
        continue;
      // Several initramfs are loaded one after the other; the modules are in the largest.
      std::ranges::sort(initramfs, std::greater{}, [&](const std::string& p) { return guest_.stat(p)->size; });
      add(image, initramfs.empty() ? "" : initramfs.front(), module_version(version, image, ""));
    }
  }

  std::vector<Kernel> take() {
    std::ranges::stable_sort(kernels_,
                             [](const Kernel& a, const Kernel& b) { return natural_less(b.version, a.version); });
    return std::move(kernels_);
  }

 private:
  std::string on_boot(const std::string& boot, std::string_view path) const {
    if (path.starts_with('$'))
      return {};
    for (const auto& whole : {guest_path::join(boot, path), guest_path::clean(path)})
      if (guest_.is_file(whole))
        return guest_.realpath(whole);
    return {};
  }

  bool has_modules(const std::string& version) const {
    return !version.empty() && std::ranges::find(modules_, version) != modules_.end();
  }

  /// Which of /lib/modules an image belongs to: by its name, by the flavour that versions end with (Alpine), by the
  /// package that owns them (Arch), by what the image says.
  std::string module_version(const std::string& stated, const std::string& image, const std::string& suffix) const {
    if (has_modules(stated))
      return stated;
    const std::string rest = suffix.empty() ? "" : suffix.substr(1);
    if (has_modules(rest))
      return rest;
    for (const auto& version : modules_) {
      const auto base = guest_.try_read("/lib/modules/" + version + "/pkgbase");
      if (base && !rest.empty() && trim(*base) == rest)
        return version;
    }
    std::string own = kernel_image_version(guest_.read_head(image, image_head));
    if (has_modules(own))
      return own;
    std::vector<std::string> flavoured;
    for (const auto& version : modules_)
      if (!suffix.empty() && version.ends_with(suffix))
        flavoured.push_back(version);
    if (flavoured.size() == 1)
      return flavoured.front();
    if (!own.empty())
      return own;
    return !stated.empty() ? stated : rest;
  }

  void add_image(const Image& image, const std::string& boot, const std::vector<std::string>& files) {
    const std::string version = module_version("", image.path, image.suffix);
    std::set<std::string> partners;
    for (const auto& prefix : initramfs_names)
      for (const auto& ending : {"", ".img"})
        for (const auto& fallback : {"", "-fallback"}) {
          std::string name = std::string(prefix) + image.suffix + fallback + ending;
          if (std::ranges::find(files, name) != files.end())
            partners.insert(guest_path::join(boot, name));
        }
    for (const auto& name : files) // genkernel puts the processor's name in between
      if (name.starts_with("initramfs-genkernel-") && !image.suffix.empty() && name.ends_with(image.suffix))
        partners.insert(guest_path::join(boot, name));
    if (partners.empty())
      add(image.path, "", version);
    for (const auto& partner : partners)
      if (guest_.is_file(partner))
        add(image.path, guest_.realpath(partner), version);
  }

  void add(const std::string& image, const std::string& initramfs, const std::string& version) {
    for (auto& kernel : kernels_)
      if (kernel.image == image && (kernel.initramfs == initramfs || kernel.initramfs.empty() || initramfs.empty())) {
        if (kernel.initramfs.empty())
          kernel.initramfs = initramfs;
        return;
      }
    Kernel kernel;
    kernel.version = version;
    kernel.image = image;
    kernel.initramfs = initramfs;
    if (has_modules(version))
      kernel.modules_dir = guest_.realpath("/lib/modules/" + version);
    kernels_.push_back(std::move(kernel));
  }

  const GuestFilesystem& guest_;
  std::vector<std::string> modules_;
  std::vector<Kernel> kernels_;
};

} // namespace

std::vector<Kernel> find_kernels(const GuestFilesystem& guest, const std::vector<std::string>& boot_directories) {
  KernelSearch search(guest);
  std::vector<std::string> directories{"/boot"};
  for (const auto& directory : boot_directories)
    if (!directory.empty() && std::ranges::find(directories, directory) == directories.end())
      directories.push_back(directory);
  for (const auto& directory : directories) {
    search.directory(directory);
    search.loader_entries(directory);
  }
  search.directory("/");
  return search.take();
}

} // namespace kvmport
