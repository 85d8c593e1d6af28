// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/linux/initramfs_part.h"

#include "base/error.h"
#include "base/file.h"
#include "base/process.h"
#include "libconvert/guest/filesystem_paths.h"
#include "libconvert/guest/linux/module_indexes.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <fstream>

namespace fs = std::filesystem;

namespace kvmport::linux_guest {
namespace {

constexpr std::uint64_t most_module = 256U << 20;
constexpr auto depmod_time = std::chrono::minutes(5);
/// Made of what is built into the kernel: the same whatever modules an initramfs holds. depmod reads the first three.
constexpr std::array<const char*, 5> kernel_lists{"modules.order", "modules.builtin", "modules.builtin.modinfo",
                                                  "modules.builtin.bin", "modules.builtin.alias.bin"};

bool is_kernel_list(const std::string& name) {
  return std::ranges::find(kernel_lists, name) != kernel_lists.end();
}

void write_staged(const fs::path& path, std::string_view content) {
  fs::create_directories(path.parent_path());
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  file.close();
  if (!file)
    throw system_error(errno, path.string());
}

/// True when `name`, which comes from an image, stays inside the directory it is joined to.
bool is_inside(std::string_view name) {
  const auto parts = guest_path::split(name);
  return std::ranges::find(parts, "..") == parts.end();
}

/// The staged directory with old and new modules.
class Stage {
 public:
  explicit Stage(std::string version) : version_(std::move(version)) {
    if (version_.empty() || version_.find('/') != std::string::npos || version_ == ".." || version_ == ".")
      throw Error("MODULES_UNREADABLE", "\"" + version_ + "\" is no kernel version");
    directory_ = temporary_.path() / "lib/modules" / version_;
    fs::create_directories(directory_);
  }
  void add(std::string_view name, std::string_view content) {
    if (is_inside(name))
      write_staged(directory_ / name, content);
  }
  bool has(const char* name) const { return fs::exists(directory_ / name); }

  void depmod() const {
    const auto result = run_process({"depmod", "-b", temporary_.path().string(), version_}, depmod_time);
    if (result.exit_code != 0)
      throw Error("MODULES_UNREADABLE", "depmod fails on the modules of kernel " + version_,
                  result.timed_out ? "it took too long" : result.err.substr(0, 2000));
  }
  /// The files at the top: indexes.
  ModuleIndexes indexes() const {
    ModuleIndexes files;
    for (const auto& entry : fs::directory_iterator(directory_))
      if (entry.is_regular_file())
        files.emplace_back(entry.path().filename().string(), read_file(entry.path(), 256U << 20));
    std::ranges::sort(files);
    return files;
  }

 private:
  std::string version_;
  TempDir temporary_;
  fs::path directory_;
};

/// Directories that an initramfs hasn't got yet, once each, parents first.
class Directories {
 public:
  Directories(const InitramfsTree& tree, CpioWriter& writer) : tree_(tree), writer_(writer) {}
  void above(const std::string& name) {
    const auto slash = name.rfind('/');
    if (slash == std::string::npos)
      return;
    const std::string directory = name.substr(0, slash);
    if (tree_.has(directory) || !made_.insert(directory).second)
      return;
    above(directory);
    writer_.directory(directory);
  }

