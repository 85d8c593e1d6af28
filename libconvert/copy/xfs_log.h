// SPDX-License-Identifier: Apache-2.0
// Is the log of an XFS filesystem clean? "XFS Algorithms & Data Structures", 3rd edition, chapter "Journaling Log" (log
// records, unmount record); the search for its head as Linux does it: fs/xfs/xfs_log_recover.c (xlog_find_head,
// xlog_check_unmount_rec). Cycle numbers and record headers: fs/xfs/libxfs/xfs_log_format.h.
#pragma once

#include "libconvert/copy/free_map.h"

#include <array>

namespace kvmport {

struct XfsLog {
  std::uint64_t offset = 0, length = 0; ///< bytes of the filesystem
  std::array<std::byte, 16> uuid{};     ///< of the filesystem, as records carry it
};

/// A Doubt unless the newest record of the log is an unmount record, nothing lies after it and every block's cycle
/// number fits. Kernels also write such a record before a frozen filesystem's last one, so only the newest counts.
void require_clean_xfs_log(const Part& part, const XfsLog& log);

} // namespace kvmport
