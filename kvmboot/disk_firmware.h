// SPDX-License-Identifier: Apache-2.0
// Which firmware a bare disk was made for, when nobody says.
#pragma once

#include "kvmboot/engine.h"

namespace kvmport {

/// UEFI when the disk has a protective MBR (UEFI specification 2.10, 5.2.3) or an EFI system partition in its MBR
/// (type 0xEF), and no boot code; BIOS otherwise. `logical_sector` does not matter: only the first 512 bytes are read.
Firmware guess_firmware(const Image& disk);

} // namespace kvmport
