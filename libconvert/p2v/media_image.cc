// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/media_parts.h"

#include "base/file.h"
#include "base/process.h"

#include <array>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

std::string joined(const std::vector<std::string>& arguments) {
  return fmt::format("{}", fmt::join(arguments, " "));
}

void copy_at(const fs::path& source, const fs::path& target, std::int64_t time) {
  fs::copy_file(source, target, fs::copy_options::overwrite_existing);
  const std::array<timespec, 2> times{timespec{time, 0}, timespec{time, 0}};
  if (::utimensat(AT_FDCWD, target.c_str(), times.data(), 0) != 0)
    throw system_error(errno, target.string());
}

} // namespace

std::string medium_grub_menu(const std::vector<std::string>& arguments) {
  // UEFI has no text mode: without a graphics mode to hand over, the kernel's console would stay dark.
  std::string out = "set timeout=5\n"
                    "if [ \"$grub_platform\" = efi ]; then\n"
                    "  insmod all_video\n"
                    "  set gfxpayload=keep\n"
                    "fi\n"
                    "if serial --unit=0 --speed=115200; then\n"
                    "  terminal_input console serial\n"
                    "  terminal_output console serial\n"
                    "fi\n";
  const auto entry = [&](const char* title, const std::string& more) {
    out += fmt::format("menuentry '{}' {{\n  echo 'Loading kernel and drivers ...'\n  linux /boot/vmlinuz {}{}\n"
                       "  initrd /boot/initrd.img\n}}\n",
                       title, joined(arguments), more);
  };
  entry("kvm-p2v: bring this machine to KVM", "");
  entry("kvm-p2v: show what this machine is made of, then power off", " p2v.inventory");
  return out;
}

std::string ipxe_script(const std::vector<std::string>& arguments) {
  return "#!ipxe\n"
         "# Names are relative to where this script comes from.\n"
         "kernel vmlinuz initrd=initrd.img " +
         joined(arguments) + "\ninitrd initrd.img\nboot\n";
}

std::string pxelinux_entry(const std::vector<std::string>& arguments) {
  return "DEFAULT kvm-p2v\nLABEL kvm-p2v\n  KERNEL vmlinuz\n  APPEND initrd=initrd.img " + joined(arguments) + "\n";
}

void write_hybrid_image(const MediaParts& parts, const fs::path& scratch, const fs::path& image) {
  for (const auto& [program, package] :
       {std::pair("grub-mkrescue", "grub-common"), std::pair("xorriso", "xorriso"), std::pair("mformat", "mtools")})
    if (!find_program(program))
      throw Error("PROGRAM_MISSING", std::string(program) + " is not installed", {}, std::string("install ") + package);
  for (const auto& [folder, package] :
       {std::pair("i386-pc", "grub-pc-bin"), std::pair("x86_64-efi", "grub-efi-amd64-bin")})
    if (!fs::exists(fs::path("/usr/lib/grub") / folder / "moddep.lst"))
      throw Error("PROGRAM_MISSING", std::string("GRUB for ") + folder + " is not installed", {},
                  std::string("install ") + package);
  const fs::path tree = scratch / "image";
  fs::create_directories(tree / "boot/grub");
  copy_at(parts.kernel.image, tree / "boot/vmlinuz", parts.time);
  copy_at(parts.initramfs, tree / "boot/initrd.img", parts.time);
  write_file_durably(tree / "boot/grub/grub.cfg", medium_grub_menu(parts.arguments));
  // The volume's date is GRUB's name for the medium too: by it the boot loader finds its own files again.
  const ProcessResult r = run_process(
      {"env", fmt::format("SOURCE_DATE_EPOCH={}", parts.time), "grub-mkrescue", "--output=" + image.string(),
       "--locales=", "--fonts=", "--themes=", "--compress=xz", tree, "--", "-volid", "KVM_P2V"},
      std::chrono::minutes(10));
  if (r.exit_code != 0 || !fs::exists(image))
    throw Error("MEDIUM_FAILED", "grub-mkrescue failed", r.err.size() > 800 ? r.err.substr(r.err.size() - 800) : r.err,
                "install grub-common, grub-pc-bin, grub-efi-amd64-bin, xorriso and mtools");
}

} // namespace kvmport
