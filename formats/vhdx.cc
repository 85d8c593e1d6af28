// SPDX-License-Identifier: Apache-2.0
// The VHDX reader: fixed, dynamic and differencing disks with 512-byte and 4096-byte sectors. [MS-VHDX] 2.5 "Blocks".
#include "formats/chain.h"
#include "formats/vhdx_header.h"

#include <algorithm>
#include <atomic>
#include <cctype>
#include <fmt/format.h>

namespace kvmport {
namespace {

using vhdx::Layout;
using vhdx::PatchedFile;

constexpr std::uint64_t mib = 1U << 20;

enum State : unsigned {
  not_present = 0,
  undefined = 1,
  zero = 2,
  unmapped = 3,
  unmapped_draft = 5, // the draft of 2011 (v0.95) called "unmapped" so
  fully_present = 6,
  partially_present = 7,
};

class VhdxImage final : public PiecedImage {
 public:
  VhdxImage(std::unique_ptr<PatchedFile> file, Layout layout, const OpenContext& context)
      : PiecedImage(layout.disk_size), file_(std::move(file)), layout_(std::move(layout)) {
    if (layout_.has_parent)
      open_parent_disk(context);
  }

  ImageInfo info() const override;

 protected:
  Piece locate(std::uint64_t offset, std::uint64_t max) const override;
  std::size_t read_packed(std::uint64_t, const Piece& piece, std::span<std::byte> out) const override {
    const std::size_t length = std::min<std::uint64_t>(out.size(), piece.length);
    file_->read(piece.host, out.first(length));
    return length;
  }
  void validate() const override;

 private:
  struct Entry {
    unsigned state = 0;
    std::uint64_t host = 0;
  };

  void open_parent_disk(const OpenContext& context);
  Entry table_entry(std::uint64_t index) const;
  Entry payload(std::uint64_t block) const;
  Entry bitmap_of(std::uint64_t block) const;
  Piece present(std::uint64_t host, std::uint64_t length) const;
  Piece partial(std::uint64_t offset, std::uint64_t max, std::uint64_t host) const;
  const SourceFile& source() const { return file_->file(); }

