// SPDX-License-Identifier: Apache-2.0
// Variables of UEFI firmware, as efivarfs shows them (UEFI specification 2.10). Bytes from outside: what is cut short
// or wrong gives what could be read before it.
#pragma once

#include "base/bytes.h"
#include "libconvert/p2v/inventory.h"

namespace kvmport {

/// An EFI_LOAD_OPTION (3.1.3), without the attributes that efivarfs puts before a variable.
FirmwareBootOption parse_boot_option(std::uint16_t number, ByteSpan option);
/// The numbers of BootOrder (3.3).
std::vector<std::uint16_t> parse_boot_order(ByteSpan variable);

} // namespace kvmport
