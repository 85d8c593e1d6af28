// SPDX-License-Identifier: Apache-2.0
// A range of a disk as a file, for tools that work on files alone.
#pragma once

#include "base/file.h"
#include "formats/image.h"

#include <string>

namespace kvmport {

/// A copy in memory, without what is zero. One thread at a time.
class StagedRange {
 public:
  /// Error GUEST_READ_FAILED when the range holds more than `most` bytes that are not zero.
  StagedRange(WritableImage& disk, Range range, std::uint64_t most);
  /// For programs that this process starts.
  std::string path() const;
  /// Puts what was changed in the file back onto the disk, in blocks of 4 KiB.
  void commit();

 private:
  WritableImage& disk_;
  Range range_;
  UniqueFd file_;
};

} // namespace kvmport