 private:
  const InitramfsTree& tree_;
  CpioWriter& writer_;
  std::set<std::string> made_;
};

/// A module that is added.
struct NewModule {
  std::string path, content;
};

/// depmod's indexes over the modules of the initramfs and the new ones.
ModuleIndexes depmod_indexes(std::string_view image, const std::string& directory, const Draft& draft,
                             const Kernel& kernel, const std::vector<NewModule>& added) {
  Stage stage(kernel.version);
  walk_initramfs(image, [&](const CpioEntry& entry, const std::function<std::string()>& content) {
    if (!entry.is_file() || !entry.name.starts_with(directory + "/"))
      return;
    const std::string below = entry.name.substr(directory.size() + 1);
    if (!module_name(below).empty())
      stage.add(below, decompress(content(), most_module));
    else if (is_kernel_list(below))
      stage.add(below, content());
  });
  for (const char* list : kernel_lists)
    if (!stage.has(list))
      if (const auto text = draft.try_read(kernel.modules_dir + "/" + list))
        stage.add(list, *text);
  for (const auto& module : added)
    stage.add(module.path, module.content);
  stage.depmod();
  return stage.indexes();
}

/// Indexes over the modules of the initramfs and the new ones: cut from the guest's where that serves.
ModuleIndexes indexes_with(const InitramfsTree& tree, std::string_view image, const std::string& directory,
                           const Draft& draft, const Kernel& kernel, const std::vector<NewModule>& added) {
  std::map<std::string, std::string> chosen;
  bool twice = false; // which of two files of one module counts, is for depmod to say
  const auto choose = [&](const std::string& path) {
    if (const std::string name = module_name(path); !name.empty())
      twice |= !chosen.emplace(name, path).second;
  };
  for (auto it = tree.entries().lower_bound(directory + "/");
       it != tree.entries().end() && it->first.starts_with(directory + "/"); ++it)
    if (it->second.is_file())
      choose(it->first.substr(directory.size() + 1));
  for (const auto& module : added)
    choose(module.path);
  const auto read = [&](const char* name) { return draft.try_read(kernel.modules_dir + "/" + name); };
  std::optional<ModuleIndexes> cut;
  if (!twice)
    cut = cut_module_indexes(chosen, read);
  if (!cut)
    return depmod_indexes(image, directory, draft, kernel, added);
  for (const char* list : kernel_lists)
    if (auto text = tree.has(directory + "/" + list) ? std::nullopt : read(list))
      cut->emplace_back(list, std::move(*text));
  return std::move(*cut);
}

/// The kernel's lz4 decompressor took no end but the end of the file until 5.9: nothing can be appended.
bool cannot_be_appended_to(const std::vector<InitramfsPart>& parts, const std::string& version) {
  const bool lz4 = std::ranges::any_of(parts, [](const InitramfsPart& p) { return p.compression == "lz4"; });
  return lz4 && natural_less(version, "5.10");
}

/// Unpacks the last part and packs it with gzip, which every kernel knows.
std::string repacked(const std::string& image, const std::vector<InitramfsPart>& parts) {
  const std::size_t start = parts.back().offset;
  return image.substr(0, start) + compress_gzip(decompress(std::string_view(image).substr(start), 4ULL << 30));
}

/// Zeros up to where the kernel looks for the next archive. lz4 wants a block length of zero as its end.
std::string padding(std::uint64_t size) {
  return std::string(4 + (4 - size % 4) % 4, '\0');
}

} // namespace

// The old file is the beginning of the new one: it needs no copy, which on a small /boot would take the room of the
// next kernel.
void append_to_initramfs(const std::string& path, const std::string& version, const std::string& image,
                         const std::vector<InitramfsPart>& parts, const std::string& part, const std::string& reason,
                         Draft& draft) {
  const std::string size = std::to_string(image.size());
  if (!cannot_be_appended_to(parts, version)) {
    draft.append(path, padding(image.size()) + part, reason);
    draft.note(path + ": its first " + size + " bytes are the old file, unchanged (truncate -s " + size +
               " brings it back)");
    return;
  }
  const std::string beside = path + std::string(aside_suffix);
  if (!draft.exists(beside))
    draft.copy(path, beside, "the old initramfs, should the new one be unwanted");
  const std::string packed = repacked(image, parts);
  draft.write(path, packed + padding(packed.size()) + part,
              reason + "; packed anew with gzip, because this kernel takes nothing after lz4");
}

std::string to_string(InitramfsFramework framework) {
  switch (framework) {
  case InitramfsFramework::initramfs_tools:
    return "initramfs-tools";
  case InitramfsFramework::dracut:
    return "dracut";
  case InitramfsFramework::mkinitcpio:
    return "mkinitcpio";
  case InitramfsFramework::mkinitfs:
    return "mkinitfs";
  case InitramfsFramework::coldplug:
    return "udev";
  case InitramfsFramework::unknown:
    break;
  }
  return "unknown";
}

InitramfsFramework initramfs_framework(const InitramfsTree& tree) {
  if (tree.has("scripts/functions") && tree.has("conf"))
    return InitramfsFramework::initramfs_tools;
  if (tree.reaches("usr/lib/dracut") || tree.reaches("lib/dracut") || tree.has("dracut-state.sh") ||
      tree.reaches("etc/cmdline.d") || tree.has("initqueue"))
    return InitramfsFramework::dracut;
  if (tree.has("init_functions") && tree.has("config"))
    return InitramfsFramework::mkinitcpio;
  if (tree.reaches("sbin/nlplug-findfs"))
    return InitramfsFramework::mkinitfs;
  for (const char* program :
       {"usr/lib/systemd/systemd-udevd", "lib/systemd/systemd-udevd", "sbin/udevd", "usr/sbin/udevd", "usr/bin/udevadm",
        "bin/udevadm", "sbin/udevadm", "lib/udev/udevd", "sbin/mdev"})
    if (tree.reaches(program))
      return InitramfsFramework::coldplug;
  return InitramfsFramework::unknown;
}

std::string initramfs_modules_directory(const InitramfsTree& tree, const std::string& version) {
  for (const char* top : {"usr/lib/modules/", "lib/modules/"})
    if (const std::string name = top + version; tree.has(name) && tree.entries().at(name).is_directory())
      return name;
  return tree.resolve("lib/modules/" + version);
}

std::set<std::string> initramfs_modules(const InitramfsTree& tree, const std::string& directory) {
  std::set<std::string> names;
  for (auto it = tree.entries().lower_bound(directory + "/");
       it != tree.entries().end() && it->first.starts_with(directory + "/"); ++it)
    if (it->second.is_file())
      if (std::string name = module_name(it->first); !name.empty())
        names.insert(std::move(name));
  return names;
}

bool is_loader_file(const std::string& name) {
  return name == "conf/modules" || name == "config";
}

std::vector<std::pair<std::string, std::string>>
initramfs_loader_files(const InitramfsTree& tree, InitramfsFramework framework, const std::vector<std::string>& names) {
  const auto old_content = [&](const char* name) {
    const std::string* content = tree.content(name);
    std::string text = content ? *content : "";
    if (!text.empty() && !text.ends_with('\n'))
      text += '\n';
    return text;
  };
  std::string list;
  for (const auto& name : names)
    list += (list.empty() ? "" : " ") + name;
  if (framework == InitramfsFramework::initramfs_tools) {
    std::string text = old_content("conf/modules");
    for (const auto& name : names)
      text += name + "\n";
    return {{"conf/modules", text}};
  }
  if (framework == InitramfsFramework::mkinitcpio)
    return {{"config", old_content("config") + "MODULES=\"$MODULES " + list + "\"\n"}};
  return {};
}

std::string build_initramfs_part(const InitramfsTree& tree, std::string_view image, const Draft& draft,
                                 const Kernel& kernel, const KernelModules& modules,
                                 const InitramfsAddition& addition) {
  CpioWriter writer;
  Directories directories(tree, writer);
  const auto add = [&](const std::string& name, std::string_view content) {
    directories.above(name);
    writer.file(name, content);
  };
  if (!addition.modules.empty()) {
    const std::string directory = initramfs_modules_directory(tree, kernel.version);
    std::vector<NewModule> added;
    for (const auto& name : addition.modules) {
      const std::string& path = modules.path(name);
      const auto packed = draft.try_read(kernel.modules_dir + "/" + path);
      if (!packed)
        throw Error("MODULES_UNREADABLE", "the guest has no file " + kernel.modules_dir + "/" + path,
                    "modules.dep names it");
      // Plain modules load with every modprobe, whatever compression it was built for.
      added.push_back({plain_module_path(path), decompress(*packed, most_module)});
      add(directory + "/" + added.back().path, added.back().content);
    }
    for (const auto& [name, content] : indexes_with(tree, image, directory, draft, kernel, added))
      if (!is_kernel_list(name) || !tree.has(directory + "/" + name))
        add(directory + "/" + name, content);
  }
  for (const auto& [name, content] : addition.files)
    add(name, content);
  return writer.finish();
}

} // namespace kvmport::linux_guest
