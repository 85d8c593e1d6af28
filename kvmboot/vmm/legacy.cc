// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/legacy.h"

#include <algorithm>
#include <chrono>

namespace kvmport::vmm {
namespace {

constexpr std::size_t max_unsaid = 1U << 20, max_unread = 16;

std::uint8_t bcd(std::int64_t value) {
  return static_cast<std::uint8_t>(value / 10 % 10 << 4 | value % 10);
}

} // namespace

Cmos::Cmos(std::uint64_t memory, unsigned cpus) {
  bytes_[0x0a] = 0x26; // 32 kHz, 1024 Hz
  bytes_[0x0b] = 0x02; // 24 hours, BCD
  bytes_[0x0d] = 0x80; // the battery is good
  bytes_[0x15] = 640 & 0xff;
  bytes_[0x16] = 640 >> 8;
  const std::uint64_t mib = 1U << 20;
  const auto above_1m = std::min<std::uint64_t>((memory - mib) >> 10, 0xffff);
  bytes_[0x17] = bytes_[0x30] = static_cast<std::uint8_t>(above_1m);
  bytes_[0x18] = bytes_[0x31] = static_cast<std::uint8_t>(above_1m >> 8);
  const auto above_16m = memory > 16 * mib ? std::min<std::uint64_t>((memory - 16 * mib) >> 16, 0xffff) : 0;
  bytes_[0x34] = static_cast<std::uint8_t>(above_16m);
  bytes_[0x35] = static_cast<std::uint8_t>(above_16m >> 8);
  bytes_[0x5f] = static_cast<std::uint8_t>(cpus - 1);
}

std::uint8_t Cmos::clock(unsigned index) const {
  // Not gmtime_r: it reads the time zone's files, and a locked-down process can open none.
  const auto now = std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
  const auto day = std::chrono::floor<std::chrono::days>(now);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss time(now - day);
  switch (index) {
  case 0:
    return bcd(time.seconds().count());
  case 2:
    return bcd(time.minutes().count());
  case 4:
    return bcd(time.hours().count());
  case 6:
    return bcd(std::chrono::weekday(day).c_encoding() + 1);
  case 7:
    return bcd(static_cast<unsigned>(date.day()));
  case 8:
    return bcd(static_cast<unsigned>(date.month()));
  case 9:
    return bcd(static_cast<int>(date.year()));
  case 0x32:
    return bcd(static_cast<int>(date.year()) / 100);
  default:
    return bytes_[index];
  }
}

std::uint64_t Cmos::read(std::uint64_t offset, unsigned) {
  return offset == 0 ? 0xff : clock(index_);
}

void Cmos::write(std::uint64_t offset, unsigned, std::uint64_t value) {
  if (offset == 0)
    index_ = value & 0x7f; // bit 7 masks the NMI
  else if (index_ != 0x0c && index_ != 0x0d)
    bytes_[index_] = static_cast<std::uint8_t>(value);
}

void I8042::answer(std::initializer_list<std::uint8_t> bytes) {
  if (out_.size() < max_unread)
    out_.append(bytes.begin(), bytes.end());
}

std::uint64_t I8042::read(std::uint64_t offset, unsigned) {
  if (offset == 4) // status: output full, system flag, keyboard not locked
    return 0x1cU | (out_.empty() ? 0U : 1U);
  if (offset != 0 || out_.empty())
    return 0;
  const auto byte = static_cast<std::uint8_t>(out_.front());
  out_.erase(0, 1);
  return byte;
}

void I8042::write(std::uint64_t offset, unsigned, std::uint64_t value) {
  const auto byte = static_cast<std::uint8_t>(value);
  if (offset == 0) {
    if (pending_ == 0x60)
      command_ = byte;
    else if (pending_ == 0xd1 && (byte & 1) == 0)
      reset_();
    else if (pending_ == 0 && out_.size() < max_unread) { // to the keyboard: it acknowledges; a reset ends in "passed"
      answer({0xfa});
      if (byte == 0xff)
        answer({0xaa});
      else if (byte == 0xf2)
        answer({0xab, 0x41});
    }
    pending_ = 0;
    return;
  }
  if (offset != 4)
    return;
  pending_ = 0;
  switch (byte) {
  case 0x20:
    answer({command_});
    break;
  case 0xaa:
    answer({0x55});
    break;
  case 0xab:
    answer({0x00});
    break;
  case 0xd0:
    answer({0x03}); // A20 on, not in reset
    break;
  case 0xfe:
    reset_();
    break;
  case 0x60:
  case 0xd1:
  case 0xd2:
  case 0xd3:
  case 0xd4:
    pending_ = byte;
    break;
  default:
    break;
  }
}

void DebugPort::write(std::uint64_t, unsigned, std::uint64_t value) {
  if (text_.size() < max_unsaid)
    text_ += static_cast<char>(value);
}

void FastResetPort::write(std::uint64_t, unsigned, std::uint64_t value) {
  if ((value & 1) != 0)
    reset_();
}

VgaRegisters::Indexed* VgaRegisters::indexed_at(std::uint64_t port) {
  return port == 0x3c4 ? &sequencer_ : port == 0x3ce ? &graphics_ : port == 0x3d4 ? &crtc_ : nullptr;
}

std::uint64_t VgaRegisters::read(std::uint64_t offset, unsigned size) {
  std::uint64_t value = 0;
  for (unsigned i = 0; i < size; i++) {
    const std::uint64_t port = 0x3b0 + offset + i;
    std::uint8_t byte = 0xff;
    if (const Indexed* at = indexed_at(port)) {
      byte = at->index;
    } else if (const Indexed* before = indexed_at(port - 1)) {
      byte = before->values[before->index];
    } else if (port == 0x3c0) {
      byte = attributes_.index;
    } else if (port == 0x3c1) {
      byte = attributes_.values[attributes_.index & 0x1f];
    } else if (port == 0x3cc) {
      byte = misc_;
    } else if (port == 0x3da) {
      attribute_data_ = false;
      byte = status_ ^= 9; // display enable, vertical retrace
    }
    value |= std::uint64_t{byte} << 8 * i;
  }
  return value;
}

void VgaRegisters::write(std::uint64_t offset, unsigned size, std::uint64_t value) {
  for (unsigned i = 0; i < size; i++, value >>= 8) {
    const std::uint64_t port = 0x3b0 + offset + i;
    const auto byte = static_cast<std::uint8_t>(value);
    if (Indexed* at = indexed_at(port)) {
      at->index = byte;
    } else if (Indexed* before = indexed_at(port - 1)) {
      before->values[before->index] = byte;
    } else if (port == 0x3c0) {
      if (attribute_data_)
        attributes_.values[attributes_.index & 0x1f] = byte;
      else
        attributes_.index = byte;
      attribute_data_ = !attribute_data_;
    } else if (port == 0x3c2) {
      misc_ = byte;
    }
  }
}

} // namespace kvmport::vmm
