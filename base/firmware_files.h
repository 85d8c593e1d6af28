// SPDX-License-Identifier: Apache-2.0
// Where distributions keep the firmware for virtual machines: UEFI (OVMF of edk2), SeaBIOS and its VGA BIOS.
#pragma once

#include <filesystem>
#include <initializer_list>

namespace kvmport {

/// A pair of UEFI images.
struct UefiImages {
  std::filesystem::path code, vars;
};

/// The first pair that is installed, fits `secure_boot` and, when `nvram` is not empty, has variables of the size of
/// that file. Errors: FIRMWARE_MISSING, NVRAM_UNSUPPORTED.
UefiImages find_uefi_images(bool secure_boot, const std::filesystem::path& nvram);

/// The first of SeaBIOS's files of these names that is installed. Error FIRMWARE_MISSING.
std::filesystem::path find_seabios(std::initializer_list<const char*> names);

} // namespace kvmport
