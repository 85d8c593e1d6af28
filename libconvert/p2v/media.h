// SPDX-License-Identifier: Apache-2.0
// Builds kvm-p2v's boot medium from what is installed on this host, offline and without root: a hybrid image for CD and
// USB that BIOS and UEFI start, or kernel, initramfs and example configurations for PXE.
//
// All is in the initramfs: busybox, the ssh client, kmod, kvm-p2v itself with their libraries, and the kernel's drivers
// for disks, networks and keyboards. There is no password and no login; a shell is to be had on the local console.
// The image is not signed for Secure Boot, which has to be off while the medium runs.
#pragma once

#include "base/events.h"
#include "libconvert/p2v/medium_kernel.h"
#include "libconvert/p2v/medium_settings.h"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace kvmport {

inline constexpr std::uint64_t largest_medium = 150U << 20;
/// Where the medium keeps a key that was given to it, and the key that it makes itself.
inline const std::string medium_identity = "/etc/kvmport/identity", medium_own_key = "/run/p2v/identity";

struct MediaOptions {
  std::filesystem::path image;               ///< the hybrid image; empty: none
  std::filesystem::path pxe;                 ///< folder for PXE, made when it is not there; empty: none
  MediumSettings presets;                    ///< become kernel arguments
  std::vector<std::string> kernel_arguments; ///< more of them
  /// A private key that the medium is to hold: then whoever has the medium has the key, and what is written is readable
  /// by its owner alone.
  std::filesystem::path identity;
  KernelChoice kernel;
  std::filesystem::path firmware = "/lib/firmware"; ///< where drivers' firmware is taken from
  std::filesystem::path agent = "/proc/self/exe";   ///< kvm-p2v for the medium
  std::optional<std::int64_t> time;                 ///< of all files, seconds since 1970; else that of the kernel
  int compression = 12;                             ///< of zstd
  bool force = false;                               ///< replace what is there
};

struct MediaResult {
  std::string kernel_version, kernel_origin;
  std::size_t modules = 0, firmware_files = 0;
  std::uint64_t unpacked = 0, initramfs_size = 0, image_size = 0; ///< bytes
  std::vector<std::string> missing_firmware;                      ///< that drivers may ask for
  std::vector<std::filesystem::path> files;
  std::vector<std::string> kernel_arguments; ///< all of the medium's
};

/// Stages: "initramfs", "image". Nothing half-made gets a final name. Errors: KERNEL_MISSING, PROGRAM_MISSING,
/// MODULES_UNREADABLE, FILE_EXISTS, MEDIUM_TOO_LARGE, IDENTITY_INVALID, SETTING_INVALID.
MediaResult build_media(const MediaOptions& options, EventSink& events, const StopToken& stop);

/// The menu of GRUB, and the examples for PXE; `arguments` are the medium's.
std::string medium_grub_menu(const std::vector<std::string>& arguments);
std::string ipxe_script(const std::vector<std::string>& arguments);
std::string pxelinux_entry(const std::vector<std::string>& arguments);

} // namespace kvmport
