// SPDX-License-Identifier: Apache-2.0
#include "formats/qcow2_writer.h"

#include <algorithm>
#include <cerrno>
#include <unistd.h>

namespace kvmport {

using qcow2::CompressedRange;
using qcow2::entry_compressed;
using qcow2::entry_copied;
using qcow2::entry_offset;

namespace {

/// How much one batch of compressed clusters may hold before it goes to the file.
constexpr std::uint64_t batch_bytes = 1U << 20;

unsigned checked_cluster_bits(std::uint64_t cluster_size) {
  const auto bits = static_cast<unsigned>(std::countr_zero(cluster_size));
  if (!std::has_single_bit(cluster_size) || bits < qcow2::min_cluster_bits || bits > qcow2::max_cluster_bits)
    throw Error("FORMAT_UNSUPPORTED", "a qcow2 cluster can't have " + std::to_string(cluster_size) + " bytes", {},
                "choose a power of two from 512 to 2097152");
  return bits;
}

std::uint64_t checked_size(const CreateOptions& options) {
  const std::uint64_t per_table = options.cluster_size / 8 * options.cluster_size;
  if (options.size > std::uint64_t{1} << 62 || div_round_up(options.size, per_table) * 8 > qcow2::max_l1_bytes)
    throw Error("FORMAT_UNSUPPORTED",
                "a qcow2 image with clusters of " + std::to_string(options.cluster_size) + " bytes can't hold " +
                    std::to_string(options.size) + " bytes",
                {}, "choose larger clusters");
  return round_up(options.size, 512);
}

} // namespace

Qcow2Writer::Qcow2Writer(const std::filesystem::path& path, const CreateOptions& options)
    : name_(path.string()), cluster_bits_(checked_cluster_bits(options.cluster_size)), cluster_(options.cluster_size),
      asked_size_(options.size), size_(checked_size(options)), compression_(options.compression),
      entries_(div_round_up(size_, cluster_), cluster_ / 8), space_(cluster_),
      encoders_([kind = options.compression] { return std::make_unique<Encoder>(kind); }) {
  file_ = options.resume ? open_existing(path) : create_new(path);
}

/// Calls part(cluster, offset inside, length) where `range` covers a cluster in part, and whole(first, last) for those
/// that it covers; the last cluster of the disk counts as covered when the range reaches the size that was asked for.
template <class Part, class Whole> void Qcow2Writer::split(Range range, Part part, Whole whole) const {
  detail::check_bounds(size_, range.offset, range.length);
  if (range.length == 0)
    return;
  const std::uint64_t end = range.end(), first = div_round_up(range.offset, cluster_);
  const std::uint64_t last = end >= asked_size_ ? entries_.clusters() : end / cluster_;
  if (range.offset % cluster_ != 0) {
    const std::uint64_t head_end = std::min(end, first * cluster_);
    part(first - 1, range.offset % cluster_, head_end - range.offset);
  }
  if (first < last)
    whole(first, last);
  if (last >= first && last * cluster_ < end)
    part(last, std::uint64_t{0}, end - last * cluster_);
}

void Qcow2Writer::write(std::uint64_t offset, ByteSpan data) {
  split(
      {offset, data.size()},
      [&](std::uint64_t cluster, std::uint64_t inside, std::uint64_t length) {
        change_part(cluster, inside, length, data.data() + (cluster * cluster_ + inside - offset));
      },
      [&](std::uint64_t first, std::uint64_t last) {
        const std::uint64_t from = first * cluster_ - offset;
        write_whole(first, data.subspan(from, std::min<std::uint64_t>(data.size() - from, (last - first) * cluster_)));
      });
}

void Qcow2Writer::zero(Range range) {
  split(
      range,
      [&](std::uint64_t cluster, std::uint64_t inside, std::uint64_t length) {
        change_part(cluster, inside, length, nullptr);
      },
      [&](std::uint64_t first, std::uint64_t last) {
        while (first < last) {
          const std::uint64_t table_end = (first / entries_.entries_per_table() + 1) * entries_.entries_per_table();
          if (entries_.table(first / entries_.entries_per_table()).empty()) {
            first = std::min(last, table_end);
            continue;
          }
          for (; first < std::min(last, table_end); first++)
            if (entries_.get(first) != 0)
              replace(first, 0);
        }
      });
}

/// `data` starts at a cluster; only the disk's last cluster may be short.
void Qcow2Writer::write_whole(std::uint64_t first_cluster, ByteSpan data) {
  const auto encoder = encoders_.take();
  while (!data.empty()) {
    const std::size_t n = std::min<std::uint64_t>(data.size(), std::max(batch_bytes, cluster_));
    const std::uint64_t full = n / cluster_;
    if (compression_ == Compression::none && full != 0) {
      write_plain(first_cluster, data.first(full * cluster_));
    } else if (full != 0) {
      write_packed(first_cluster, data.first(full * cluster_), *encoder);
    }
    if (const ByteSpan rest = data.subspan(full * cluster_, n - full * cluster_); !rest.empty()) {
      encoder->padded.assign(cluster_, std::byte{0});
      std::copy(rest.begin(), rest.end(), encoder->padded.begin());
      if (compression_ == Compression::none)
        write_plain(first_cluster + full, encoder->padded);
      else
        write_packed(first_cluster + full, encoder->padded, *encoder);
    }
    data = data.subspan(n);
    first_cluster += full;
  }
}

/// Whole clusters, stored as they are, as few and as long writes as possible.
void Qcow2Writer::write_plain(std::uint64_t first_cluster, ByteSpan data) {
  const std::uint64_t count = data.size() / cluster_;
  const auto bytes_of = [&](std::uint64_t i, std::uint64_t n) { return data.subspan(i * cluster_, n * cluster_); };
  for (std::uint64_t i = 0; i < count;) {
    const std::uint64_t entry = entries_.get(first_cluster + i);
    if (is_zero(bytes_of(i, 1))) {
      if (entry != 0)
        replace(first_cluster + i, 0);
      i++;
      continue;
    }
    if (entry != 0 && (entry & entry_compressed) == 0) {
      write_exact(file_.get(), plain_offset(entry), bytes_of(i, 1), name_);
      i++;
      continue;
    }
    const auto fresh = [&](std::uint64_t k) {
      const std::uint64_t other = entries_.get(first_cluster + k);
      return (other == 0 || (other & entry_compressed) != 0) && !is_zero(bytes_of(k, 1));
    };
    std::uint64_t end = i + 1;
    while (end < count && fresh(end))
      end++;
    const std::uint64_t host = space_.clusters(end - i);
    write_exact(file_.get(), host, bytes_of(i, end - i), name_);
    for (std::uint64_t k = i; k < end; k++)
      replace(first_cluster + k, (host + (k - i) * cluster_) | entry_copied);
    i = end;
  }
}

/// Whole clusters, each stored compressed when that makes it shorter.
void Qcow2Writer::write_packed(std::uint64_t first_cluster, ByteSpan data, Encoder& encoder) {
  const std::uint64_t count = data.size() / cluster_;
  encoder.packed.resize(data.size());
  std::vector<Block> blocks;
  std::size_t used = 0;
  for (std::uint64_t i = 0; i < count; i++) {
    const ByteSpan in = data.subspan(i * cluster_, cluster_);
    const std::uint64_t entry = entries_.get(first_cluster + i);
    const bool plain_already = entry != 0 && (entry & entry_compressed) == 0;
    if (!plain_already && !is_zero(in)) {
      const auto room = std::span(encoder.packed).subspan(used, cluster_ - 1);
      if (const auto length = encoder.block.compress(in, room)) {
        blocks.push_back({first_cluster + i, *length});
        used += *length;
        continue;
      }
    }
    write_plain(first_cluster + i, in);
  }
  store_compressed(blocks, std::span(encoder.packed).first(used));
}

void Qcow2Writer::store_compressed(const std::vector<Block>& blocks, ByteSpan packed) {
  std::vector<std::size_t> lengths;
  lengths.reserve(blocks.size());
  for (const Block& block : blocks)
    lengths.push_back(block.length);
  const std::vector<std::uint64_t> offsets = space_.bytes(lengths);
  std::size_t from = 0, length = 0; // of `packed`, not yet written
  for (std::size_t i = 0; i < blocks.size(); i++) {
    length += blocks[i].length;
    if (i + 1 < blocks.size() && offsets[i + 1] == offsets[i] + blocks[i].length)
      continue;
    write_exact(file_.get(), offsets[i] + blocks[i].length - length, packed.subspan(from, length), name_);
    from += length;
    length = 0;
  }
  for (std::size_t i = 0; i < blocks.size(); i++)
    replace(blocks[i].cluster, qcow2::encode_compressed(offsets[i], blocks[i].length, cluster_bits_));
}

/// Puts `length` bytes (zeros when `data` is null) into one cluster.
void Qcow2Writer::change_part(std::uint64_t cluster, std::uint64_t inside, std::uint64_t length,
                              const std::byte* data) {
  const std::lock_guard lock(partial_[cluster % partial_.size()]);
  const std::uint64_t entry = entries_.get(cluster);
  const bool zeros = data == nullptr || is_zero({data, length});
  if (entry == 0 && zeros)
    return;
  const Bytes zero_bytes(data == nullptr ? length : 0);
  const ByteSpan bytes = data == nullptr ? ByteSpan(zero_bytes) : ByteSpan(data, length);
  if ((entry & entry_compressed) != 0) {
    Bytes whole(cluster_);
    read_cluster(entry, 0, whole);
    std::copy(bytes.begin(), bytes.end(), whole.begin() + static_cast<std::ptrdiff_t>(inside));
    if (is_zero(whole)) {
      replace(cluster, 0);
      return;
    }
    const std::uint64_t host = space_.clusters(1);
    write_exact(file_.get(), host, whole, name_);
    replace(cluster, host | entry_copied);
    return;
  }
  // Space at the end of the file was never written: what this write does not cover is a hole and reads as zeros.
  const std::uint64_t host = entry != 0 ? plain_offset(entry) : space_.clusters(1);
  write_exact(file_.get(), host + inside, bytes, name_);
  if (entry == 0)
    replace(cluster, host | entry_copied);
}

/// Sets an entry and gives back the space that the old one named.
void Qcow2Writer::replace(std::uint64_t cluster, std::uint64_t entry) {
  const std::uint64_t old = entries_.get(cluster);
  entries_.set(cluster, entry);
  if (old == 0 || compression_ == Compression::none)
    return;
  if ((old & entry_compressed) == 0) {
    space_.release(plain_offset(old), plain_offset(old) + cluster_);
    return;
  }
  // Where its last sector ends is not known to the byte, and the next cluster begins right behind.
  const CompressedRange range = qcow2::decode_compressed(old, cluster_bits_);
  space_.release(range.offset, (range.offset + range.length - 1) / 512 * 512);
}

std::uint64_t Qcow2Writer::plain_offset(std::uint64_t entry) const {
  return entry & entry_offset;
}

void Qcow2Writer::read(std::uint64_t offset, std::span<std::byte> out) {
  detail::check_bounds(size_, offset, out.size());
  while (!out.empty()) {
    const std::uint64_t inside = offset % cluster_;
    const std::span<std::byte> part = out.first(std::min<std::uint64_t>(out.size(), cluster_ - inside));
    // A thread that rewrites another part of the cluster gives its old space away: then it is read again.
    for (bool settled = false; !settled;) {
      const std::uint64_t entry = entries_.get(offset / cluster_);
      try {
        read_cluster(entry, inside, part);
      } catch (const Error&) {
        if (entries_.get(offset / cluster_) == entry)
          throw;
      }
      settled = entries_.get(offset / cluster_) == entry;
    }
    offset += part.size();
    out = out.subspan(part.size());
  }
}

void Qcow2Writer::read_cluster(std::uint64_t entry, std::uint64_t inside, std::span<std::byte> out) {
  if (entry == 0) {
    std::fill(out.begin(), out.end(), std::byte{0});
    return;
  }
  if ((entry & entry_compressed) == 0) {
    read_file(plain_offset(entry) + inside, out);
    return;
  }
  const CompressedRange range = qcow2::decode_compressed(entry, cluster_bits_);
  const auto decoder = decoders_.take();
  decoder->input().resize(range.length);
  read_file(range.offset, decoder->input());
  const bool direct = out.size() == cluster_;
  if (!direct)
    decoder->output().resize(cluster_);
  const std::span<std::byte> whole = direct ? out : std::span(decoder->output());
  const bool good = compression_ == Compression::zstd ? decoder->zstd_exact(decoder->input(), whole)
                                                      : decoder->deflate_exact(decoder->input(), whole);
  if (!good)
    throw Error("IMAGE_CORRUPT", name_ + ": what was written can't be decompressed",
                "at file offset " + std::to_string(range.offset));
  if (!direct)
    std::copy_n(whole.begin() + static_cast<std::ptrdiff_t>(inside), out.size(), out.begin());
}

/// Until finish() the file may end before its last cluster does.
void Qcow2Writer::read_file(std::uint64_t offset, std::span<std::byte> out) const {
  const std::size_t n = read_some(file_.get(), offset, out, name_);
  std::fill(out.begin() + static_cast<std::ptrdiff_t>(n), out.end(), std::byte{0});
}

bool Qcow2Writer::known_zero(Range range) const {
  const std::uint64_t per_table = entries_.entries_per_table();
  std::uint64_t cluster = range.offset / cluster_;
  const std::uint64_t last = div_round_up(range.end(), cluster_);
  while (cluster < last) {
    if (entries_.table(cluster / per_table).empty())
      cluster = (cluster / per_table + 1) * per_table;
    else if (entries_.get(cluster++) != 0)
      return false;
  }
  return true;
}

void Qcow2Writer::sync() {
  if (::fdatasync(file_.get()) != 0)
    throw system_error(errno, "can't sync " + name_);
}

Bytes Qcow2Writer::checkpoint() {
  sync();
  return entries_.take_changes();
}

void Qcow2Writer::restore(const std::vector<Bytes>& checkpoints) {
  for (const Bytes& checkpoint : checkpoints)
    entries_.apply(checkpoint);
  const std::uint64_t held = file_size(file_.get());
  std::uint64_t end = cluster_;
  for (std::size_t t = 0; t < entries_.tables(); t++) {
    for (const auto& word : entries_.table(t)) {
      const std::uint64_t entry = word.load();
      if (entry == 0)
        continue;
      CompressedRange used{plain_offset(entry), cluster_};
      if ((entry & entry_compressed) != 0)
        used = qcow2::decode_compressed(entry, cluster_bits_);
      else if ((entry & ~(entry_offset | entry_copied)) != 0 || used.offset % cluster_ != 0)
        throw Error("IMAGE_CORRUPT", "a checkpoint of " + name_ + " holds an impossible entry");
      if (used.offset < cluster_ || used.offset >= held)
        throw Error("DISK_TRUNCATED", name_ + " does not hold what its checkpoint says",
                    "offset " + std::to_string(used.offset) + " of " + std::to_string(held));
      end = std::max(end, used.offset + used.length);
    }
  }
  space_.reset(end);
  // What lies behind was written after the last checkpoint and belongs to nobody; new clusters must start as holes.
  if (::ftruncate(file_.get(), static_cast<off_t>(std::min(held, space_.end()))) != 0)
    throw system_error(errno, "can't cut " + name_);
  write_exact(file_.get(), 0, Bytes(qcow2::v3_header_size), name_); // no longer an image
}

} // namespace kvmport
