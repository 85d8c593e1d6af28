// SPDX-License-Identifier: Apache-2.0
// What of a disk has to be sent, and what is known of its chunks on both sides.
#pragma once

#include "libconvert/p2v/messages.h"

#include <optional>
#include <unordered_map>

namespace kvmport {

/// One disk of a capture. Chunks may be prepared by several threads, each chunk by one at a time.
class CapturePlan {
 public:
  /// Reads the free maps of `image` (borrowed) unless `everything` is to be sent.
  CapturePlan(const Image& image, bool everything);
  /// Nothing is used yet: use() says what is.
  explicit CapturePlan(const Image& image);

  std::uint64_t size() const { return size_; }
  std::uint64_t chunks() const { return have_.size(); }
  const ManifestDisk& manifest() const { return manifest_; }
  /// Bytes of the chunk that are used.
  std::uint64_t used_in(std::uint64_t chunk) const;

  /// Forgets what the receiver has: it holds zeros.
  void receiver_has_nothing();
  /// Error PROTOCOL_ERROR for chunks that the disk does not have.
  void receiver_has(const std::vector<ChunkRun>& runs);
  void receiver_has(std::uint64_t chunk, const Digest& digest) { have_[chunk] = digest; }

  /// Both sides are known to have the same there.
  bool agreed(std::uint64_t chunk) const { return ours_[chunk] && *ours_[chunk] == have_[chunk]; }
  /// Fills `buffer` with the chunk as the receiver shall have it, and returns its digest; nothing when the receiver is
  /// known to have just that.
  std::optional<Digest> read_if_needed(std::uint64_t chunk, Bytes& buffer);
  /// Where the chunk may differ from what the receiver has, when that is known to be little; empty: anywhere.
  std::vector<ChunkExtent> changed(std::uint64_t chunk) const;
  /// These ranges (whole sectors, sorted, not overlapping) are used, besides those that were before; what is in them is
  /// read again.
  void use(const std::vector<Range>& ranges);
  void set_notes(std::vector<std::string> notes) { manifest_.notes = std::move(notes); }
  /// Of all chunks. All were read by now.
  Digest digest() const;

 private:
  /// What of a chunk was changed since both sides had the same.
  struct Change {
    Digest from;
    std::vector<Range> ranges;
    std::uint64_t bytes = 0;
  };

  std::uint64_t length_of(std::uint64_t chunk) const;
  void note_change(std::uint64_t chunk, const Range& range);

  const Image& image_;
  std::uint64_t size_;
  ManifestDisk manifest_;
  std::vector<Range> used_; ///< sorted, not overlapping
  Digest zero_, last_zero_;
  std::vector<Digest> have_;                ///< what the receiver holds
  std::vector<std::optional<Digest>> ours_; ///< what it shall hold
  std::unordered_map<std::uint64_t, Change> changes_;
};

} // namespace kvmport
