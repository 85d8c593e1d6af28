// SPDX-License-Identifier: Apache-2.0
// A disk for virtio-blk whose base must never change and whose overlay may only change where the device said so.
#pragma once

#include "kvmboot/vmm/virtio_blk.h"
#include "tests/fuzz/input.h"

#include <filesystem>

namespace kvmport::fuzz {

/// 64 KiB and a sector, so that the last granule is short; no byte is zero.
class BaseDisk final : public Image {
 public:
  static constexpr std::uint64_t bytes = 0x10200;
  static std::byte at(std::uint64_t offset) { return static_cast<std::byte>(offset % 251 + 1); }
  std::uint64_t size() const override { return bytes; }
  ImageInfo info() const override { return {}; }
  std::vector<Extent> extents(Range range) const override { return {{range, ExtentKind::data}}; }
  void read(std::uint64_t offset, std::span<std::byte> out) const override {
    must(offset <= bytes && out.size() <= bytes - offset);
    for (std::byte& byte : out)
      byte = at(offset++);
  }
};

class BlkDisk {
 public:
  vmm::VirtioBlk& device() { return blk_; }
  void check() const {
    must(blk_.failure().empty());
    Bytes now(BaseDisk::bytes);
    overlay_.read(0, now);
    for (std::size_t i = 0; i < now.size(); i++)
      must(written_[i / 512] || now[i] == BaseDisk::at(i));
  }

 private:
  BaseDisk base_;
  Overlay overlay_{base_, std::filesystem::temp_directory_path(), 1U << 20};
  std::vector<bool> written_ = std::vector<bool>(BaseDisk::bytes / 512);
  vmm::VirtioBlk blk_{overlay_, 512, "fuzz", [this](Range range, bool write) {
                        must(range.offset <= BaseDisk::bytes && range.length <= BaseDisk::bytes - range.offset);
                        for (std::uint64_t at = range.offset; write && at < range.end(); at += 512)
                          written_[at / 512] = true;
                      }};
};

} // namespace kvmport::fuzz
