// SPDX-License-Identifier: Apache-2.0
// Where a qcow2 image keeps each guest byte: the L1 table in memory, L2 tables read when needed into a bounded cache.
// Every entry is checked when it is used; validate() checks them all.
#pragma once

#include "formats/qcow2_format.h"

#include <array>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>

namespace kvmport::qcow2 {

enum class RunKind { unallocated, zero, data, compressed };

/// A stretch of guest bytes of one kind.
struct Run {
  RunKind kind = RunKind::unallocated;
  std::uint64_t length = 0;
  std::uint64_t host = 0;     ///< data: where the first byte lies in the file
  CompressedRange compressed; ///< compressed: the whole cluster, even when the run starts inside it
};

/// Safe from several threads.
class ClusterMap {
 public:
  ClusterMap(SourceFile file, const Header& header);

  /// The longest run that starts at `offset`, at most `limit` bytes (both inside the disk). Runs of data are contiguous
  /// in the file; a compressed run never leaves its cluster. Errors: IMAGE_CORRUPT, DISK_TRUNCATED.
  Run lookup(std::uint64_t offset, std::uint64_t limit) const;

  /// Reads all tables and throws IMAGE_CORRUPT or DISK_TRUNCATED when any entry is impossible, or when tables or
  /// clusters are shared, by which a small file could claim to hold endless data. Costs one pass over the L2 tables.
  void validate() const;

 private:
  using Table = std::vector<std::uint64_t>; ///< words in host order
  using TablePtr = std::shared_ptr<const Table>;

  struct Shard {
    std::mutex mutex;
    std::list<std::pair<std::uint32_t, TablePtr>> order; ///< most recently used first
    std::unordered_map<std::uint32_t, decltype(order)::iterator> index;
  };
  static constexpr std::uint64_t cache_bytes = 32U << 20;

  std::uint64_t table_offset(std::uint32_t l1_index) const;
  Table read_table(std::uint32_t l1_index) const;
  TablePtr table(std::uint32_t l1_index) const;
  Run piece(const Table& table, std::uint64_t offset) const;
  Run subcluster_piece(std::uint64_t entry, std::uint64_t bitmap, std::uint64_t offset) const;
  std::uint64_t data_offset(std::uint64_t entry, std::uint64_t guest) const;
  [[noreturn]] void corrupt(const std::string& what, std::uint64_t guest) const;

  class Validator;

  SourceFile file_;
  Header header_;
  std::vector<std::uint64_t> l1_;
  mutable std::array<Shard, 16> shards_;
  std::size_t tables_per_shard_;
};

} // namespace kvmport::qcow2
