// SPDX-License-Identifier: Apache-2.0
// The copy itself: threads take chunks, read them, find the zeros, write the rest and keep a digest of what the
// destination then holds. Between chunks the caller may save where the copy stands.
#pragma once

#include "libconvert/copy/copy.h"
#include "libconvert/copy/journal.h"
#include "libconvert/copy/planner.h"
#include "libconvert/copy/workers.h"

#include <functional>

namespace kvmport {

/// What the engine works on. All is borrowed.
struct CopyJob {
  const Image& image;
  ImageWriter& writer;
  const CopyOptions& options;
  /// The destination may hold bytes of an earlier run, so zeros must be written too.
  bool rewrite = false;
  EventSink& sink;
  const StopToken& stop;
};

/// Called on the thread that runs the copy. prepare: while the threads work, so that little is left to sync; save:
/// while they pause, with the chunks that were finished since the last call.
struct Checkpointing {
  std::function<void()> prepare;
  std::function<void(const std::vector<ChunkRun>&)> save;
};

/// Copies every chunk that is not in `done`; a last save() follows the last chunk. After an error what was finished is
/// saved too, as far as that is possible.
CopyStats copy_chunks(const CopyJob& job, const ChunkRanges& done, const Checkpointing& checkpointing);

/// The chunks whose digest in `recorded` (the last one that names a chunk counts) is that of what the writer holds.
ChunkRanges verify_chunks(const CopyJob& job, const std::vector<ChunkRun>& recorded);

/// `runs` (any order, later ones replace earlier ones where they overlap) as sorted runs that do not overlap; what lies
/// past `chunks` is dropped.
std::vector<ChunkRun> settle_runs(const std::vector<ChunkRun>& runs, std::uint64_t chunks);

} // namespace kvmport
