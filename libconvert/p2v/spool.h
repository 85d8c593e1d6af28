// SPDX-License-Identifier: Apache-2.0
// What a receiver holds of one machine while its disks arrive: DIR/NAME.p2v.partial/ with, for each disk, a sparse raw
// file and a journal of the chunks in it. It survives connections, receivers and reboots; the same machine goes on with
// it, another one is refused.
#pragma once

#include "formats/image.h"
#include "libconvert/p2v/messages.h"

#include <memory>
#include <mutex>

namespace kvmport {

/// One disk that arrives.
class SpooledDisk {
 public:
  /// Goes on with the file and journal at `path`, or makes new ones. Chunks that the journal does not call durable are
  /// read and what they really hold is known afterwards.
  SpooledDisk(std::filesystem::path path, std::uint64_t size, const std::string& identity);

  std::uint64_t size() const { return size_; }
  std::uint64_t chunks() const { return digests_.size(); }
  const std::filesystem::path& path() const { return path_; }
  /// Bytes on the host's disk.
  std::uint64_t allocated() const;

  /// The chunks that aren't zeros, as runs. Not while chunks are stored.
  std::vector<ChunkRun> have() const;
  /// Checks and writes one chunk and notes it in the journal. False, and nothing is written, for a patch that with what
  /// is here does not give the chunk. Safe from several threads for different chunks. `scratch` belongs to the calling
  /// thread. Errors: PROTOCOL_ERROR for a chunk that the disk does not have, DIGEST_MISMATCH, DISK_FULL.
  bool store(const ChunkMessage& chunk, Bytes& scratch);
  /// Makes what was stored so far durable, and says so in the journal. Beside store(), on one thread.
  void settle();
  /// Reads all back; chunks that turn out to be something else are known as that afterwards. Not while chunks are
  /// stored. Returns whether all were as recorded.
  bool verify(EventSink& sink, const StopToken& stop);
  /// Of all chunks as they are known.
  Digest digest() const { return disk_digest(digests_); }

 private:
  std::uint64_t length_of(std::uint64_t chunk) const;
  const Digest& zeros(std::uint64_t chunk) const;
  Digest read_back(std::uint64_t chunk, Bytes& scratch);
  void load(const std::string& identity);

  std::filesystem::path path_;
  std::uint64_t size_;
  Digest zero_, last_zero_;
  std::vector<Digest> digests_; ///< what each chunk holds
  std::unique_ptr<ImageWriter> writer_;
  UniqueFd sync_file_;
  std::mutex journal_mutex_;
  Journal journal_;
  std::size_t settled_ = 0; ///< runs of the journal that settle() covered
};

class Spool {
 public:
  /// Takes the spool of `manifest.name` in `directory`. Errors: OUTPUT_BUSY when another receiver has it, NAME_TAKEN
  /// when another machine left it, DISK_FULL when what is still to come can't fit.
  Spool(const std::filesystem::path& directory, const ManifestMessage& manifest);

  static std::string directory_name(const std::string& name) { return name + ".p2v.partial"; }

  std::size_t size() const { return disks_.size(); }
  SpooledDisk& disk(std::size_t index) { return *disks_.at(index); }
  const std::filesystem::path& directory() const { return directory_; }
  void settle();
  /// Removes it with all that is in it.
  void remove();

 private:
  std::filesystem::path directory_;
  UniqueFd lock_;
  std::vector<std::unique_ptr<SpooledDisk>> disks_;
};

} // namespace kvmport
