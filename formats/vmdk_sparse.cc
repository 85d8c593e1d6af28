// SPDX-License-Identifier: Apache-2.0
#include "formats/vmdk_sparse.h"

#include "formats/probe.h"
#include "formats/vmdk_descriptor.h"

#include <algorithm>
#include <numeric>

namespace kvmport::vmdk {
namespace {

constexpr std::uint32_t magic = 0x564d444b; // "KDMV"
constexpr std::uint64_t directory_at_end = ~std::uint64_t{0};
constexpr std::uint32_t flag_newlines = 1U << 0, flag_spare = 1U << 1, flag_zero_grains = 1U << 2,
                        flag_compressed = 1U << 16, flag_markers = 1U << 17;
constexpr std::uint32_t marker_end = 0, marker_footer = 3;
constexpr std::uint64_t marker_bytes = 12; // of a grain: its first sector and the payload's length

} // namespace

// --- opening -----------------------------------------------------------------------------------------------------

SparseExtent::SparseExtent(SourceFile file) : file_(std::move(file)) {
  read_header();
  open_directories();
}

void SparseExtent::read_header() {
  const Bytes header = file_.read_bytes(0, std::min(file_.size(), sector));
  if (header.size() < sector || load_le<std::uint32_t>(header, 0) != magic)
    throw corrupt(file_, "is not a sparse VMDK extent", "the magic number KDMV is missing");
  parse_fields(header, false);
  require_power_of_two(file_, grain_, 8 * sector, 64U << 20, "the grain size of the VMDK header in bytes");
  if (table_entries_ == 0 || table_entries_ > 1U << 16)
    throw corrupt(file_, "the VMDK header has a bad grain table size", std::to_string(table_entries_) + " entries");
  if (capacity_ == 0 || capacity_ > std::uint64_t{1} << 54)
    throw corrupt(file_, "the VMDK header has a bad capacity", std::to_string(capacity_) + " sectors");
  size_ = capacity_ * sector;
  if ((flags_ & flag_newlines) != 0 && as_text(ByteSpan(header).subspan(73, 4)) != "\n \r\n")
    throw corrupt(file_, "was damaged by a transfer in text mode", "the VMDK header's newline check bytes are changed");
  const auto algorithm = load_le<std::uint16_t>(header, 77);
  compressed_ = (flags_ & flag_compressed) != 0;
  if (algorithm > 1 || compressed_ != (algorithm == 1))
    throw corrupt(file_, "the VMDK header names an unknown compression", "algorithm " + std::to_string(algorithm));
  if (compressed_ && (flags_ & flag_markers) == 0)
    throw unsupported_format(file_, "compressed without markers VMDK");
  if (std::to_integer<unsigned>(header[72]) == 1)
    note("the VMDK was not closed cleanly");
  if (directory_sector_ == directory_at_end)
    read_footer();
}

void SparseExtent::parse_fields(ByteSpan header, bool footer) {
  version_ = load_le<std::uint32_t>(header, 4);
  if (version_ < 1 || version_ > 3)
    throw unsupported_format(file_, "version " + std::to_string(version_) + " VMDK");
  flags_ = load_le<std::uint32_t>(header, 8);
  const auto capacity = load_le<std::uint64_t>(header, 12), grain = load_le<std::uint64_t>(header, 20);
  if (footer && (capacity != capacity_ || grain != grain_ / sector))
    throw corrupt(file_, "the VMDK footer contradicts the header", "capacity or grain size differ");
  capacity_ = capacity;
  grain_ = grain > 1U << 20 ? ~std::uint64_t{0} : grain * sector;
  if (!footer) {
    descriptor_sector_ = load_le<std::uint64_t>(header, 28);
    descriptor_sectors_ = load_le<std::uint64_t>(header, 36);
  }
  table_entries_ = load_le<std::uint32_t>(header, 44);
  spare_sector_ = (flags_ & flag_spare) != 0 ? load_le<std::uint64_t>(header, 48) : 0;
  directory_sector_ = load_le<std::uint64_t>(header, 56);
}

/// The last three sectors of a stream: a footer marker, the real header, the end-of-stream marker.
void SparseExtent::read_footer() {
  const Error cut("DISK_TRUNCATED", file_.path().string() + " ends before its VMDK footer",
                  "a stream-optimized disk ends with a footer and an end-of-stream marker, this file with other bytes",
                  "copy the file again from its source and compare checksums");
  if (file_.size() < 4 * sector || file_.size() % sector != 0)
    throw cut;
  const Bytes tail = file_.read_bytes(file_.size() - 3 * sector, 3 * sector);
  const auto is_marker = [&](std::size_t at, std::uint64_t sectors, std::uint32_t type) {
    return load_le<std::uint64_t>(tail, at) == sectors && load_le<std::uint32_t>(tail, at + 8) == 0 &&
           load_le<std::uint32_t>(tail, at + 12) == type;
  };
  const ByteSpan footer = ByteSpan(tail).subspan(sector, sector);
  if (!is_marker(2 * sector, 0, marker_end) || !is_marker(0, 1, marker_footer) ||
      load_le<std::uint32_t>(footer, 0) != magic)
    throw cut;
  const std::uint32_t entries = table_entries_, flags = flags_;
  parse_fields(footer, true);
  if (table_entries_ != entries || ((flags ^ flags_) & (flag_compressed | flag_markers)) != 0)
    throw corrupt(file_, "the VMDK footer contradicts the header", "grain table size or flags differ");
  if (directory_sector_ == directory_at_end)
    throw corrupt(file_, "the VMDK footer does not say where the grain directory lies");
}

void SparseExtent::open_directories() {
  tables_ = div_round_up(size_ / grain_ + (size_ % grain_ != 0), table_entries_);
  const auto open = [&](std::uint64_t start) {
    return std::make_unique<FileTable>(file_, checked_mul(start, sector, "the offset of the grain directory"),
                                       tables_ * 4, "the VMDK grain directory");
  };
  if (spare_sector_ != 0 && spare_sector_ != directory_sector_) {
    try {
      spare_ = open(spare_sector_);
    } catch (const Error&) {
      note("the redundant grain directory lies outside of the file");
    }
  }
  try {
    if (directory_sector_ == 0)
      throw corrupt(file_, "the VMDK header does not say where the grain directory lies");
    directory_ = open(directory_sector_);
  } catch (const Error&) {
    if (!spare_)
      throw;
    note("the grain directory lies outside of the file; the redundant one was used");
    directory_ = std::move(spare_);
  }
}

std::string SparseExtent::descriptor() const {
  if (descriptor_sector_ == 0 || descriptor_sectors_ == 0)
    return {};
  if (descriptor_sectors_ > max_descriptor_bytes / sector)
    throw corrupt(file_, "the embedded VMDK descriptor is too long", std::to_string(descriptor_sectors_) + " sectors");
  const Bytes text = file_.read_bytes(checked_mul(descriptor_sector_, sector, "the offset of the VMDK descriptor"),
                                      descriptor_sectors_ * sector);
  return std::string(as_text(text));
}

void SparseExtent::note(const std::string& text) const {
  const std::lock_guard lock(notes_mutex_);
  if (std::find(notes_.begin(), notes_.end(), text) == notes_.end())
    notes_.push_back(text);
}

std::vector<std::string> SparseExtent::notes() const {
  const std::lock_guard lock(notes_mutex_);
  return notes_;
}

// --- tables ------------------------------------------------------------------------------------------------------

/// What is wrong with an entry of a grain table, or nothing.
std::string SparseExtent::entry_problem(std::uint32_t entry, std::uint64_t grain_index) const {
  const std::uint64_t start = grain_index * grain_;
  if (entry == 0 || start >= size_ || (entry == 1 && (flags_ & flag_zero_grains) != 0))
    return {};
  if (entry == 1)
    return "a grain lies on the header";
  const std::uint64_t need = compressed_ ? marker_bytes + 1 : grain_length(start);
  if (file_.contains(entry * sector, need))
    return {};
  return "the grain of disk offset " + std::to_string(start) + " would lie " + at_offset(entry * sector);
}

std::optional<Bytes> SparseExtent::read_table(std::uint32_t table_sector, std::uint64_t index,
                                              std::string& problem) const {
  const std::uint64_t host = table_sector * sector, bytes = std::uint64_t{table_entries_} * 4;
  if (!file_.contains(host, bytes)) {
    problem = "grain table " + std::to_string(index) + " would lie " + at_offset(host);
    return std::nullopt;
  }
  Bytes table = file_.read_bytes(host, bytes);
  for (std::uint64_t i = 0; i < table_entries_; i++) {
    problem = entry_problem(load_le<std::uint32_t>(table, i * 4), index * table_entries_ + i);
    if (!problem.empty())
      return std::nullopt;
  }
  return table;
}

/// The grain table `index`, nothing when no grain of it was ever written.
PageCache::Page SparseExtent::table(std::uint64_t index) const {
  const std::uint32_t first = directory_->le32(index);
  const std::uint32_t second = spare_ ? spare_->le32(index) : 0;
  if (first == 0 && second == 0)
    return nullptr;
  return table_cache_.get(index, [&] {
    std::string problem = "the grain directory does not list grain table " + std::to_string(index), spare_problem;
    if (first != 0)
      if (auto entries = read_table(first, index, problem))
        return std::move(*entries);
    if (second != 0)
      if (auto entries = read_table(second, index, spare_problem)) {
        note("a grain table is damaged (" + problem + "); the redundant one was used");
        return std::move(*entries);
      }
    if (problem == "a grain lies on the header")
      throw corrupt(file_, problem, "grain table " + std::to_string(index));
    throw Error("DISK_TRUNCATED", file_.path().string() + " ends before data that it should hold",
                problem + ", the file has " + std::to_string(file_.size()) + " bytes",
                "copy the file again from its source and compare checksums");
  });
}

Piece SparseExtent::locate(std::uint64_t offset, std::uint64_t max) const {
  const std::uint64_t covered = grain_ * table_entries_;
  const std::uint64_t index = offset / covered, inside = offset % covered;
  Piece piece;
  const PageCache::Page entries = table(index);
  if (!entries) {
    piece.length = std::min(max, covered - inside);
    return piece;
  }
  const auto place_of = [&](std::uint32_t entry) {
    if (entry == 0)
      return Piece::Place::below;
    if (entry == 1)
      return Piece::Place::zero;
    return compressed_ ? Piece::Place::packed : Piece::Place::file;
  };
  std::uint64_t i = inside / grain_;
  const std::uint32_t first = load_le<std::uint32_t>(*entries, i * 4);
  piece.place = place_of(first);
  piece.file = &file_;
  piece.host = first * sector + inside % grain_;
  piece.length = grain_ - inside % grain_;
  for (i++; i < table_entries_ && piece.length < max; i++) {
    const std::uint32_t next = load_le<std::uint32_t>(*entries, i * 4);
    if (place_of(next) != piece.place ||
        (piece.place == Piece::Place::file && next * sector != piece.host + piece.length))
      break;
    piece.length += grain_;
  }
  piece.length = std::min(piece.length, max);
  return piece;
}

// --- compressed grains -------------------------------------------------------------------------------------------

/// Decompresses the grain of disk offset `start`; `packed` holds its marker and payload, and perhaps bytes after it;
/// `out` is the whole grain, or at the end of the disk what is left.
void SparseExtent::decode(BlockDecoder& decoder, ByteSpan packed, std::uint64_t host, std::uint64_t start,
                          std::span<std::byte> out) const {
  const auto lba = load_le<std::uint64_t>(packed, 0);
  const auto length = load_le<std::uint32_t>(packed, 8);
  if (lba != start / sector || length == 0 || length > max_packed())
    throw corrupt(file_, "a compressed grain's marker contradicts the grain table",
                  at_offset(host) + ": sector " + std::to_string(lba) + " of " + std::to_string(length) +
                      " bytes, expected sector " + std::to_string(start / sector));
  if (length > packed.size() - marker_bytes) {
    file_.require(host, marker_bytes + length, "the end of a compressed grain");
    throw corrupt(file_, "two compressed grains overlap", at_offset(host));
  }
  std::span<std::byte> target = out;
  if (out.size() < grain_) {
    decoder.output().resize(grain_);
    target = decoder.output();
  }
  std::size_t produced = 0;
  if (!decoder.zlib(packed.subspan(marker_bytes, length), target.first(grain_), produced) || produced < out.size())
    throw corrupt(file_, "a compressed grain can't be decompressed", at_offset(host));
  if (out.size() < grain_)
    std::copy_n(target.begin(), out.size(), out.begin());
}

std::size_t SparseExtent::read_part(std::uint64_t offset, std::uint32_t entry, std::span<std::byte> out) const {
  const std::uint64_t index = offset / grain_, start = index * grain_, host = entry * sector;
  const auto grain = decoded_.get(index, [&] {
    const auto decoder = decoders_.take();
    const Bytes packed = file_.read_bytes(host, std::min(marker_bytes + max_packed(), file_.size() - host));
    Bytes plain(grain_length(start));
    decode(*decoder, packed, host, start, plain);
    return plain;
  });
  const std::size_t length = std::min<std::uint64_t>(out.size(), grain->size() - (offset - start));
  std::copy_n(grain->begin() + static_cast<std::ptrdiff_t>(offset - start), length, out.begin());
  return length;
}

/// Reads whole grains that follow each other in the disk and in the file with one pread, then decompresses each.
std::size_t SparseExtent::read_packed(std::uint64_t offset, std::span<std::byte> out) const {
  const std::uint64_t first_grain = offset / grain_, index = first_grain / table_entries_;
  const PageCache::Page entries = table(index);
  const std::uint64_t first = first_grain % table_entries_;
  const auto host_of = [&](std::uint64_t i) -> std::uint64_t {
    return load_le<std::uint32_t>(*entries, i * 4) * sector;
  };
  if (offset % grain_ != 0 || out.size() < grain_length(offset))
    return read_part(offset, load_le<std::uint32_t>(*entries, first * 4), out);

  // Where grain i's bytes end at the latest: where the next one begins if that lies in reach, else its greatest length.
  const auto end_of = [&](std::uint64_t i) {
    const std::uint64_t limit = std::min(host_of(i) + marker_bytes + max_packed(), file_.size());
    const std::uint64_t next = i + 1 < table_entries_ ? host_of(i + 1) : 0;
    return next > host_of(i) && next < limit ? next : limit;
  };
  const std::uint64_t begin = host_of(first);
  std::uint64_t last = first, end = end_of(first), covered = grain_length(offset);
  while (last + 1 < table_entries_ && covered < out.size() && end == host_of(last + 1) &&
         end_of(last + 1) - begin <= batch_bytes) {
    const std::uint64_t length = grain_length(offset + covered);
    if (covered + length > out.size())
      break;
    covered += length;
    end = end_of(++last);
  }
  const auto decoder = decoders_.take();
  if (decoder->input().size() < end - begin)
    decoder->input().resize(end - begin);
  const std::span<std::byte> input = std::span(decoder->input()).first(end - begin);
  file_.read(begin, input);
  std::uint64_t done = 0;
  for (std::uint64_t i = first; i <= last; i++) {
    const std::uint64_t length = grain_length(offset + done);
    decode(*decoder, ByteSpan(input).subspan(host_of(i) - begin, end_of(i) - host_of(i)), host_of(i), offset + done,
           out.subspan(done, length));
    done += length;
  }
  return done;
}

// --- the check of the whole --------------------------------------------------------------------------------------

void SparseExtent::validate() const {
  if (compressed_)
    validate_compressed_end();
  else
    validate_sharing();
}

/// Markers bind each compressed grain to its place in the disk, so none can be used twice; what remains is whether the
/// file holds the last one to its end.
void SparseExtent::validate_compressed_end() const {
  std::uint64_t host = 0;
  for (std::uint64_t index = 0; index < tables_; index++)
    if (const PageCache::Page entries = table(index))
      for (std::uint64_t i = 0; i < table_entries_ && (index * table_entries_ + i) * grain_ < size_; i++)
        host = std::max<std::uint64_t>(host, load_le<std::uint32_t>(*entries, i * 4) * sector);
  if (host <= sector)
    return;
  const Bytes marker = file_.read_bytes(host, marker_bytes);
  const auto length = load_le<std::uint32_t>(marker, 8);
  if (length > max_packed())
    throw corrupt(file_, "a compressed grain is too long", at_offset(host));
  file_.require(host, marker_bytes + length, "the end of its last compressed grain");
}

void SparseExtent::validate_sharing() const {
  const auto each = [&](auto&& visit) {
    for (std::uint64_t index = 0; index < tables_; index++)
      if (const PageCache::Page entries = table(index))
        for (std::uint64_t i = 0; i < table_entries_ && (index * table_entries_ + i) * grain_ < size_; i++)
          if (const auto entry = load_le<std::uint32_t>(*entries, i * 4); entry > 1)
            visit(entry);
  };
  // Grains lie at one distance from each other in files that tools write; the greatest unit that fits all is claimed.
  std::uint32_t origin = 0;
  std::uint64_t unit = grain_ / sector;
  each([&](std::uint32_t entry) {
    if (origin == 0)
      origin = entry;
    unit = std::gcd(unit, entry > origin ? entry - origin : origin - entry);
  });
  UnitMap used;
  each([&](std::uint32_t entry) {
    if (!used.claim(entry / unit, grain_ / sector / unit))
      throw corrupt(file_, "two parts of the disk share one grain of the file", at_offset(entry * sector));
  });
}

} // namespace kvmport::vmdk
