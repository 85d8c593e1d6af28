// SPDX-License-Identifier: Apache-2.0
#include "formats/qcow2_map.h"

#include <algorithm>
#include <bit>

namespace kvmport::qcow2 {
namespace {

constexpr std::uint64_t l1_reserved = ~(entry_offset | entry_copied);
constexpr unsigned subclusters = 32;

std::string number(std::uint64_t value) {
  return std::to_string(value);
}

/// One bit per cluster of the file, kept only where bits are set, so that a sparse file of any size costs no more than
/// what its tables name.
class ClusterBits {
 public:
  /// False when the bit was set already.
  bool set(std::uint64_t cluster) {
    std::uint64_t& word = pages_[cluster / per_page][cluster % per_page / 64];
    const std::uint64_t bit = std::uint64_t{1} << (cluster % 64);
    const bool fresh = (word & bit) == 0;
    word |= bit;
    return fresh;
  }

 private:
  static constexpr std::uint64_t per_page = 1024;
  std::unordered_map<std::uint64_t, std::array<std::uint64_t, per_page / 64>> pages_;
};

} // namespace

ClusterMap::ClusterMap(SourceFile file, const Header& header)
    : file_(std::move(file)), header_(header),
      tables_per_shard_(std::max<std::uint64_t>(2, cache_bytes / shards_.size() / header.cluster_size())) {
  const Bytes raw = file_.read_bytes(header.l1_offset, std::uint64_t{header.l1_entries} * 8);
  l1_.resize(header.l1_entries);
  for (std::size_t i = 0; i < l1_.size(); i++)
    l1_[i] = load_be<std::uint64_t>(raw, i * 8);
}

void ClusterMap::corrupt(const std::string& what, std::uint64_t guest) const {
  throw Error("IMAGE_CORRUPT", file_.path().string() + ": " + what, "for the disk's offset " + number(guest),
              "restore the image from a backup, or repair a copy of it with qemu-img check -r all");
}

/// 0: no table.
std::uint64_t ClusterMap::table_offset(std::uint32_t l1_index) const {
  const std::uint64_t entry = l1_[l1_index];
  if (entry == 0)
    return 0;
  const std::uint64_t guest = l1_index * header_.l2_entries() * header_.cluster_size();
  const std::uint64_t offset = entry & entry_offset;
  if ((entry & l1_reserved) != 0 || offset == 0 || offset % header_.cluster_size() != 0)
    corrupt("impossible L1 entry " + number(entry), guest);
  file_.require(offset, header_.cluster_size(), "an L2 table");
  return offset;
}

ClusterMap::Table ClusterMap::read_table(std::uint32_t l1_index) const {
  const std::uint64_t offset = table_offset(l1_index);
  if (offset == 0)
    return {};
  Table words(header_.cluster_size() / 8);
  file_.read(offset, std::as_writable_bytes(std::span(words)));
  for (std::uint64_t& word : words)
    if constexpr (std::endian::native == std::endian::little)
      word = __builtin_bswap64(word);
  return words;
}

ClusterMap::TablePtr ClusterMap::table(std::uint32_t l1_index) const {
  Shard& shard = shards_[l1_index % shards_.size()];
  const std::lock_guard lock(shard.mutex);
  if (const auto found = shard.index.find(l1_index); found != shard.index.end()) {
    shard.order.splice(shard.order.begin(), shard.order, found->second);
    return found->second->second;
  }
  auto loaded = std::make_shared<const Table>(read_table(l1_index));
  if (shard.order.size() >= tables_per_shard_) {
    shard.index.erase(shard.order.back().first);
    shard.order.pop_back();
  }
  shard.order.emplace_front(l1_index, loaded);
  shard.index.emplace(l1_index, shard.order.begin());
  return loaded;
}

/// The host offset of a plain cluster, checked.
std::uint64_t ClusterMap::data_offset(std::uint64_t entry, std::uint64_t guest) const {
  const std::uint64_t offset = entry & entry_offset;
  if (offset == 0 || offset % header_.cluster_size() != 0 || (entry & ~(entry_offset | entry_copied | entry_zero)) != 0)
    corrupt("impossible L2 entry " + number(entry), guest);
  return offset;
}

/// What the entry of `offset` says about the rest of its cluster.
Run ClusterMap::piece(const Table& table, std::uint64_t offset) const {
  const std::uint64_t cluster = header_.cluster_size();
  const std::uint64_t inside = offset % cluster;
  const std::uint64_t index = offset / cluster % header_.l2_entries();
  const std::uint64_t entry = table[header_.extended() ? index * 2 : index];
  Run run;
  run.length = cluster - inside;
  if ((entry & entry_compressed) != 0) {
    run.kind = RunKind::compressed;
    run.compressed = decode_compressed(entry, header_.cluster_bits);
    return run;
  }
  if (header_.extended())
    return subcluster_piece(entry, table[index * 2 + 1], offset);
  if ((entry & entry_zero) != 0) {
    if (header_.version < 3)
      corrupt("a zero cluster in a version 2 image", offset);
    run.kind = RunKind::zero;
  } else if (entry != 0) {
    run.kind = RunKind::data;
    run.host = data_offset(entry, offset) + inside;
  }
  return run;
}

Run ClusterMap::subcluster_piece(std::uint64_t entry, std::uint64_t bitmap, std::uint64_t offset) const {
  const std::uint64_t cluster = header_.cluster_size(), each = cluster / subclusters;
  const auto allocated = static_cast<std::uint32_t>(bitmap), zero = static_cast<std::uint32_t>(bitmap >> 32);
  if ((entry & entry_zero) != 0 || (allocated & zero) != 0)
    corrupt("a subcluster is both data and zero", offset);
  const auto state = [&](unsigned sub) {
    return (allocated >> sub & 1) != 0 ? RunKind::data : (zero >> sub & 1) != 0 ? RunKind::zero : RunKind::unallocated;
  };
  const std::uint64_t inside = offset % cluster;
  const auto first = static_cast<unsigned>(inside / each);
  unsigned last = first + 1;
  while (last < subclusters && state(last) == state(first))
    last++;
  Run run;
  run.kind = state(first);
  run.length = last * each - inside;
  if (run.kind == RunKind::data)
    run.host = data_offset(entry, offset) + inside;
  return run;
}

Run ClusterMap::lookup(std::uint64_t offset, std::uint64_t limit) const {
  const std::uint64_t per_table = header_.l2_entries() * header_.cluster_size();
  Run run;
  while (run.length < limit) {
    const std::uint64_t at = offset + run.length;
    const auto l1_index = static_cast<std::uint32_t>(at / per_table);
    const std::uint64_t table_end = at / per_table * per_table + per_table;
    if (l1_[l1_index] == 0) {
      if (run.length != 0 && run.kind != RunKind::unallocated)
        break;
      run.length = table_end - offset;
      continue;
    }
    const TablePtr words = table(l1_index);
    bool same = true;
    while (same && run.length < limit && offset + run.length < table_end) {
      const Run next = piece(*words, offset + run.length);
      if (run.length == 0) {
        run = next;
      } else {
        same = next.kind == run.kind && (run.kind != RunKind::data || next.host == run.host + run.length) &&
               run.kind != RunKind::compressed;
        run.length += same ? next.length : 0;
      }
    }
    if (!same || run.kind == RunKind::compressed)
      break;
  }
  run.length = std::min(run.length, limit);
  return run;
}

/// Walks all tables once.
class ClusterMap::Validator {
 public:
  explicit Validator(const ClusterMap& map) : map_(map), header_(map.header_), cluster_(header_.cluster_size()) {}

