// SPDX-License-Identifier: Apache-2.0
// Chooses the reader of a filesystem's free map.
#pragma once

#include "libconvert/copy/copy.h"

namespace kvmport {

/// Adds the free blocks of the filesystem in `range` of `image`, if it is a clean one of a kind that is known, and what
/// there is to say about it. `name`: how notes call it. False when a hibernated system was seen: no filesystem that it
/// may have mounted can be trusted then. `frozen`: the kernel holds it still.
bool add_filesystem(const Image& image, Range range, const std::string& name, FreeMap& map, bool frozen = false);

} // namespace kvmport
