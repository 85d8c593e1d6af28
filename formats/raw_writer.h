// SPDX-License-Identifier: Apache-2.0
// Writes a raw disk: a sparse file. What was never written, and what was zeroed, stays or becomes a hole.
#pragma once

#include "formats/image.h"

#include <atomic>

namespace kvmport {

/// Follows ImageWriter. A raw file needs no tables, so checkpoint() returns nothing.
class RawWriter final : public ImageWriter {
 public:
  RawWriter(const std::filesystem::path& path, const CreateOptions& options);

  std::uint64_t size() const override { return size_; }
  std::uint64_t block_size() const override { return 4096; }
  void write(std::uint64_t offset, ByteSpan data) override;
  void zero(Range range) override;
  void read(std::uint64_t offset, std::span<std::byte> out) override;
  Bytes checkpoint() override;
  void restore(const std::vector<Bytes>& checkpoints) override;
  bool known_zero(Range range) const override;
  void finish() override;

 private:
  static constexpr std::uint64_t chunk = 1U << 20;

  void mark_written(Range range);
  bool may_hold_data(std::uint64_t chunk_index) const;
  void punch(Range range);

  std::string name_;
  UniqueFd file_;
  std::uint64_t size_;
  std::vector<std::atomic<std::uint64_t>> written_; ///< one bit per chunk that may hold data
};

} // namespace kvmport
