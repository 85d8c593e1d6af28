// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/msix.h"

namespace kvmport::vmm {

void MsiX::set_control(std::uint16_t control) {
  control_ = control & (enable | mask_all);
  flush();
}

void MsiX::signal(std::uint16_t vector) {
  if (vector >= vectors())
    return;
  pending_ |= 1ULL << vector;
  flush();
}

void MsiX::flush() {
  if (!enabled() || (control_ & mask_all) != 0)
    return;
  for (unsigned vector = 0; vector < vectors(); vector++) {
    const auto& [address, upper, data, control] = table_[vector];
    if ((pending_ >> vector & 1) != 0 && (control & masked) == 0) {
      pending_ &= ~(1ULL << vector);
      line_(std::uint64_t{upper} << 32 | address, data);
    }
  }
}

std::uint64_t MsiX::table_read(std::uint64_t offset, unsigned size) const {
  return offset % 4 == 0 ? little_endian(std::as_bytes(std::span(table_)), offset, size) : 0;
}

void MsiX::table_write(std::uint64_t offset, unsigned size, std::uint64_t value) {
  if (offset % 4 != 0 || (size != 4 && size != 8))
    return; // section 6.8.2: software must write whole words
  for (unsigned done = 0; done < size && (offset + done) / 16 < vectors(); done += 4)
    table_[(offset + done) / 16].at((offset + done) % 16 / 4) = static_cast<std::uint32_t>(value >> 8 * done);
  flush();
}

} // namespace kvmport::vmm
