// SPDX-License-Identifier: Apache-2.0
// The journal of a partial disk: which chunks its file holds, with a digest of each, and the writer's tables. It is
// append-only; each record is framed by its length and a checksum, so that a record that was cut by a crash is seen and
// ignored. The open journal is also the lock on the partial disk: it goes with the process.
#pragma once

#include "base/file.h"

#include <compare>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

struct XXH3_state_s;

namespace kvmport {

/// XXH3, 128 bits. Finds damage; it is no protection against intent.
struct Digest {
  std::uint64_t high = 0, low = 0;
  auto operator<=>(const Digest&) const = default;
};
Digest digest_of(ByteSpan bytes);

/// The digest of bytes that come in pieces.
class DigestStream {
 public:
  DigestStream();
  void reset();
  void update(ByteSpan bytes);
  Digest finish() const;

 private:
  struct Free {
    void operator()(XXH3_state_s* state) const;
  };
  std::unique_ptr<XXH3_state_s, Free> state_;
};

/// `count` chunks from chunk number `first` on that all have the same digest; count is 1 but for runs of zeros.
struct ChunkRun {
  std::uint64_t first = 0, count = 0;
  Digest digest; ///< of each whole chunk as the destination holds it; the last chunk of the disk may be short
};

/// Not safe from several threads.
class Journal {
 public:
  /// What an earlier run left. `chunks` is in the order in which it was recorded: a later run replaces an earlier one
  /// that names the same chunk.
  struct Content {
    std::uint64_t chunk_size = 0;
    std::vector<ChunkRun> chunks;
    std::vector<Bytes> checkpoints; ///< for ImageWriter::restore()
    std::size_t settled = 0;        ///< so many of `chunks`, from the first on, are as durable as settle() promised
  };

  /// Opens or creates the file and locks it. Errors: OUTPUT_BUSY when another run holds it, FILE_EXISTS when the file
  /// is not a journal of ours.
  explicit Journal(std::filesystem::path path);

  /// What the file holds when it was begun with this identity and has at least one whole record, else nothing.
  /// Afterwards append() goes on behind the last whole record.
  std::optional<Content> load(const Digest& identity);
  /// Empties the file and begins a new one.
  void begin(const Digest& identity);
  /// Adds one record and makes it durable. Chunk numbers count in units of `chunk_size`.
  void append(std::uint64_t chunk_size, const std::vector<ChunkRun>& chunks, ByteSpan checkpoint);
  /// Adds one record that may be lost when the host goes down (not when the process does).
  void note(std::uint64_t chunk_size, const std::vector<ChunkRun>& chunks);
  /// How many runs were recorded so far, those that were loaded included.
  std::size_t runs() const { return runs_; }
  /// Promises, durably, that the data of the first `runs` runs is durable.
  void settle(std::uint64_t chunk_size, std::size_t runs);
  /// Removes the file; the lock stays until the object goes.
  void remove();

 private:
  std::filesystem::path path_;
  UniqueFd file_;
  std::uint64_t end_ = 0; ///< where the next record goes
  std::size_t runs_ = 0;

  void write_record(std::uint64_t chunk_size, const std::vector<ChunkRun>& chunks, ByteSpan checkpoint);
};

} // namespace kvmport
