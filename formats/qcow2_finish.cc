// SPDX-License-Identifier: Apache-2.0
// The end of writing a qcow2 image: L2 and L1 tables, reference counts, header.
#include "formats/qcow2_writer.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <limits>
#include <unistd.h>

namespace kvmport {
namespace {

using qcow2::entry_compressed;
using qcow2::entry_copied;

/// Collects table bytes and writes them in long pieces.
class TableWriter {
 public:
  TableWriter(int fd, std::uint64_t offset, const std::string& name) : fd_(fd), offset_(offset), name_(name) {
    buffer_.reserve(piece);
  }
  template <std::unsigned_integral T> void add(T value) {
    buffer_.resize(buffer_.size() + sizeof(T));
    store_be<T>(buffer_, buffer_.size() - sizeof(T), value);
    if (buffer_.size() >= piece)
      flush();
  }
  void flush() {
    write_exact(fd_, offset_, buffer_, name_);
    offset_ += buffer_.size();
    buffer_.clear();
  }
  void pad_to(std::uint64_t offset) {
    flush();
    offset_ = offset; // the file is longer already: what is skipped reads as zeros
  }

 private:
  static constexpr std::size_t piece = 1U << 20;
  int fd_;
  std::uint64_t offset_;
  const std::string& name_;
  Bytes buffer_;
};

constexpr std::uint64_t refcount_bytes = 2; // refcount order 4

} // namespace

void Qcow2Writer::finish() {
  Layout layout;
  for (std::size_t t = 0; t < entries_.tables(); t++) {
    const auto table = entries_.table(t);
    if (std::any_of(table.begin(), table.end(), [](const auto& entry) { return entry.load() != 0; }))
      layout.tables.push_back(t);
  }
  layout.l1_entries = entries_.tables();
  layout.l2 = space_.end();
  layout.l1 = layout.l2 + layout.tables.size() * cluster_;
  layout.refcount_blocks = layout.l1 + round_up(layout.l1_entries * 8, cluster_);
  // The reference counts count themselves: grow until they fit.
  const std::uint64_t per_block = cluster_ / refcount_bytes;
  std::uint64_t blocks = 1, table_clusters = 1;
  for (;;) {
    const std::uint64_t total = layout.refcount_blocks / cluster_ + blocks + table_clusters;
    const std::uint64_t need_blocks = div_round_up(total, per_block);
    const std::uint64_t need_table = div_round_up(need_blocks * 8, cluster_);
    if (need_blocks <= blocks && need_table <= table_clusters)
      break;
    blocks = std::max(blocks, need_blocks);
    table_clusters = std::max(table_clusters, need_table);
  }
  layout.refcount_table = layout.refcount_blocks + blocks * cluster_;
  layout.end = layout.refcount_table + table_clusters * cluster_;

  if (::ftruncate(file_.get(), static_cast<off_t>(layout.end)) != 0)
    throw system_error(errno, "can't set the size of " + name_);
  write_tables(layout);
  sync();
  write_header(layout);
  if (::fsync(file_.get()) != 0)
    throw system_error(errno, "can't sync " + name_);
}

/// How often each cluster of the file is used.
std::vector<std::uint16_t> Qcow2Writer::count_references(const Layout& layout) const {
  std::vector<std::uint16_t> count(layout.end / cluster_);
  count[0] = 1;
  std::fill(count.begin() + static_cast<std::ptrdiff_t>(layout.l2 / cluster_), count.end(), std::uint16_t{1});
  for (const std::size_t t : layout.tables) {
    for (const auto& word : entries_.table(t)) {
      const std::uint64_t entry = word.load(std::memory_order_relaxed);
      if (entry == 0)
        continue;
      if ((entry & entry_compressed) == 0) {
        count[plain_offset(entry) / cluster_] = 1;
        continue;
      }
      const auto range = qcow2::decode_compressed(entry, cluster_bits_);
      for (std::uint64_t c = range.offset / cluster_; c <= (range.offset + range.length - 1) / cluster_; c++)
        if (count[c]++ == std::numeric_limits<std::uint16_t>::max())
          throw Error("INTERNAL", "a cluster of " + name_ + " is shared too often");
    }
  }
  return count;
}

void Qcow2Writer::write_tables(const Layout& layout) {
  TableWriter out(file_.get(), layout.l2, name_);
  for (const std::size_t t : layout.tables)
    for (const auto& entry : entries_.table(t))
      out.add(entry.load(std::memory_order_relaxed));
  out.pad_to(layout.l1);
  auto next = layout.tables.begin();
  std::uint64_t l2 = layout.l2;
  for (std::uint64_t t = 0; t < layout.l1_entries; t++) {
    const bool used = next != layout.tables.end() && *next == t;
    out.add(used ? l2 | entry_copied : std::uint64_t{0});
    if (used) {
      ++next;
      l2 += cluster_;
    }
  }
  out.pad_to(layout.refcount_blocks);
  const std::vector<std::uint16_t> references = count_references(layout);
  for (const std::uint16_t count : references)
    out.add(count);
  out.pad_to(layout.refcount_table);
  for (std::uint64_t block = layout.refcount_blocks; block < layout.refcount_table; block += cluster_)
    out.add(block);
  out.flush();
  punch_unused(references);
}

/// Space that rewritten clusters left behind becomes a hole.
void Qcow2Writer::punch_unused(const std::vector<std::uint16_t>& references) {
  for (std::size_t i = 0; i < references.size();) {
    std::size_t end = i;
    while (end < references.size() && references[end] == 0)
      end++;
    if (end != i) // only gives space back; a file system that can't keeps it
      (void)::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(i * cluster_),
                        static_cast<off_t>((end - i) * cluster_));
    i = std::max(end, i + 1);
  }
}

void Qcow2Writer::write_header(const Layout& layout) {
  const bool zstd = compression_ == Compression::zstd;
  Bytes header(qcow2::v3_header_size + 8 + 8); // with the compression type, and the end of the extensions
  store_be<std::uint32_t>(header, 0, qcow2::magic);
  store_be<std::uint32_t>(header, 4, 3);
  store_be<std::uint32_t>(header, 20, cluster_bits_);
  store_be<std::uint64_t>(header, 24, size_);
  store_be<std::uint32_t>(header, 36, static_cast<std::uint32_t>(layout.l1_entries));
  store_be<std::uint64_t>(header, 40, layout.l1);
  store_be<std::uint64_t>(header, 48, layout.refcount_table);
  store_be<std::uint32_t>(header, 56, static_cast<std::uint32_t>((layout.end - layout.refcount_table) / cluster_));
  store_be<std::uint64_t>(header, 72, zstd ? qcow2::incompatible_compression : 0);
  store_be<std::uint32_t>(header, 96, 4); // refcount order: 16 bits
  store_be<std::uint32_t>(header, 100, static_cast<std::uint32_t>(qcow2::v3_header_size + 8));
  header[104] = static_cast<std::byte>(zstd ? qcow2::CompressionType::zstd : qcow2::CompressionType::zlib);
  write_exact(file_.get(), 0, header, name_);
}

} // namespace kvmport
