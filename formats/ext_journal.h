// SPDX-License-Identifier: Apache-2.0
// Replay of the journal (JBD2) of an ext3/4 filesystem, meant for an overlay, as the kernel does it when it mounts what
// was not unmounted: afterwards the overlay shows the filesystem with everything that was synced, and libext2fs can
// read it. The disk below stays as it is. Follows Linux Documentation/filesystems/ext4/journal.rst and, where that is
// silent, fs/jbd2/recovery.c.
#pragma once

#include "formats/image.h"

#include <cstdint>

namespace kvmport {

struct JournalReplay {
  bool needed = false;            ///< the filesystem has a journal and its superblock says needs_recovery
  std::uint32_t transactions = 0; ///< committed ones that were found in the log
  std::uint64_t blocks = 0;       ///< filesystem blocks that were written
  std::uint64_t revoked = 0;      ///< copies in the log that later transactions had revoked
  /// Fast commits follow the last transaction (ext4 -O fast_commit, off by default). They are not replayed: what was
  /// synced since that transaction is missing. The caller says so, or refuses.
  bool fast_commits = false;
};

/// Replays the journal of the filesystem in `range` of `disk`; then its needs_recovery flag is off and the log empty.
/// A filesystem whose flag is off already, or that has no journal, is left as it is. Transactions without a commit
/// block are dropped. Everything is checked before the first block is written, so that after these errors nothing has
/// changed:
/// FILESYSTEM_JOURNAL_CORRUPT: numbers that can't be true, or a checksum (v1, v2, v3) that is wrong in a transaction
/// which was committed.
/// FILESYSTEM_JOURNAL_UNSUPPORTED: it lies on another device, uses features that are unknown here, or is larger than
/// `most_blocks` (unless told otherwise the limit of mke2fs(8)).
/// GUEST_READ_FAILED, IMAGE_CORRUPT: libext2fs can't open the filesystem.
/// Errors of the overlay while it writes (OVERLAY_FULL) leave a part written; to replay again is harmless.
/// Not replayed, because nothing that is read needs it: the list of orphan inodes, and counts of free blocks, that only
/// the kernel's mount or fsck bring up to date. One thread at a time for one filesystem.
JournalReplay replay_ext_journal(WritableImage& disk, Range range, std::uint32_t most_blocks = 10'240'000);

} // namespace kvmport
