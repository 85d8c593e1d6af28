// SPDX-License-Identifier: Apache-2.0
// The qcow2 reader: backing chains, zlib and zstd clusters, zero clusters, subclusters.
#include "formats/inflate.h"
#include "formats/qcow2_map.h"

#include <algorithm>

namespace kvmport {
namespace {

using qcow2::CompressedRange;
using qcow2::Run;
using qcow2::RunKind;

/// Decompressed clusters of which only a part was asked for: the next request is often for the next part.
class DecodedCache {
 public:
  using Block = std::shared_ptr<const Bytes>;
  explicit DecodedCache(std::size_t slots) : slots_(slots) {}

  Block find(std::uint64_t key) {
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < entries_.size(); i++)
      if (entries_[i].first == key) {
        std::rotate(entries_.begin(), entries_.begin() + static_cast<std::ptrdiff_t>(i),
                    entries_.begin() + static_cast<std::ptrdiff_t>(i) + 1);
        return entries_.front().second;
      }
    return nullptr;
  }
  void insert(std::uint64_t key, Block block) {
    const std::lock_guard lock(mutex_);
    if (entries_.size() >= slots_)
      entries_.pop_back();
    entries_.insert(entries_.begin(), {key, std::move(block)});
  }

 private:
  std::size_t slots_;
  std::mutex mutex_;
  std::vector<std::pair<std::uint64_t, Block>> entries_; ///< most recently used first
};

class Qcow2Image final : public Image {
 public:
  Qcow2Image(SourceFile file, qcow2::Header header, const OpenContext& context)
      : file_(std::move(file)), header_(std::move(header)), map_(file_, header_),
        decoded_(std::clamp<std::uint64_t>((8U << 20) / header_.cluster_size(), 2, 64)) {
    if (!header_.has_backing)
      return;
    if (header_.backing_format.empty())
      header_.notes.push_back("the format of the backing file is not recorded; it was probed");
    backing_ = context.open_referenced(file_, header_.backing_name, header_.backing_format, "backing file");
    backing_size_ = backing_->size();
  }

  std::uint64_t size() const override { return header_.size; }
  ImageInfo info() const override;
  std::vector<Extent> extents(Range range) const override;
  void read(std::uint64_t offset, std::span<std::byte> out) const override;
  std::optional<FileRange> file_range(Range range) const override;

 private:
  /// How much of one pread compressed clusters may fill.
  static constexpr std::uint64_t batch_bytes = 2U << 20;

  void check(std::uint64_t offset, std::uint64_t length) const;
  void validate_once() const;
  void read_below(std::uint64_t offset, std::span<std::byte> out) const;
  std::size_t read_compressed(std::uint64_t offset, Run run, std::span<std::byte> out) const;
  void read_part_of_compressed(std::uint64_t offset, const CompressedRange& range, std::span<std::byte> out) const;
  void decode(BlockDecoder& decoder, ByteSpan in, std::span<std::byte> out, const CompressedRange& range) const;
  std::uint64_t span_end(std::uint64_t end) const { return std::min(end, file_.size()); }

