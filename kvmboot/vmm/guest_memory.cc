// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/guest_memory.h"

#include <sys/mman.h>
#include <unistd.h>

namespace kvmport::vmm {

GuestMemory::GuestMemory(std::uint64_t size) {
  void* at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED)
    throw Error("OUT_OF_MEMORY", "there is not enough memory for the guest");
  ::madvise(at, size, MADV_HUGEPAGE);
  memory_ = {static_cast<std::byte*>(at), size};
}

void GuestMemory::share(std::uint64_t address, std::uint64_t length, int fd) {
  const auto place = slice(address, length);
  if (!place || ::mmap(place->data(), length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
    throw Error("OUT_OF_MEMORY", "there is not enough memory for the guest");
}

GuestMemory::~GuestMemory() {
  ::munmap(memory_.data(), memory_.size());
}

std::optional<std::span<std::byte>> GuestMemory::slice(std::uint64_t address, std::uint64_t length) const {
  if (address > memory_.size() || length > memory_.size() - address)
    return std::nullopt;
  return memory_.subspan(address, length);
}

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
