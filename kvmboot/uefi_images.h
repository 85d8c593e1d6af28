// SPDX-License-Identifier: Apache-2.0
// Where distributions keep the UEFI firmware for virtual machines (OVMF of edk2).
#pragma once

#include <filesystem>

namespace kvmport {

/// A pair of UEFI images.
struct UefiImages {
  std::filesystem::path code, vars;
};

/// The first pair that is installed, fits `secure_boot` and, when `nvram` is not empty, has variables of the size of
/// that file. Errors: FIRMWARE_MISSING, NVRAM_UNSUPPORTED.
UefiImages find_uefi_images(bool secure_boot, const std::filesystem::path& nvram);

} // namespace kvmport
