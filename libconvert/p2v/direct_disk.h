// SPDX-License-Identifier: Apache-2.0
// A disk of this host, read past the page cache: through the cache of a block device one sees another state than the
// disk holds. Regular files too. A disk that fails is read around its bad sectors when that is asked for.
#pragma once

#include "formats/image.h"

#include <chrono>
#include <memory>

namespace kvmport {

struct DirectOptions {
  bool exclusive = false;                  ///< nobody else may have it open or mounted: not for a live capture
  unsigned attempts = 3;                   ///< of each sector that can't be read
  std::chrono::milliseconds pause{200};    ///< between them
  bool rescue = false;                     ///< sectors that can't be read become zeros, and are listed
  std::uint64_t most_bad_bytes = 1U << 30; ///< with rescue: more than that, and the disk is given up
};

/// Safe from several threads.
class DirectDisk final : public Image {
 public:
  /// Opens for reading alone. Errors: NOT_FOUND, NO_PERMISSION, NOT_A_DISK, DISK_BUSY when something holds a disk that
  /// was asked for exclusively.
  explicit DirectDisk(const std::filesystem::path& path, const DirectOptions& options = {});
  ~DirectDisk() override;

  std::uint64_t size() const override;
  ImageInfo info() const override;
  std::vector<Extent> extents(Range range) const override;
  /// Any offset, length and memory. Error DISK_READ_ERROR names the sectors that can't be read.
  void read(std::uint64_t offset, std::span<std::byte> out) const override;

  /// What was zero-filled so far: sorted, merged, whole sectors.
  std::vector<Range> bad_ranges() const;
  /// Reads go to the disk itself; false where the filesystem of a regular file can't.
  bool direct() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

} // namespace kvmport
