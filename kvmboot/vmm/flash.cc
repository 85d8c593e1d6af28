// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/flash.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

namespace kvmport::vmm {
namespace {

constexpr std::uint8_t ready = 0x80, program_failed = 0x10, erase_failed = 0x20;
constexpr std::uint64_t max_buffer = 2048;

// Commands
constexpr std::uint8_t cmd_program = 0x40, cmd_program_too = 0x10, cmd_erase = 0x20, cmd_clear_status = 0x50,
                       cmd_read_status = 0x70, cmd_read_id = 0x90, cmd_cfi = 0x98, cmd_buffered = 0xe8,
                       cmd_confirm = 0xd0;

} // namespace

Flash::Flash(std::span<std::byte> array, std::function<void(bool)> show_array)
    : array_(array), show_array_(std::move(show_array)) {}

void Flash::to(Mode mode) {
  if ((mode == Mode::array) != (mode_ == Mode::array))
    show_array_(mode == Mode::array);
  mode_ = mode;
}

std::uint8_t Flash::register_byte(std::uint64_t offset) const {
  if (mode_ == Mode::status)
    return status_;
  if (mode_ == Mode::id)
    return (offset & 0xff) == 0 ? 0x89 : (offset & 0xff) == 1 ? 0x18 : 0; // Intel, a P30 chip
  // JESD68.01, section 5: the query table
  const auto blocks = static_cast<std::uint32_t>(array_.size() / block - 1);
  std::array<std::uint8_t, 0x31> query{};
  query[0x10] = 'Q';
  query[0x11] = 'R';
  query[0x12] = 'Y';
  query[0x13] = 1; // Intel's extended command set
  query[0x27] = static_cast<std::uint8_t>(std::bit_width(array_.size() - 1));
  query[0x2a] = static_cast<std::uint8_t>(std::countr_zero(max_buffer)); // a buffered program takes 2^n bytes
  query[0x2c] = 1;                                                       // regions of blocks of one size
  query[0x2d] = static_cast<std::uint8_t>(blocks);
  query[0x2e] = static_cast<std::uint8_t>(blocks >> 8);
  query[0x2f] = static_cast<std::uint8_t>(block >> 8);
  query[0x30] = static_cast<std::uint8_t>(block >> 16);
  return (offset & 0xff) < query.size() ? query.at(offset & 0xff) : 0;
}

std::uint64_t Flash::read(std::uint64_t offset, unsigned size) {
  if (mode_ == Mode::array)
    return little_endian(array_, offset, size);
  std::uint64_t value = 0;
  for (unsigned i = 0; i < size; i++)
    value |= std::uint64_t{register_byte(offset + i)} << 8 * i;
  return value;
}

void Flash::program(std::uint64_t offset, unsigned size, std::uint64_t value) {
  if (offset > array_.size() || size > array_.size() - offset) {
    status_ |= program_failed;
    return;
  }
  // Programming only clears bits; an erase sets them.
  for (unsigned i = 0; i < size; i++)
    array_[offset + i] &= static_cast<std::byte>(value >> 8 * i);
}

void Flash::command(std::uint8_t code) {
  switch (code) {
  case cmd_program:
  case cmd_program_too:
    awaits_ = Awaits::program;
    return to(Mode::status);
  case cmd_erase:
    awaits_ = Awaits::erase_confirm;
    return to(Mode::status);
  case cmd_buffered:
    status_ |= ready;
    awaits_ = Awaits::buffer_count;
    return to(Mode::status);
  case cmd_read_status:
    return to(Mode::status);
  case cmd_read_id:
    return to(Mode::id);
  case cmd_cfi:
    return to(Mode::cfi);
  case cmd_clear_status: // and QEMU's chip, which OVMF's probe expects, shows its array then
    status_ = 0;
    return to(Mode::array);
  default: // 0xff, and what no chip knows
    return to(Mode::array);
  }
}

void Flash::write(std::uint64_t offset, unsigned size, std::uint64_t value) {
  const auto code = static_cast<std::uint8_t>(value);
  const Awaits awaited = std::exchange(awaits_, Awaits::command);
  switch (awaited) {
  case Awaits::command:
    command(code);
    break;
  case Awaits::program:
    program(offset, size, value);
    status_ |= ready;
    break;
  case Awaits::erase_confirm:
    if (code == cmd_confirm && offset < array_.size()) {
      const auto first = array_.begin() + static_cast<std::ptrdiff_t>(offset / block * block);
      std::fill(first, first + block, std::byte{0xff});
    } else {
      status_ |= erase_failed;
    }
    status_ |= ready;
    break;
  case Awaits::buffer_count: // one less than the number of bytes
    left_ = std::min<std::uint64_t>(value & 0xffff, max_buffer - 1) + 1;
    awaits_ = Awaits::buffer_data;
    break;
  case Awaits::buffer_data:
    program(offset, size, value);
    left_ -= std::min<std::uint64_t>(left_, size);
    awaits_ = left_ > 0 ? Awaits::buffer_data : Awaits::buffer_confirm;
    break;
  case Awaits::buffer_confirm:
    status_ |= code == cmd_confirm ? ready : program_failed;
    break;
  }
}

} // namespace kvmport::vmm
