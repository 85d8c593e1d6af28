// SPDX-License-Identifier: Apache-2.0
#include "formats/qcow2_writer.h"

#include <algorithm>

namespace kvmport::qcow2 {

EntryTables::EntryTables(std::uint64_t clusters, std::uint64_t entries_per_table)
    : clusters_(clusters), per_table_(entries_per_table), tables_(div_round_up(clusters, entries_per_table)),
      owned_(tables_.size()) {}

EntryTables::Table& EntryTables::make(std::size_t index) {
  if (Table* table = tables_[index].load(std::memory_order_acquire))
    return *table;
  const std::lock_guard lock(mutex_);
  auto& owner = owned_[index];
  if (!owner) {
    owner = std::make_unique<Table>(per_table_);
    tables_[index].store(owner.get(), std::memory_order_release);
  }
  return *owner;
}

std::uint64_t EntryTables::get(std::uint64_t cluster) const {
  const Table* table = tables_[cluster / per_table_].load(std::memory_order_acquire);
  return table == nullptr ? 0 : table->entry[cluster % per_table_].load(std::memory_order_acquire);
}

void EntryTables::set(std::uint64_t cluster, std::uint64_t entry) {
  Table& table = make(cluster / per_table_);
  const std::uint64_t index = cluster % per_table_;
  table.entry[index].store(entry, std::memory_order_release);
  table.changed[index / 64].fetch_or(std::uint64_t{1} << (index % 64), std::memory_order_release);
}

std::span<const std::atomic<std::uint64_t>> EntryTables::table(std::size_t index) const {
  const Table* table = tables_[index].load(std::memory_order_acquire);
  return table == nullptr ? std::span<const std::atomic<std::uint64_t>>{} : std::span(table->entry);
}

Bytes EntryTables::take_changes() {
  Bytes changes;
  for (std::size_t t = 0; t < tables_.size(); t++) {
    Table* table = tables_[t].load(std::memory_order_acquire);
    if (table == nullptr)
      continue;
    for (std::size_t w = 0; w < table->changed.size(); w++) {
      for (std::uint64_t word = table->changed[w].exchange(0); word != 0; word &= word - 1) {
        const std::uint64_t index = w * 64 + static_cast<unsigned>(std::countr_zero(word));
        changes.resize(changes.size() + 16);
        store_le<std::uint64_t>(changes, changes.size() - 16, t * per_table_ + index);
        store_le<std::uint64_t>(changes, changes.size() - 8, table->entry[index].load());
      }
    }
  }
  return changes;
}

void EntryTables::apply(ByteSpan changes) {
  if (changes.size() % 16 != 0)
    throw Error("IMAGE_CORRUPT", "a checkpoint of the image has an impossible length");
  for (std::size_t at = 0; at < changes.size(); at += 16) {
    const auto cluster = load_le<std::uint64_t>(changes, at);
    if (cluster >= clusters_)
      throw Error("IMAGE_CORRUPT", "a checkpoint names a cluster past the end of the disk");
    make(cluster / per_table_).entry[cluster % per_table_].store(load_le<std::uint64_t>(changes, at + 8));
  }
}

void HostSpace::add_gap(Gap gap) {
  constexpr std::uint64_t least = 64; // shorter ones never hold a cluster
  if (gap.end < gap.begin + least)
    return;
  gaps_.push_back(gap);
  if (gaps_.size() > most_gaps) // forget the smallest
    gaps_.erase(std::min_element(gaps_.begin(), gaps_.end(),
                                 [](const Gap& a, const Gap& b) { return a.end - a.begin < b.end - b.begin; }));
}

void HostSpace::release(std::uint64_t begin, std::uint64_t end) {
  const std::lock_guard lock(mutex_);
  add_gap({begin, end});
}

std::uint64_t HostSpace::clusters(std::uint64_t count) {
  const std::lock_guard lock(mutex_);
  const std::uint64_t begin = round_up(end_, cluster_);
  add_gap({end_, begin});
  end_ = begin + count * cluster_;
  return begin;
}

std::vector<std::uint64_t> HostSpace::bytes(const std::vector<std::size_t>& lengths) {
  std::vector<std::uint64_t> offsets;
  offsets.reserve(lengths.size());
  const std::lock_guard lock(mutex_);
  for (const std::size_t length : lengths) {
    const auto gap = std::find_if(gaps_.begin(), gaps_.end(), [&](const Gap& g) { return g.end - g.begin >= length; });
    std::uint64_t& from = gap != gaps_.end() ? gap->begin : end_;
    offsets.push_back(from);
    from += length;
  }
  return offsets;
}

void HostSpace::reset(std::uint64_t end) {
  const std::lock_guard lock(mutex_);
  end_ = round_up(std::max(end, cluster_), cluster_);
  gaps_.clear();
}

} // namespace kvmport::qcow2
