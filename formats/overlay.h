// SPDX-License-Identifier: Apache-2.0
// The one copy-on-write device of the house: an image plus private writes. Guest edits, the boot proof and the merge
// use it. Writes live in an unnamed sparse temporary file and vanish with the overlay; the image below is never
// written.
#pragma once

#include "formats/image.h"

namespace kvmport {

/// Safe from several threads. The base must outlive the overlay. An overlay may lie over another overlay.
class Overlay final : public WritableImage {
 public:
  /// The unit of copy-on-write in bytes.
  static constexpr std::uint64_t granule = 4096;

  /// `directory`: where the temporary file lies. `cap`: most bytes of private data; more is Error OVERLAY_FULL.
  Overlay(const Image& base, const std::filesystem::path& directory, std::uint64_t cap);
  ~Overlay() override;

  std::uint64_t size() const override;
  ImageInfo info() const override;
  std::vector<Extent> extents(Range range) const override;
  void read(std::uint64_t offset, std::span<std::byte> out) const override;

  void write(std::uint64_t offset, ByteSpan data) override;
  /// The range reads as zeros from now on (TRIM and WRITE_ZEROES of the guest).
  void zero(Range range);
  /// Forgets every private write; not while another thread uses the overlay.
  void clear();

  /// What differs from the base, in order, merged, aligned to granules (the last may be cut by size()).
  /// kind is data or zero.
  std::vector<Extent> dirty() const;
  /// Bytes of private data now held.
  std::uint64_t used() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Copies what `from` changed into `to` (same size; may lie over different bases that agree elsewhere).
void import_changes(const Overlay& from, Overlay& to);

} // namespace kvmport