  void run() {
    used_.set(0);
    for (std::uint64_t at = header_.l1_offset / cluster_ * cluster_; at < header_.l1_offset + map_.l1_.size() * 8;
         at += cluster_)
      used_.set(at / cluster_);
    for (std::uint32_t i = 0; i < map_.l1_.size(); i++) {
      const std::uint64_t offset = map_.table_offset(i);
      if (offset != 0 && !used_.set(offset / cluster_))
        map_.corrupt("an L2 table lies in other tables", i * header_.l2_entries() * cluster_);
    }
    for (std::uint32_t i = 0; i < map_.l1_.size(); i++)
      if (map_.l1_[i] != 0)
        check_table(map_.read_table(i), i * header_.l2_entries() * cluster_);
  }

 private:
  void check_table(const Table& table, std::uint64_t guest) {
    const std::uint64_t step = header_.extended() ? 2 : 1;
    for (std::size_t i = 0; i < table.size() && guest < header_.size; i += step, guest += cluster_) {
      const std::uint64_t entry = table[i];
      if (entry == 0 && (step == 1 || table[i + 1] == 0))
        continue;
      if ((entry & entry_compressed) != 0) {
        check_compressed(decode_compressed(entry, header_.cluster_bits), guest);
        continue;
      }
      // The last byte of the cluster that holds data decides how far the file must reach.
      const std::uint64_t cluster_end = std::min(cluster_, header_.size - guest);
      std::uint64_t data_end = 0;
      for (std::uint64_t inside = 0; inside < cluster_end;) {
        const Run run = map_.piece(table, guest + inside);
        inside += run.length;
        if (run.kind == RunKind::data)
          data_end = std::min(inside, cluster_end);
      }
      if (data_end == 0)
        continue;
      const std::uint64_t host = entry & entry_offset;
      map_.file_.require(host, data_end, "the data of the disk's offset " + number(guest));
      if (!used_.set(host / cluster_))
        map_.corrupt("a cluster at file offset " + number(host) + " is used twice", guest);
    }
  }

  void check_compressed(const CompressedRange& range, std::uint64_t guest) {
    // The last sector of the file need not be complete.
    const std::uint64_t file_end = round_up(map_.file_.size(), 512);
    if (range.offset >= map_.file_.size() || range.length > file_end - range.offset)
      map_.file_.require(range.offset, range.length, "the compressed data of the disk's offset " + number(guest));
    // Compressed clusters may share sectors, but all together they can't be longer than the file. What is known of
    // each is its length in sectors; one that fits into a single sector still needs some bytes.
    compressed_bytes_ += std::max<std::uint64_t>(4, (div_round_up(range.offset % 512 + range.length, 512) - 1) * 512);
    if (compressed_bytes_ > file_end + 512)
      map_.corrupt("its compressed clusters claim more data than the file holds", guest);
  }

  const ClusterMap& map_;
  const Header& header_;
  const std::uint64_t cluster_;
  ClusterBits used_;
  std::uint64_t compressed_bytes_ = 0;
};

void ClusterMap::validate() const {
  Validator(*this).run();
}

} // namespace kvmport::qcow2
