// SPDX-License-Identifier: Apache-2.0
#include "formats/qcow2_edit.h"

#include "formats/qcow2_format.h"

#include <algorithm>
#include <map>
#include <unistd.h>

namespace kvmport {
namespace {

using qcow2::entry_compressed;
using qcow2::entry_copied;
using qcow2::entry_offset;
using qcow2::entry_zero;

// Header fields, by their offset.
constexpr std::size_t at_refcount_table = 48, at_refcount_clusters = 56, at_refcount_order = 96;
constexpr std::uint32_t wanted_refcount_order = 4; // 16 bits, which QEMU chooses and version 2 always has

std::uint32_t refcount_order(const SourceFile& file, const qcow2::Header& header) {
  return header.version < 3 ? wanted_refcount_order : load_be<std::uint32_t>(file.read_bytes(at_refcount_order, 4), 0);
}

std::string reason_against(const SourceFile& file, const qcow2::Header& header) {
  if (header.snapshots != 0)
    return "internal snapshots";
  if (header.extended())
    return "subclusters";
  if (header.autoclear != 0)
    return "dirty bitmaps";
  if ((header.incompatible & qcow2::incompatible_dirty) != 0)
    return "reference counts that may be stale";
  if (refcount_order(file, header) != wanted_refcount_order)
    return "reference counts of an unusual width";
  return {};
}

} // namespace

struct Qcow2Editor::State {
  explicit State(const std::filesystem::path& path);

  std::uint64_t cluster_at_end();
  std::uint16_t& references(std::uint64_t cluster);
  void release(std::uint64_t entry);
  Bytes& l2_table(std::uint64_t index);
  void write_part(std::uint64_t guest_cluster, std::uint64_t inside, ByteSpan data, const Image& before);
  void write_back();
  void move_refcount_table();
  Bytes read_table(std::uint64_t offset, std::uint64_t bytes, const char* what) const;
  void put(std::uint64_t offset, ByteSpan bytes) const { write_exact(fd.get(), offset, bytes, name); }