  std::unique_ptr<PatchedFile> file_;
  Layout layout_;
  std::string parent_name_;
  mutable std::atomic<bool> draft_states_{false};
  mutable PageCache pages_{64U << 20}; ///< of block table and sector bitmaps, by file offset
  static constexpr std::uint64_t page_bytes = 64U << 10;
};

void VhdxImage::open_parent_disk(const OpenContext& context) {
  std::vector<std::string> names;
  for (const char* key : {"relative_path", "absolute_win32_path"})
    if (const auto found = layout_.parent.find(key); found != layout_.parent.end())
      names.push_back(found->second);
  if (!names.empty())
    parent_name_ = names.front();
  auto parent = open_parent(context, source(), names, "vhdx");
  const ImageInfo info = parent->info();
  const std::string actual = info.details.at("data_write_guid");
  for (const char* key : {"parent_linkage", "parent_linkage2"}) {
    const auto found = layout_.parent.find(key);
    if (found == layout_.parent.end())
      continue;
    std::string wanted = found->second;
    std::transform(wanted.begin(), wanted.end(), wanted.begin(), [](unsigned char c) { return std::tolower(c); });
    if (wanted == actual) {
      set_parent(std::move(parent));
      return;
    }
  }
  const auto wanted = layout_.parent.find("parent_linkage");
  throw Error("PARENT_MISMATCH", source().path().string() + " was made over another state of its parent",
              fmt::format("it wants {}, {} has {}", wanted == layout_.parent.end() ? "no id" : wanted->second,
                          info.files.front().string(), actual),
              "the parent was changed after the checkpoint, or is another disk; restore the right one");
}

VhdxImage::Entry VhdxImage::table_entry(std::uint64_t index) const {
  const std::uint64_t at = index * 8;
  detail::check_bounds(layout_.table.length, at, 8);
  const std::uint64_t start = at / page_bytes * page_bytes;
  const auto page = pages_.get(layout_.table.offset + start, [&] {
    return file_->read_bytes(layout_.table.offset + start, std::min(page_bytes, layout_.table.length - start));
  });
  const auto entry = load_le<std::uint64_t>(*page, at - start);
  return {static_cast<unsigned>(entry & 7), entry >> 20 << 20};
}

VhdxImage::Entry VhdxImage::payload(std::uint64_t block) const {
  const Entry entry = table_entry(block + block / layout_.chunk_ratio());
  const bool mapped = entry.state == fully_present || entry.state == partially_present;
  if (entry.state == 4 || (entry.state == partially_present && !layout_.has_parent) || (mapped && entry.host < mib))
    throw corrupt(source(), "a VHDX block has an invalid state",
                  fmt::format("block {} has state {} and lies {}", block, entry.state, at_offset(entry.host)));
  if (mapped)
    file_->require(entry.host, std::min<std::uint64_t>(layout_.block_size, size() - block * layout_.block_size),
                   fmt::format("block {} of the disk", block));
  return entry;
}

/// The sector bitmap block that describes `block`.
VhdxImage::Entry VhdxImage::bitmap_of(std::uint64_t block) const {
  const std::uint64_t ratio = layout_.chunk_ratio();
  const Entry entry = table_entry(block / ratio * (ratio + 1) + ratio);
  if (entry.state != fully_present || entry.host < mib)
    throw corrupt(source(), "a partly present VHDX block has no sector bitmap", fmt::format("block {}", block));
  file_->require(entry.host, mib, "a VHDX sector bitmap");
  return entry;
}

Piece VhdxImage::present(std::uint64_t host, std::uint64_t length) const {
  const auto place = file_->is_verbatim(host, length) ? Piece::Place::file : Piece::Place::packed;
  return {place, length, &source(), host};
}

/// In a partly present block each sector lies here or in the parent; the first sector is the lowest bit.
Piece VhdxImage::partial(std::uint64_t offset, std::uint64_t max, std::uint64_t host) const {
  const std::uint64_t sector = layout_.logical_sector;
  const std::uint64_t chunk_bytes = (std::uint64_t{1} << 23) * sector;
  const std::uint64_t bit = offset % chunk_bytes / sector;
  const std::uint64_t bits_per_page = page_bytes * 8;
  const std::uint64_t page_host = bitmap_of(offset / layout_.block_size).host + bit / bits_per_page * page_bytes;
  const auto page = pages_.get(page_host, [&] { return file_->read_bytes(page_host, page_bytes); });
  const BitRun run = bit_run(*page, bit % bits_per_page, div_round_up(offset % sector + max, sector), false);
  const std::uint64_t length = std::min(max, run.count * sector - offset % sector);
  if (run.value)
    return present(host, length);
  return {Piece::Place::below, length, nullptr, 0};
}

Piece VhdxImage::locate(std::uint64_t offset, std::uint64_t max) const {
  const std::uint64_t block = offset / layout_.block_size, inside = offset % layout_.block_size;
  const std::uint64_t length = std::min(max, layout_.block_size - inside);
  const Entry entry = payload(block);
  switch (entry.state) {
  case not_present:
    return {Piece::Place::below, length, nullptr, 0};
  case fully_present:
    return present(entry.host + inside, length);
  case partially_present:
    return partial(offset, length, entry.host + inside);
  default:
    return {Piece::Place::zero, length, nullptr, 0};
  }
}

void VhdxImage::validate() const {
  UnitMap used;
  used.claim(0);
  const auto claim = [&](Range range, const std::string& what) {
    if (!used.claim(range.offset / mib, div_round_up(range.length, mib)))
      throw corrupt(source(), "two parts of the VHDX share bytes of the file", what + " " + at_offset(range.offset));
  };
  for (const Range& range : layout_.used)
    claim(range, "metadata");
  const std::uint64_t ratio = layout_.chunk_ratio();
  std::uint64_t bitmap_of_chunk = ~std::uint64_t{0};
  bool draft = false;
  for (std::uint64_t block = 0; block < layout_.blocks(); block++) {
    const Entry entry = payload(block);
    draft = draft || entry.state == unmapped_draft;
    if (entry.state != fully_present && entry.state != partially_present)
      continue;
    claim({entry.host, layout_.block_size}, fmt::format("block {}", block));
    if (entry.state == partially_present && bitmap_of_chunk != block / ratio) {
      bitmap_of_chunk = block / ratio;
      claim({bitmap_of(block).host, mib}, "a sector bitmap");
    }
  }
  draft_states_ = draft;
}

ImageInfo VhdxImage::info() const {
  ImageInfo info;
  info.format = "vhdx";
  info.variant = layout_.has_parent ? "differencing" : layout_.fixed ? "fixed" : "dynamic";
  info.virtual_size = size();
  info.logical_sector = layout_.logical_sector;
  info.block_size = layout_.block_size;
  info.files = {source().path()};
  info.notes = layout_.notes;
  if (draft_states_)
    info.notes.push_back("blocks have state 5 of a draft of the format; they read as zeros");
  info.details["data_write_guid"] = layout_.data_write_guid;
  if (parent()) {
    info.details["parent"] = parent_name_;
    add_parent(info);
  }
  return info;
}

} // namespace

std::unique_ptr<Image> open_vhdx(SourceFile file, const OpenContext& context) {
  auto patched = std::make_unique<PatchedFile>(std::move(file));
  Layout layout = vhdx::read_layout(*patched);
  return std::make_unique<VhdxImage>(std::move(patched), std::move(layout), context);
}

} // namespace kvmport
