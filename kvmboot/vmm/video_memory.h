// SPDX-License-Identifier: Apache-2.0
// The window 0xA0000-0xBFFFF of a VGA card as memory that two processes share: the machine's, whose guest writes it,
// and the one that looks at the screen from outside.
#pragma once

#include "base/file.h"

namespace kvmport::vmm {

class VideoMemory {
 public:
  static constexpr std::uint64_t address = 0xa0000, size = 0x20000, text_at = 0x18000; ///< text: 0xB8000

  /// Error OUT_OF_MEMORY.
  VideoMemory();
  ~VideoMemory();
  VideoMemory(const VideoMemory&) = delete;
  VideoMemory& operator=(const VideoMemory&) = delete;

  int fd() const noexcept { return fd_.get(); }
  /// A copy of the text window (32 KiB of characters and attributes), since the guest may write it meanwhile.
  Bytes text() const;

 private:
  UniqueFd fd_;
  void* at_;
};

} // namespace kvmport::vmm
