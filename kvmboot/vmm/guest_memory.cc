// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/guest_memory.h"

#include "base/error.h"

#include <sys/mman.h>

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

} // namespace kvmport::vmm
