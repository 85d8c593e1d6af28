// SPDX-License-Identifier: Apache-2.0
// Boot sectors of a few instructions, so that engines can be tested with machines that boot in less than a second.
#pragma once

#include "formats/image.h"

#include <array>
#include <gtest/gtest.h>

namespace kvmport::test {

/// Collects real-mode code; image() is the disk that it boots from.
class BootSector {
 public:
  BootSector& serial(std::string_view text) {
    add({0xba, 0xf8, 0x03}); // mov dx, 0x3f8
    for (const char c : text)
      add({0xb0, static_cast<unsigned char>(c), 0xee}); // mov al, c; out dx, al
    return *this;
  }
  BootSector& screen(std::string_view text) {
    for (const char c : text)
      add({0xb8, static_cast<unsigned char>(c), 0x0e, 0xbb, 0x07, 0x00, 0xcd, 0x10}); // INT 10h, AH=0Eh
    return *this;
  }
  /// Waits for one byte on the serial port.
  BootSector& wait_serial() { return add({0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb, 0xba, 0xf8, 0x03, 0xec}); }
  /// Writes this sector's memory to sector `number` (counted from 1) of the first track. INT 13h, AH=03h.
  BootSector& write_sector(unsigned char number) {
    return add({0xb8, 0x01, 0x03, 0xbb, 0x00, 0x7c, 0xb9, number, 0x00, 0xba, 0x80, 0x00, 0xcd, 0x13});
  }
  BootSector& reset() { return add({0xb0, 0xfe, 0xe6, 0x64}); }                       // i8042: pulse the reset line
  BootSector& power_off() { return add({0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef}); } // ACPI PM1a control: S5
  BootSector& halt() { return add({0xfa, 0xf4, 0xeb, 0xfd}); }

  Bytes sector() const {
    Bytes out = code_;
    EXPECT_LE(out.size(), 440U);
    out.resize(512);
    out[510] = std::byte{0x55};
    out[511] = std::byte{0xaa};
    return out;
  }

 private:
  BootSector& add(std::initializer_list<unsigned char> bytes) {
    for (const unsigned char b : bytes)
      code_.push_back(std::byte{b});
    return *this;
  }
  static constexpr std::array<std::byte, 6> clear_segments{std::byte{0x31}, std::byte{0xc0}, std::byte{0x8e},
                                                           std::byte{0xd8}, std::byte{0x8e}, std::byte{0xc0}};
  Bytes code_ = Bytes(clear_segments.begin(), clear_segments.end());
};

/// A disk in memory: `head`, then zeros.
class MemoryDisk final : public Image {
 public:
  explicit MemoryDisk(Bytes head, std::uint64_t size = 8U << 20) : bytes_(std::move(head)) { bytes_.resize(size); }
  std::uint64_t size() const override { return bytes_.size(); }
  ImageInfo info() const override { return {}; }
  std::vector<Extent> extents(Range range) const override { return {{range, ExtentKind::data}}; }
  void read(std::uint64_t offset, std::span<std::byte> out) const override {
    std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(offset), out.size(), out.begin());
  }

 private:
  Bytes bytes_;
};

} // namespace kvmport::test
