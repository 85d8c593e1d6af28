// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/media.h"

#include "base/file.h"
#include "base/process.h"
#include "libconvert/p2v/media_parts.h"

#include <algorithm>
#include <fmt/format.h>
#include <sys/stat.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

void check_kernel_argument(const std::string& argument) {
  // GRUB, iPXE and pxelinux quote differently; nothing here needs quoting in any of them.
  const auto plain = [](char c) {
    return c > ' ' && c < 0x7f && std::string_view("'\"\\$`;{}<>|&#").find(c) == std::string_view::npos;
  };
  if (argument.empty() || !std::ranges::all_of(argument, plain))
    throw Error("SETTING_INVALID", fmt::format("\"{}\" can't be an argument of the kernel here", argument), {},
                "one word without quotes, blanks and $ ; { } < > | & #");
}

std::vector<std::string> all_arguments(const MediaOptions& options) {
  // Last, tty0 is /dev/console; kernel messages go to both.
  std::vector<std::string> out{"console=ttyS0,115200", "console=tty0",           "consoleblank=0",
                               "nowatchdog",           "usbcore.autosuspend=-1", "loglevel=4"};
  for (auto& more : kernel_arguments(options.presets))
    out.push_back(std::move(more));
  out.insert(out.end(), options.kernel_arguments.begin(), options.kernel_arguments.end());
  for (const auto& argument : out)
    check_kernel_argument(argument);
  static_cast<void>(parse_kernel_arguments(fmt::format("{}", fmt::join(out, " "))));
  return out;
}

std::int64_t time_of(const fs::path& path) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0)
    throw system_error(errno, path.string());
  return st.st_mtime;
}

void refuse_existing(const fs::path& path, bool force) {
  if (!force && fs::exists(path))
    throw Error("FILE_EXISTS", path.string() + " is there already", {}, "--force replaces it");
}

/// Gives a finished file its final name; its mode is set before that.
void publish(const fs::path& partial, const fs::path& final, bool secret) {
  fs::permissions(partial, secret ? fs::perms(0600) : fs::perms(0644));
  {
    const UniqueFd fd = open_existing(partial);
    if (::fsync(fd.get()) != 0)
      throw system_error(errno, partial.string());
  }
  fs::rename(partial, final);
  sync_directory(final.parent_path().empty() ? "." : final.parent_path());
}

void write_pxe(const MediaOptions& options, const MediaParts& parts, MediaResult& result) {
  fs::create_directories(options.pxe);
  const bool secret = !options.identity.empty();
  const auto put = [&](const fs::path& source, const char* name, bool hidden) {
    const fs::path final = options.pxe / name, partial = options.pxe / (std::string(name) + ".partial");
    fs::copy_file(source, partial, fs::copy_options::overwrite_existing);
    publish(partial, final, hidden);
    result.files.push_back(final);
  };
  put(parts.kernel.image, "vmlinuz", false);
  put(parts.initramfs, "initrd.img", secret);
  for (const auto& [name, text] : {std::pair("boot.ipxe", ipxe_script(parts.arguments)),
                                   std::pair("pxelinux.cfg.example", pxelinux_entry(parts.arguments)),
                                   std::pair("grub.cfg.example", medium_grub_menu(parts.arguments))}) {
    write_file_durably(options.pxe / name, text);
    result.files.push_back(options.pxe / name);
  }
}

void check_size(const fs::path& what, std::uint64_t size) {
  if (size > largest_medium)
    throw Error("MEDIUM_TOO_LARGE", fmt::format("{} would have {} MiB", what.string(), size >> 20),
                fmt::format("the limit is {} MiB", largest_medium >> 20),
                "name a folder with less firmware: --firmware DIR");
}

} // namespace

MediaResult build_media(const MediaOptions& options, EventSink& events, const StopToken& stop) {
  if (options.image.empty() && options.pxe.empty())
    throw Error("USAGE", "nothing to build", {}, "-o FILE, --pxe DIR, or both");
  if (!options.image.empty())
    refuse_existing(options.image, options.force);
  if (!options.pxe.empty())
    refuse_existing(options.pxe / "initrd.img", options.force);
  MediaResult result;
  const TempDir scratch(options.image.empty() ? fs::temp_directory_path() : fs::absolute(options.image).parent_path());
  MediaParts parts;
  parts.arguments = result.kernel_arguments = all_arguments(options);
  parts.kernel = find_medium_kernel(options.kernel, scratch.path());
  parts.time = options.time.value_or(time_of(parts.kernel.image));
  parts.initramfs = scratch.path() / "initrd.img";
  events.stage("initramfs", fmt::format("kernel {} ({})", parts.kernel.version, parts.kernel.origin));
  InitramfsTreeWriter tree;
  fill_medium_tree(tree, options, parts.kernel, result);
  stop.check();
  result.unpacked = tree.write(parts.initramfs, parts.time, options.compression);
  result.initramfs_size = fs::file_size(parts.initramfs);
  if (!options.identity.empty()) // and its copies, from their first byte on
    fs::permissions(parts.initramfs, fs::perms(0600));
  check_size("the initramfs", result.initramfs_size);
  result.kernel_version = parts.kernel.version;
  result.kernel_origin = parts.kernel.origin;
  stop.check();
  if (!options.image.empty()) {
    events.stage("image", options.image.string());
    const fs::path partial = scratch.path() / "image.iso"; // on the same filesystem
    write_hybrid_image(parts, scratch.path(), partial);
    result.image_size = fs::file_size(partial);
    check_size(options.image, result.image_size);
    publish(partial, options.image, !options.identity.empty());
    result.files.push_back(options.image);
  }
  if (!options.pxe.empty())
    write_pxe(options, parts, result);
  return result;
}

} // namespace kvmport