  SourceFile file_;
  qcow2::Header header_;
  qcow2::ClusterMap map_;
  std::unique_ptr<Image> backing_;
  std::uint64_t backing_size_ = 0;
  mutable Pool<BlockDecoder> decoders_;
  mutable DecodedCache decoded_;
  mutable std::mutex validation_mutex_;
  mutable bool valid_ = false;
};

ImageInfo Qcow2Image::info() const {
  ImageInfo info;
  info.format = "qcow2";
  info.variant = header_.version == 2 ? "v2" : "v3";
  info.virtual_size = header_.size;
  info.block_size = header_.cluster_size();
  info.notes = header_.notes;
  info.files = {file_.path()};
  info.details["compression"] = header_.compression == qcow2::CompressionType::zstd ? "zstd" : "zlib";
  if (header_.extended())
    info.details["extended_l2"] = "true";
  if (header_.snapshots != 0)
    info.details["snapshots"] = std::to_string(header_.snapshots);
  if (backing_) {
    info.details["backing_file"] = header_.backing_name;
    const ImageInfo below = backing_->info();
    info.details["backing_format"] = below.format;
    info.files.insert(info.files.end(), below.files.begin(), below.files.end());
    for (const std::string& note : below.notes)
      info.notes.push_back("backing file: " + note);
  }
  return info;
}

void Qcow2Image::check(std::uint64_t offset, std::uint64_t length) const {
  if (offset > header_.size || length > header_.size - offset)
    throw Error("OUT_OF_RANGE", "access past the end of the disk in " + file_.path().string(),
                std::to_string(length) + " bytes at " + std::to_string(offset));
}

void Qcow2Image::validate_once() const {
  const std::lock_guard lock(validation_mutex_);
  if (!valid_)
    map_.validate();
  valid_ = true;
}

std::vector<Extent> Qcow2Image::extents(Range range) const {
  check(range.offset, range.length);
  validate_once();
  std::vector<Extent> list;
  for (std::uint64_t at = range.offset; at < range.end();) {
    const Run run = map_.lookup(at, range.end() - at);
    const std::uint64_t end = at + run.length;
    if (run.kind != RunKind::unallocated) {
      append_extent(list, {{at, run.length}, run.kind == RunKind::zero ? ExtentKind::zero : ExtentKind::data});
      at = end;
      continue;
    }
    if (at < backing_size_) {
      const std::uint64_t below_end = std::min(end, backing_size_);
      for (const Extent& extent : backing_->extents({at, below_end - at}))
        append_extent(list, extent);
      at = below_end;
    }
    append_extent(list, {{at, end - at}, ExtentKind::unallocated});
    at = end;
  }
  return list;
}

void Qcow2Image::read(std::uint64_t offset, std::span<std::byte> out) const {
  check(offset, out.size());
  while (!out.empty()) {
    const Run run = map_.lookup(offset, out.size());
    std::size_t done = run.length;
    switch (run.kind) {
    case RunKind::data:
      file_.read(run.host, out.first(done));
      break;
    case RunKind::zero:
      std::fill_n(out.begin(), done, std::byte{0});
      break;
    case RunKind::unallocated:
      read_below(offset, out.first(done));
      break;
    case RunKind::compressed:
      done = read_compressed(offset, run, out);
      break;
    }
    offset += done;
    out = out.subspan(done);
  }
}

void Qcow2Image::read_below(std::uint64_t offset, std::span<std::byte> out) const {
  const std::size_t held =
      offset < backing_size_ ? std::min<std::uint64_t>(out.size(), backing_size_ - offset) : std::size_t{0};
  if (held != 0)
    backing_->read(offset, out.first(held));
  std::fill(out.begin() + static_cast<std::ptrdiff_t>(held), out.end(), std::byte{0});
}

/// Reads the compressed cluster that `run` describes and those behind it whose data follows in the file, with one
/// pread; returns how many bytes of `out` it filled.
std::size_t Qcow2Image::read_compressed(std::uint64_t offset, Run run, std::span<std::byte> out) const {
  const std::uint64_t cluster = header_.cluster_size();
  const auto whole = [&](std::uint64_t at, std::size_t length) {
    return at % cluster == 0 && (length == cluster || (length < cluster && at + length == header_.size));
  };
  if (!whole(offset, run.length)) {
    read_part_of_compressed(offset, run.compressed, out.first(run.length));
    return run.length;
  }
  std::vector<CompressedRange> batch;
  const std::uint64_t begin = run.compressed.offset;
  std::uint64_t end = begin;
  std::size_t covered = 0;
  for (;;) {
    batch.push_back(run.compressed);
    end = std::max(end, run.compressed.offset + run.compressed.length);
    covered += run.length;
    if (covered == out.size())
      break;
    run = map_.lookup(offset + covered, out.size() - covered);
    const std::uint64_t next = run.compressed.offset;
    if (run.kind != RunKind::compressed || !whole(offset + covered, run.length) || next < begin || next > end ||
        next + run.compressed.length - begin > batch_bytes)
      break;
  }
  const auto decoder = decoders_.take();
  file_.require(begin, 1, "a compressed cluster");
  if (decoder->input().size() < end - begin)
    decoder->input().resize(end - begin);
  const std::span<std::byte> input = std::span(decoder->input()).first(span_end(end) - begin);
  file_.read(begin, input);
  for (std::size_t i = 0, at = 0; i < batch.size(); i++, at += cluster) {
    file_.require(batch[i].offset, 1, "a compressed cluster");
    const ByteSpan in = ByteSpan(input).subspan(batch[i].offset - begin);
    const std::size_t length = std::min<std::uint64_t>(batch[i].length, in.size());
    if (covered - at >= cluster) {
      decode(*decoder, in.first(length), out.subspan(at, cluster), batch[i]);
    } else { // the disk ends inside its last cluster
      decoder->output().resize(cluster);
      decode(*decoder, in.first(length), decoder->output(), batch[i]);
      std::copy_n(decoder->output().begin(), covered - at, out.begin() + static_cast<std::ptrdiff_t>(at));
    }
  }
  return covered;
}

void Qcow2Image::read_part_of_compressed(std::uint64_t offset, const CompressedRange& range,
                                         std::span<std::byte> out) const {
  const std::uint64_t cluster = header_.cluster_size();
  auto block = decoded_.find(offset / cluster);
  if (!block) {
    file_.require(range.offset, 1, "a compressed cluster");
    const auto decoder = decoders_.take();
    const Bytes in = file_.read_bytes(range.offset, span_end(range.offset + range.length) - range.offset);
    auto fresh = std::make_shared<Bytes>(cluster);
    decode(*decoder, in, *fresh, range);
    block = std::move(fresh);
    decoded_.insert(offset / cluster, block);
  }
  std::copy_n(block->begin() + static_cast<std::ptrdiff_t>(offset % cluster), out.size(), out.begin());
}

void Qcow2Image::decode(BlockDecoder& decoder, ByteSpan in, std::span<std::byte> out,
                        const CompressedRange& range) const {
  const bool good = header_.compression == qcow2::CompressionType::zstd ? decoder.zstd_exact(in, out)
                                                                        : decoder.deflate_exact(in, out);
  if (good)
    return;
  const std::string place = "at file offset " + std::to_string(range.offset);
  if (range.offset + range.length > round_up(file_.size(), 512))
    throw Error("DISK_TRUNCATED", file_.path().string() + " ends inside a compressed cluster", place);
  throw Error("IMAGE_CORRUPT", file_.path().string() + ": a compressed cluster can't be decompressed", place,
              "copy the file again from its source and compare checksums");
}

std::optional<FileRange> Qcow2Image::file_range(Range range) const {
  check(range.offset, range.length);
  if (range.length == 0)
    return std::nullopt;
  const Run run = map_.lookup(range.offset, range.length);
  if (run.kind == RunKind::data)
    return file_.file_range({run.host, run.length});
  if (run.kind == RunKind::unallocated && range.offset < backing_size_)
    return backing_->file_range({range.offset, std::min(run.length, backing_size_ - range.offset)});
  return std::nullopt;
}

} // namespace

std::unique_ptr<Image> open_qcow2(SourceFile file, const OpenContext& context) {
  qcow2::Header header = qcow2::read_header(file);
  return std::make_unique<Qcow2Image>(std::move(file), std::move(header), context);
}

} // namespace kvmport
