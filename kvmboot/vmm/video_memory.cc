// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/video_memory.h"

#include <sys/mman.h>
#include <unistd.h>

namespace kvmport::vmm {

VideoMemory::VideoMemory() : fd_(::memfd_create("kvmport-video", MFD_CLOEXEC)), at_(MAP_FAILED) {
  if (fd_ && ::ftruncate(fd_.get(), size) == 0)
    at_ = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd_.get(), 0);
  if (at_ == MAP_FAILED)
    throw Error("OUT_OF_MEMORY", "there is not enough memory for the guest's screen");
}

VideoMemory::~VideoMemory() {
  ::munmap(at_, size);
}

Bytes VideoMemory::text() const {
  const std::span window(static_cast<const std::byte*>(at_) + text_at, size - text_at);
  return {window.begin(), window.end()};
}

} // namespace kvmport::vmm
