// SPDX-License-Identifier: Apache-2.0
// The qcow2 format, versions 2 and 3, as QEMU's docs/interop/qcow2.rst describes it: the header with its extensions,
// and the bits of table entries. All numbers are big-endian in the file. Used by the reader and the writer.
#pragma once

#include "formats/readers.h"

#include <cstdint>
#include <string>
#include <vector>

namespace kvmport::qcow2 {

inline constexpr std::uint32_t magic = 0x514649fb; // "QFI\xfb"
inline constexpr std::uint64_t v2_header_size = 72, v3_header_size = 104;
inline constexpr unsigned min_cluster_bits = 9, max_cluster_bits = 21;
/// Limits of QEMU, which no image that it made exceeds.
inline constexpr std::uint64_t max_l1_bytes = 32U << 20, max_refcount_table_bytes = 8U << 20;
inline constexpr std::uint32_t max_snapshots = 65536, max_backing_name = 1023;

// Incompatible features (section "Header").
inline constexpr std::uint64_t incompatible_dirty = 1, incompatible_corrupt = 2, incompatible_data_file = 4,
                               incompatible_compression = 8, incompatible_extended_l2 = 16;

// L1 and L2 entries (section "Cluster mapping").
inline constexpr std::uint64_t entry_copied = std::uint64_t{1} << 63, entry_compressed = std::uint64_t{1} << 62,
                               entry_zero = 1, entry_offset = 0x00fffffffffffe00;

enum class CompressionType : std::uint8_t { zlib = 0, zstd = 1 };

/// A header that was checked against the file: every table that it names lies inside it.
struct Header {
  unsigned version = 0, cluster_bits = 0;
  std::uint64_t size = 0;
  std::uint64_t l1_offset = 0;
  std::uint32_t l1_entries = 0; ///< as many as the disk needs; the table itself may be longer
  std::uint32_t snapshots = 0;
  std::uint64_t incompatible = 0, autoclear = 0;
  CompressionType compression = CompressionType::zlib;
  bool has_backing = false;
  std::string backing_name, backing_format;
  std::vector<std::string> notes;

  std::uint64_t cluster_size() const { return std::uint64_t{1} << cluster_bits; }
  bool extended() const { return (incompatible & incompatible_extended_l2) != 0; }
  std::uint64_t l2_entry_bytes() const { return extended() ? 16 : 8; }
  std::uint64_t l2_entries() const { return cluster_size() / l2_entry_bytes(); }
};

/// Errors: FORMAT_UNKNOWN (no magic), FORMAT_UNSUPPORTED (version, feature or data file, named), IMAGE_ENCRYPTED,
/// IMAGE_CORRUPT, DISK_TRUNCATED.
Header read_header(const SourceFile& file);

/// Where a compressed cluster lies: byte-granular, up to the end of its last 512-byte sector.
struct CompressedRange {
  std::uint64_t offset = 0, length = 0;
};
inline CompressedRange decode_compressed(std::uint64_t entry, unsigned cluster_bits) {
  const unsigned shift = 62 - (cluster_bits - 8);
  const std::uint64_t offset = entry & ((std::uint64_t{1} << shift) - 1);
  const std::uint64_t sectors = ((entry & (entry_compressed - 1)) >> shift) + 1;
  return {offset, sectors * 512 - (offset & 511)};
}
/// The entry for `length` > 0 bytes at `offset`.
inline std::uint64_t encode_compressed(std::uint64_t offset, std::uint64_t length, unsigned cluster_bits) {
  const unsigned shift = 62 - (cluster_bits - 8);
  const std::uint64_t more_sectors = (offset + length - 1) / 512 - offset / 512;
  return entry_compressed | more_sectors << shift | offset;
}

} // namespace kvmport::qcow2
