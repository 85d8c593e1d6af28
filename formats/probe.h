// SPDX-License-Identifier: Apache-2.0
// Tells formats apart by their content, never by the file's name. Only strong signatures with a structural check count;
// what shows none is raw. Two signatures at once are a refusal: such a file was made to be read in two ways.
#pragma once

#include "formats/readers.h"

#include <string>

namespace kvmport {

/// "raw", "qcow2", "vmdk", "vdi", "vhd", "vhdx", or the name of a format that is known and not read ("qed", "dmg",
/// "gzip", …). Errors: FORMAT_AMBIGUOUS; FORMAT_UNKNOWN for an empty file.
std::string probe_content(const SourceFile& file);

/// Error FORMAT_UNSUPPORTED for a format that is known by name and not read, with what to do about it.
Error unsupported_format(const SourceFile& file, const std::string& name);

/// True when these 512 bytes are a VHD footer with a good checksum.
bool is_vhd_footer(ByteSpan bytes);

} // namespace kvmport
