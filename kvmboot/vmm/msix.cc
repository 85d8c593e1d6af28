// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/msix.h"

namespace kvmport::vmm {

void MsiX::set_control(std::uint16_t control) {
  control_ = control & (enable | mask_all);
  flush();
}

void MsiX::signal(std::uint16_t vector) {
  if (vector >= entries_.size())
    return;
  entries_[vector].pending = true;
  flush();
}

void MsiX::flush() {
  if (!enabled() || (control_ & mask_all) != 0)
    return;
  for (Entry& entry : entries_)
    if (entry.pending && (entry.words[3] & masked) == 0) {
      entry.pending = false;
      line_(std::uint64_t{entry.words[1]} << 32 | entry.words[0], entry.words[2]);
    }
}

std::uint64_t MsiX::table_read(std::uint64_t offset, unsigned size) const {
  std::uint64_t value = 0;
  for (unsigned done = 0; done < size && offset % 4 == 0 && (offset + done) / 16 < entries_.size(); done += 4) {
    const std::uint64_t at = offset + done;
    value |= std::uint64_t{entries_[at / 16].words[at % 16 / 4]} << 8 * done;
  }
  return value;
}

void MsiX::table_write(std::uint64_t offset, unsigned size, std::uint64_t value) {
  if (offset % 4 != 0 || (size != 4 && size != 8))
    return; // section 6.8.2: software must write whole words
  for (unsigned done = 0; done < size && (offset + done) / 16 < entries_.size(); done += 4) {
    const std::uint64_t at = offset + done;
    entries_[at / 16].words[at % 16 / 4] = static_cast<std::uint32_t>(value >> 8 * done);
  }
  flush();
}

std::uint64_t MsiX::pending_read(std::uint64_t offset) const {
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < 64 && offset * 8 + i < entries_.size(); i++)
    bits |= std::uint64_t{entries_[offset * 8 + i].pending} << i;
  return bits;
}

} // namespace kvmport::vmm
