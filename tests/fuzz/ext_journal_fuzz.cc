// SPDX-License-Identifier: Apache-2.0
// Any bytes as an ext filesystem whose journal waits to be replayed: it is refused and nothing has changed, or replayed
// and nothing is left to replay.
#include "formats/ext_journal.h"
#include "formats/overlay.h"
#include "tests/fuzz/pieces_disk.h"

#include <filesystem>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvmport;
  using namespace kvmport::fuzz;
  const PiecesDisk disk(Input(data, size), 16U << 20);
  if (disk.size() == 0)
    return 0;
  Overlay overlay(disk, std::filesystem::temp_directory_path(), 64U << 20);
  JournalReplay replay;
  try {
    replay = replay_ext_journal(overlay, {0, disk.size()}, 1U << 16);
  } catch (const Error&) {
    must(overlay.dirty().empty());
    return 0;
  }
  must(replay.needed || overlay.dirty().empty());
  try {
    must(!replay_ext_journal(overlay, {0, disk.size()}, 1U << 16).needed);
  } catch (const Error&) { // the journal may have overwritten the superblock
  }
  return 0;
}
