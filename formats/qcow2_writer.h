// SPDX-License-Identifier: Apache-2.0
// Writes a qcow2 image, version 3, in one pass: clusters are appended as they come, compressed by the thread that
// brings them, the tables stay in memory and are written once, by finish(), the header last. Until then the first
// cluster of the file is empty, so nobody can take it for an image.
#pragma once

#include "formats/deflate.h"
#include "formats/inflate.h"
#include "formats/qcow2_format.h"

#include <array>
#include <atomic>
#include <mutex>
#include <vector>

namespace kvmport::qcow2 {

/// The L2 entry of every guest cluster, in tables that are made when their first entry is set: 8 bytes for each cluster
/// of a region in use. Entries may be read and set from several threads.
class EntryTables {
 public:
  EntryTables(std::uint64_t clusters, std::uint64_t entries_per_table);

  std::uint64_t get(std::uint64_t cluster) const;
  void set(std::uint64_t cluster, std::uint64_t entry);
  std::uint64_t clusters() const { return clusters_; }
  std::size_t tables() const { return tables_.size(); }
  /// The entries of a table, or nothing when none was ever set.
  std::span<const std::atomic<std::uint64_t>> table(std::size_t index) const;
  std::uint64_t entries_per_table() const { return per_table_; }

  /// Entries that were set since the last call, as pairs of little-endian cluster and entry.
  Bytes take_changes();
  /// Sets what take_changes() returned, without making it a change again. Error IMAGE_CORRUPT when it is malformed.
  void apply(ByteSpan changes);

 private:
  struct Table {
    explicit Table(std::uint64_t entries) : entry(entries), changed(div_round_up(entries, 64)) {}
    std::vector<std::atomic<std::uint64_t>> entry, changed;
  };
  Table& make(std::size_t index);

  std::uint64_t clusters_, per_table_;
  std::vector<std::atomic<Table*>> tables_;
  std::vector<std::unique_ptr<Table>> owned_;
  std::mutex mutex_;
};

/// Gives out space at the end of the file: whole clusters, which were never written before and read as zeros, and
/// byte-granular room for compressed ones, for which gaps between clusters are used as well.
class HostSpace {
 public:
  explicit HostSpace(std::uint64_t cluster_size) : cluster_(cluster_size), end_(cluster_size) {}
  /// Offset of `count` contiguous clusters.
  std::uint64_t clusters(std::uint64_t count);
  /// One offset per length, in order.
  std::vector<std::uint64_t> bytes(const std::vector<std::size_t>& lengths);
  /// Bytes that nothing names any more; compressed clusters may fill them.
  void release(std::uint64_t begin, std::uint64_t end);
  /// First cluster boundary that was never given out.
  std::uint64_t end() const { return round_up(end_, cluster_); }
  void reset(std::uint64_t end);

 private:
  struct Gap {
    std::uint64_t begin, end;
  };
  static constexpr std::size_t most_gaps = 256;
  void add_gap(Gap gap);
  std::mutex mutex_;
  std::uint64_t cluster_, end_;
  std::vector<Gap> gaps_;
};

} // namespace kvmport::qcow2

namespace kvmport {

/// Follows ImageWriter. size() is the asked size rounded up to 512 bytes, because readers of qcow2 count in sectors.
/// Clusters that are rewritten in part after they were stored compressed become plain. Space of clusters that are
/// rewritten or zeroed may be used again at once, so after restore() what was rewritten since the last checkpoint may
/// read as anything, or be Error IMAGE_CORRUPT.
class Qcow2Writer final : public ImageWriter {
 public:
  /// Errors: FORMAT_UNSUPPORTED for an impossible cluster size, or a disk too large for it.
  Qcow2Writer(const std::filesystem::path& path, const CreateOptions& options);

  std::uint64_t size() const override { return size_; }
  std::uint64_t block_size() const override { return cluster_; }
  void write(std::uint64_t offset, ByteSpan data) override;
  void zero(Range range) override;
  void read(std::uint64_t offset, std::span<std::byte> out) override;
  Bytes checkpoint() override;
  void restore(const std::vector<Bytes>& checkpoints) override;
  bool known_zero(Range range) const override;
  void finish() override;

 private:
  /// A compressed cluster on its way to the file.
  struct Block {
    std::uint64_t cluster;
    std::size_t length;
  };
  /// What one thread needs to compress.
  struct Encoder {
    explicit Encoder(Compression compression) : block(compression) {}
    BlockEncoder block;
    Bytes packed, padded;
  };
  /// Where finish() puts the tables: behind the data, in this order. Offsets in bytes.
  struct Layout {
    std::vector<std::size_t> tables; ///< L2 tables in use, by their L1 index
    std::uint64_t l2 = 0, l1 = 0, refcount_blocks = 0, refcount_table = 0, end = 0;
    std::uint64_t l1_entries = 0;
  };

  void write_whole(std::uint64_t first_cluster, ByteSpan data);
  void write_plain(std::uint64_t first_cluster, ByteSpan data);
  void write_packed(std::uint64_t first_cluster, ByteSpan data, Encoder& encoder);
  void store_compressed(const std::vector<Block>& blocks, ByteSpan packed);
  void change_part(std::uint64_t cluster, std::uint64_t inside, std::uint64_t length, const std::byte* data);
  void replace(std::uint64_t cluster, std::uint64_t entry);
  void read_cluster(std::uint64_t entry, std::uint64_t inside, std::span<std::byte> out);
  void read_file(std::uint64_t offset, std::span<std::byte> out) const;
  std::uint64_t plain_offset(std::uint64_t entry) const;
  template <class Part, class Whole> void split(Range range, Part part, Whole whole) const;

  std::vector<std::uint16_t> count_references(const Layout& layout) const;
  void write_tables(const Layout& layout);
  void write_header(const Layout& layout);
  void punch_unused(const std::vector<std::uint16_t>& references);
  void sync();

  std::string name_;
  UniqueFd file_;
  unsigned cluster_bits_;
  std::uint64_t cluster_, asked_size_, size_;
  Compression compression_;
  qcow2::EntryTables entries_;
  qcow2::HostSpace space_;
  Pool<Encoder> encoders_;
  Pool<BlockDecoder> decoders_;
  std::array<std::mutex, 64> partial_; ///< guard clusters that are written in part, by index
};

} // namespace kvmport
