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
  static const Bytes& content() {
    static const Bytes all = [] {
      Bytes filled(bytes);
      for (std::size_t i = 0; i < filled.size(); i++)
        filled[i] = static_cast<std::byte>(i % 251 + 1);
      return filled;
    }();
    return all;
  }
  std::uint64_t size() const override { return bytes; }
  ImageInfo info() const override { return {}; }
  std::vector<Extent> extents(Range range) const override { return {{range, ExtentKind::data}}; }
  void read(std::uint64_t offset, std::span<std::byte> out) const override {
    must(offset <= bytes && out.size() <= bytes - offset);
    std::memcpy(out.data(), content().data() + offset, out.size());
  }
};

class BlkDisk {
 public:
  vmm::VirtioBlk& device() { return blk_; }
  void check() const {
    must(blk_.failure().empty());
    Bytes now(BaseDisk::bytes);
    overlay_.read(0, now);
    for (std::size_t sector = 0; sector < written_.size(); sector++)
      must(written_[sector] ||
           std::memcmp(now.data() + sector * 512, BaseDisk::content().data() + sector * 512, 512) == 0);
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
