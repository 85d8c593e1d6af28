// SPDX-License-Identifier: Apache-2.0
// Sections of an EFI program (PE/COFF, "Microsoft Portable Executable and Common Object File Format Specification",
// revision 8.3, sections 2 to 4), as unified kernel images use them (UAPI group, "Unified Kernel Image").
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace kvmport::linux_guest {

/// The contents of section `name` (".cmdline"), trailing zeros cut; nothing when `image` is no PE program or has none.
std::optional<std::string> pe_section(std::string_view image, std::string_view name);
/// Whether an EFI program carries a signature (its optional header's "Certificate Table", section 5.7).
bool pe_signed(std::string_view image);

} // namespace kvmport::linux_guest
