// SPDX-License-Identifier: Apache-2.0
// What of a running host's disk need not be copied: free blocks, as its frozen filesystems show them, and swap.
#pragma once

#include "libconvert/copy/copy.h"
#include "libconvert/p2v/mounts.h"

#include <string>
#include <vector>

namespace kvmport {

struct LiveMap {
  std::vector<Range> free; ///< bytes of the disk that hold nothing: sorted, merged
  std::vector<Range> swap; ///< what lies inside of swap areas: a machine that starts never reads it
  std::vector<std::string> notes;
};

/// To be called while the filesystems stand still. `frozen`: those that do. A filesystem that is in use and doesn't
/// stand still contributes nothing, whatever its map says: what it has in memory may be newer.
LiveMap read_live_map(const HostRoots& host, dev_t disk, const Image& image,
                      const std::vector<const MountedFilesystem*>& frozen);

/// The name of a logical volume, "group/volume", of its device-mapper name ("my--group-root"); empty for other text.
std::string group_and_volume(std::string_view dm_name);

} // namespace kvmport
