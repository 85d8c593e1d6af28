// SPDX-License-Identifier: Apache-2.0
// The table of contents of a tar archive (POSIX ustar and pax, GNU long names and base-256 sizes), so that members are
// read where they lie. Nothing is ever unpacked. Stricter than tar(1), as OVA demands (DSP0243, 5.3): plain names of
// regular files only, each once.
#pragma once

#include "formats/image.h"

#include <string>
#include <vector>

namespace kvmport {

struct TarMember {
  std::string name;
  Range data; ///< its bytes in the archive
};

/// True when the file starts with a tar header whose checksum is right.
bool looks_like_tar(int fd);

/// All members, in order. A missing end-of-archive mark is accepted with a note. Errors: DISK_TRUNCATED,
/// PATH_NOT_ALLOWED (paths and links), DESCRIPTION_INVALID (devices, duplicates, damaged headers),
/// DESCRIPTION_UNSUPPORTED (sparse members).
std::vector<TarMember> index_tar(int fd, const std::string& archive, std::vector<std::string>& notes);

} // namespace kvmport