  std::string name;
  UniqueFd fd;
  qcow2::Header header;
  std::uint64_t cluster = 0;   ///< bytes
  std::uint64_t end = 0;       ///< of the file, in clusters
  std::uint64_t known_end = 0; ///< what lay there when it was opened, in bytes
  std::uint64_t refcount_table_offset = 0, refcount_table_clusters = 0;
  bool l1_changed = false, refcount_table_changed = false;
  Bytes l1, refcount_table;
  std::map<std::uint64_t, Bytes> l2;                                  ///< by L1 index
  std::map<std::uint64_t, std::vector<std::uint16_t>> refcount_block; ///< by index in the table
};

Qcow2Editor::State::State(const std::filesystem::path& path) : name(path.string()), fd(open_existing(path)) {
  const auto file = SourceFile::from_fd(UniqueFd(::dup(fd.get())), path);
  header = qcow2::read_header(file);
  if (const std::string why = reason_against(file, header); !why.empty())
    throw Error("FORMAT_UNSUPPORTED", name + " can't be changed in place: it has " + why);
  cluster = header.cluster_size();
  known_end = file.size();
  end = div_round_up(known_end, cluster);
  refcount_table_offset = load_be<std::uint64_t>(file.read_bytes(at_refcount_table, 8), 0);
  refcount_table_clusters = load_be<std::uint32_t>(file.read_bytes(at_refcount_clusters, 4), 0);
  l1 = read_table(header.l1_offset, std::uint64_t{header.l1_entries} * 8, "its L1 table");
  refcount_table = read_table(refcount_table_offset, refcount_table_clusters * cluster, "its reference count table");
}

Bytes Qcow2Editor::State::read_table(std::uint64_t offset, std::uint64_t bytes, const char* what) const {
  if (offset % cluster != 0 || offset == 0 || offset > known_end || bytes > known_end - offset)
    throw Error("IMAGE_CORRUPT", name + ": " + what + " does not lie in the file");
  Bytes table(bytes);
  read_exact(fd.get(), offset, table, name);
  return table;
}

/// The count of a cluster; its block is read, or made at the end of the file.
std::uint16_t& Qcow2Editor::State::references(std::uint64_t index) {
  const std::uint64_t per_block = cluster / 2, block = index / per_block;
  auto found = refcount_block.find(block);
  if (found == refcount_block.end()) {
    if ((block + 1) * 8 > refcount_table.size())
      refcount_table.resize(round_up((block + 1) * 8, cluster));
    std::vector<std::uint16_t> counts(per_block);
    const auto place = load_be<std::uint64_t>(refcount_table, block * 8);
    if (place != 0) {
      const Bytes bytes = read_table(place, cluster, "a block of reference counts");
      for (std::size_t i = 0; i < per_block; i++)
        counts[i] = load_be<std::uint16_t>(bytes, i * 2);
    }
    found = refcount_block.emplace(block, std::move(counts)).first;
    if (place == 0) {
      const std::uint64_t fresh = cluster_at_end(); // may make the table longer
      store_be<std::uint64_t>(refcount_table, block * 8, fresh);
      refcount_table_changed = true;
    }
  }
  return found->second[index % per_block];
}

std::uint64_t Qcow2Editor::State::cluster_at_end() {
  const std::uint64_t index = end++;
  references(index) = 1;
  return index * cluster;
}

/// What an L2 entry named is used once less.
void Qcow2Editor::State::release(std::uint64_t entry) {
  std::uint64_t first = (entry & entry_offset) / cluster, last = first;
  if ((entry & entry_compressed) != 0) {
    const auto range = qcow2::decode_compressed(entry, header.cluster_bits);
    first = range.offset / cluster;
    last = (range.offset + range.length - 1) / cluster;
  } else if ((entry & entry_offset) == 0) {
    return;
  }
  for (std::uint64_t i = first; i <= last; i++) {
    if (i >= end || references(i) == 0)
      throw Error("IMAGE_CORRUPT", name + ": its reference counts contradict its tables", {},
                  "repair it with qemu-img check -r all");
    references(i)--;
  }
}

Bytes& Qcow2Editor::State::l2_table(std::uint64_t index) {
  const auto found = l2.find(index);
  if (found != l2.end())
    return found->second;
  const auto entry = load_be<std::uint64_t>(l1, index * 8);
  if ((entry & entry_offset) != 0)
    return l2.emplace(index, read_table(entry & entry_offset, cluster, "an L2 table")).first->second;
  store_be<std::uint64_t>(l1, index * 8, cluster_at_end() | entry_copied);
  l1_changed = true;
  return l2.emplace(index, Bytes(cluster)).first->second;
}

void Qcow2Editor::State::write_part(std::uint64_t guest_cluster, std::uint64_t inside, ByteSpan data,
                                    const Image& before) {
  const std::uint64_t per_table = header.l2_entries();
  Bytes& table = l2_table(guest_cluster / per_table);
  const std::size_t slot = guest_cluster % per_table * 8;
  const auto entry = load_be<std::uint64_t>(table, slot);
  if ((entry & entry_copied) != 0 && (entry & (entry_compressed | entry_zero)) == 0) {
    const std::uint64_t place = entry & entry_offset;
    if (place % cluster != 0 || place == 0 || place / cluster >= end)
      throw Error("IMAGE_CORRUPT", name + ": a cluster does not lie in the file");
    put(place + inside, data);
    return;
  }
  Bytes whole(cluster);
  const std::uint64_t from = guest_cluster * cluster;
  before.read(from, std::span(whole).first(std::min(cluster, before.size() - from)));
  std::ranges::copy(data, whole.begin() + static_cast<std::ptrdiff_t>(inside));
  const std::uint64_t place = cluster_at_end();
  put(place, whole);
  release(entry);
  store_be<std::uint64_t>(table, slot, place | entry_copied);
}

/// The table of reference counts became too long for its place.
void Qcow2Editor::State::move_refcount_table() {
  const std::uint64_t old = refcount_table_offset / cluster, old_clusters = refcount_table_clusters;
  refcount_table_clusters = refcount_table.size() / cluster + 1; // one more, should its own counts need another block
  // Blocks that count its clusters must not come to lie between them.
  for (std::uint64_t before = 0; before != end;) {
    before = end;
    for (std::uint64_t i = 0; i < refcount_table_clusters; i++)
      references(before + i);
  }
  refcount_table_offset = end * cluster;
  for (std::uint64_t i = 0; i < refcount_table_clusters; i++)
    cluster_at_end();
  refcount_table.resize(refcount_table_clusters * cluster);
  for (std::uint64_t i = 0; i < old_clusters; i++)
    references(old + i) = 0;
  refcount_table_changed = true;
}

void Qcow2Editor::State::write_back() {
  if (refcount_table.size() > refcount_table_clusters * cluster)
    move_refcount_table();
  for (const auto& [index, table] : l2)
    put(load_be<std::uint64_t>(l1, index * 8) & entry_offset, table);
  for (const auto& [index, counts] : refcount_block) {
    Bytes bytes(cluster);
    for (std::size_t i = 0; i < counts.size(); i++)
      store_be<std::uint16_t>(bytes, i * 2, counts[i]);
    put(load_be<std::uint64_t>(refcount_table, index * 8), bytes);
  }
  if (refcount_table_changed)
    put(refcount_table_offset, refcount_table);
  if (l1_changed)
    put(header.l1_offset, l1);
  Bytes fields(12);
  store_be<std::uint64_t>(fields, 0, refcount_table_offset);
  store_be<std::uint32_t>(fields, at_refcount_clusters - at_refcount_table,
                          static_cast<std::uint32_t>(refcount_table_clusters));
  put(at_refcount_table, fields);
  if (const auto bytes = static_cast<off_t>(end * cluster);
      bytes > static_cast<off_t>(known_end) && ::ftruncate(fd.get(), bytes) != 0)
    throw system_error(errno, "can't set the size of " + name);
  if (::fsync(fd.get()) != 0)
    throw system_error(errno, "can't sync " + name);
}

std::string Qcow2Editor::unsupported(const std::filesystem::path& path) {
  const auto file = SourceFile::open(path);
  return reason_against(file, qcow2::read_header(file));
}

Qcow2Editor::Qcow2Editor(const std::filesystem::path& path) : state_(std::make_unique<State>(path)) {}
Qcow2Editor::~Qcow2Editor() = default;

void Qcow2Editor::write(std::uint64_t offset, ByteSpan data, const Image& before) {
  detail::check_bounds(state_->header.size, offset, data.size());
  while (!data.empty()) {
    const std::uint64_t inside = offset % state_->cluster;
    const auto part = data.first(std::min<std::uint64_t>(data.size(), state_->cluster - inside));
    state_->write_part(offset / state_->cluster, inside, part, before);
    offset += part.size();
    data = data.subspan(part.size());
  }
}

void Qcow2Editor::finish() {
  state_->write_back();
}

void create_qcow2_over(const std::filesystem::path& path, std::uint64_t size, const std::string& backing,
                       const std::string& backing_format) {
  constexpr unsigned cluster_bits = 16;
  constexpr std::uint64_t cluster = 1U << cluster_bits, name_at = 512;
  constexpr std::uint32_t backing_format_extension = 0xe2792aca;
  if (backing.size() > qcow2::max_backing_name)
    throw Error("FORMAT_UNSUPPORTED", "the path of the backing file is too long for a qcow2", backing);
  const std::uint64_t l1_entries = div_round_up(round_up(size, 512), cluster / 8 * cluster);
  const std::uint64_t l1_clusters = div_round_up(l1_entries * 8, cluster), clusters = 3 + l1_clusters;
  if (l1_entries * 8 > qcow2::max_l1_bytes)
    throw Error("FORMAT_UNSUPPORTED", "a disk of " + std::to_string(size) + " bytes is too large for a qcow2");
  Bytes head(3 * cluster); // the header, the table of reference counts and its one block
  store_be<std::uint32_t>(head, 0, qcow2::magic);
  store_be<std::uint32_t>(head, 4, 3);
  store_be<std::uint64_t>(head, 8, name_at);
  store_be<std::uint32_t>(head, 16, static_cast<std::uint32_t>(backing.size()));
  store_be<std::uint32_t>(head, 20, cluster_bits);
  store_be<std::uint64_t>(head, 24, round_up(size, 512));
  store_be<std::uint32_t>(head, 36, static_cast<std::uint32_t>(l1_entries));
  store_be<std::uint64_t>(head, 40, 3 * cluster);
  store_be<std::uint64_t>(head, at_refcount_table, cluster);
  store_be<std::uint32_t>(head, at_refcount_clusters, 1);
  store_be<std::uint32_t>(head, at_refcount_order, wanted_refcount_order);
  store_be<std::uint32_t>(head, 100, static_cast<std::uint32_t>(qcow2::v3_header_size));
  std::uint64_t at = qcow2::v3_header_size;
  store_be<std::uint32_t>(head, at, backing_format_extension);
  store_be<std::uint32_t>(head, at + 4, static_cast<std::uint32_t>(backing_format.size()));
  std::ranges::copy(as_bytes(backing_format), head.begin() + static_cast<std::ptrdiff_t>(at + 8));
  std::ranges::copy(as_bytes(backing), head.begin() + name_at);
  store_be<std::uint64_t>(head, cluster, 2 * cluster);
  for (std::uint64_t i = 0; i < clusters; i++)
    store_be<std::uint16_t>(head, 2 * cluster + 2 * i, 1);
  const UniqueFd fd = create_new(path);
  if (::ftruncate(fd.get(), static_cast<off_t>(clusters * cluster)) != 0)
    throw system_error(errno, "can't set the size of " + path.string());
  write_exact(fd.get(), 0, head, path.string());
  if (::fsync(fd.get()) != 0)
    throw system_error(errno, "can't sync " + path.string());
}

} // namespace kvmport
