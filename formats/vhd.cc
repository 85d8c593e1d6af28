// SPDX-License-Identifier: Apache-2.0
// The VHD reader: fixed, dynamic and differencing disks. "Virtual Hard Disk Image Format Specification" 1.0 (October
// 2006). All numbers are big-endian. The size of the disk is the footer's "current size", never the smaller one that
// its cylinders, heads and sectors give: too large is harmless, too small loses data.
#include "formats/chain.h"
#include "formats/probe.h"

#include <algorithm>
#include <fmt/format.h>

namespace kvmport {
namespace {

constexpr std::uint64_t sector = 512;
constexpr std::uint32_t block_free = 0xffffffff;
enum : std::uint32_t { type_fixed = 2, type_dynamic = 3, type_differencing = 4 };

struct Footer {
  std::uint64_t header_offset = 0, size = 0;
  std::uint32_t type = 0;
  std::string id, creator;
  std::string note;
};

std::string hex(ByteSpan bytes) {
  std::string text;
  for (const std::byte b : bytes)
    text += fmt::format("{:02x}", std::to_integer<unsigned>(b));
  return text;
}

/// The footer at the end of the file decides; a dynamic disk has a copy at its front for when the end is lost.
Footer read_footer(const SourceFile& file) {
  Bytes bytes;
  Footer footer;
  const auto take = [&](std::uint64_t offset, std::uint64_t length) {
    if (!file.contains(offset, length))
      return false;
    bytes = file.read_bytes(offset, length);
    return is_vhd_footer(bytes);
  };
  if (file.size() < sector)
    throw Error("DISK_TRUNCATED", file.path().string() + " is shorter than a VHD footer");
  // Virtual PC before 2004 wrote footers of 511 bytes.
  if (!take(file.size() - sector, sector) && !take(file.size() - sector + 1, sector - 1)) {
    if (!take(0, sector) || load_be<std::uint32_t>(bytes, 60) == type_fixed)
      throw corrupt(file, "the VHD footer is damaged or missing",
                    "neither the last nor the first 512 bytes are a footer with a good checksum");
    footer.note = "the footer at the end is damaged or missing; its copy at the front was used";
  }
  if (load_be<std::uint32_t>(bytes, 12) >> 16 != 1)
    throw unsupported_format(file, "VHD of another version than 1");
  footer.header_offset = load_be<std::uint64_t>(bytes, 16);
  footer.creator = std::string(as_text(ByteSpan(bytes).subspan(28, 4)));
  footer.size = load_be<std::uint64_t>(bytes, 48);
  footer.type = load_be<std::uint32_t>(bytes, 60);
  footer.id = hex(ByteSpan(bytes).subspan(68, 16));
  if (footer.type < type_fixed || footer.type > type_differencing)
    throw corrupt(file, "the VHD footer has an unknown disk type", std::to_string(footer.type));
  if (footer.size == 0 || footer.size > std::uint64_t{1} << 60)
    throw corrupt(file, "the VHD footer has a bad disk size", std::to_string(footer.size));
  return footer;
}

class VhdImage : public PiecedImage {
 public:
  VhdImage(SourceFile file, Footer footer)
      : PiecedImage(footer.size), file_(std::move(file)), footer_(std::move(footer)) {}

  ImageInfo info() const override {
    ImageInfo info;
    info.format = "vhd";
    info.variant = footer_.type == type_fixed ? "fixed" : footer_.type == type_dynamic ? "dynamic" : "differencing";
    info.virtual_size = size();
    info.files = {file_.path()};
    info.details["uuid"] = footer_.id;
    if (std::all_of(footer_.creator.begin(), footer_.creator.end(), [](char c) { return c >= ' ' && c <= '~'; }))
      info.details["creator"] = footer_.creator;
    if (!footer_.note.empty())
      info.notes.push_back(footer_.note);
    return info;
  }

 protected:
  SourceFile file_;
  Footer footer_;
};

class FixedVhd final : public VhdImage {
 public:
  FixedVhd(SourceFile file, Footer footer) : VhdImage(std::move(file), std::move(footer)) {
    file_.require(0, size() + sector - 1, "the end of its fixed VHD");
  }

 protected:
  Piece locate(std::uint64_t offset, std::uint64_t max) const override {
    return {Piece::Place::file, max, &file_, offset};
  }
};

struct DynamicHeader {
  std::uint64_t table_offset = 0;
  std::uint32_t entries = 0, block_size = 0;
  std::string parent_id;
  std::vector<std::string> parent_names;
};

/// The parent's names: locators for Windows, relative before absolute, then the plain name of the header.
std::vector<std::string> parent_names(const SourceFile& file, ByteSpan header) {
  std::vector<std::string> names;
  for (const std::string_view code : {"W2ru", "W2ku"})
    for (std::size_t i = 0; i < 8; i++) {
      const ByteSpan locator = header.subspan(576 + i * 24, 24);
      const auto length = load_be<std::uint32_t>(locator, 8);
      const auto offset = load_be<std::uint64_t>(locator, 16);
      if (as_text(locator.first(4)) == code && length != 0 && length <= 64U << 10 && file.contains(offset, length))
        names.push_back(utf16_text(file.read_bytes(offset, length), false));
    }
  names.push_back(utf16_text(header.subspan(64, 512), true));
  return names;
}

DynamicHeader read_dynamic_header(const SourceFile& file, const Footer& footer) {
  if (footer.header_offset < sector)
    throw corrupt(file, "the VHD footer places the dynamic header badly", at_offset(footer.header_offset));
  file.require(footer.header_offset, 1024, "the VHD dynamic header");
  const Bytes header = file.read_bytes(footer.header_offset, 1024);
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i < header.size(); i++)
    if (i < 36 || i >= 40)
      sum += std::to_integer<std::uint32_t>(header[i]);
  if (as_text(ByteSpan(header).first(8)) != "cxsparse" || ~sum != load_be<std::uint32_t>(header, 36))
    throw corrupt(file, "the VHD dynamic header is damaged", at_offset(footer.header_offset));
  DynamicHeader h;
  h.table_offset = load_be<std::uint64_t>(header, 16);
  h.entries = load_be<std::uint32_t>(header, 28);
  h.block_size = load_be<std::uint32_t>(header, 32);
  require_power_of_two(file, h.block_size, sector, 256U << 20, "the VHD block size");
  if (std::uint64_t{h.entries} * h.block_size < footer.size)
    throw corrupt(file, "the VHD block table is too short for the disk",
                  fmt::format("{} blocks of {} bytes for {} bytes", h.entries, h.block_size, footer.size));
  if (footer.type == type_differencing) {
    h.parent_id = hex(ByteSpan(header).subspan(40, 16));
    h.parent_names = parent_names(file, header);
  }
  return h;
}

/// Dynamic and differencing: each block is a bitmap of its sectors and then the sectors. A sector whose bit (highest
/// first) is clear was never written: it is the parent's, or zero.
class DynamicVhd final : public VhdImage {
 public:
  DynamicVhd(SourceFile file, Footer footer, DynamicHeader header, const OpenContext& context)
      : VhdImage(std::move(file), std::move(footer)), header_(std::move(header)),
        table_(file_, header_.table_offset, std::uint64_t{header_.entries} * 4, "the VHD block table"),
        bitmap_bytes_(round_up(div_round_up(header_.block_size / sector, 8), sector)) {
    if (footer_.type == type_differencing)
      open_parent_disk(context);
  }

  ImageInfo info() const override {
    ImageInfo info = VhdImage::info();
    info.block_size = header_.block_size;
    if (parent()) {
      info.details["parent"] = parent_name_;
      add_parent(info);
    }
    return info;
  }

 protected:
  Piece locate(std::uint64_t offset, std::uint64_t max) const override {
    const std::uint64_t block = offset / header_.block_size, inside = offset % header_.block_size;
    std::uint64_t length = std::min(max, header_.block_size - inside);
    const std::uint32_t entry = table_.be32(block);
    if (entry == block_free)
      return {Piece::Place::below, length, nullptr, 0};
    const std::uint64_t host = entry * sector;
    const auto bitmap = bitmaps_.get(entry, [&] { return file_.read_bytes(host, bitmap_bytes_); });
    const BitRun run = bit_run(*bitmap, inside / sector, div_round_up(inside % sector + length, sector), true);
    length = std::min(length, run.count * sector - inside % sector);
    if (!run.value)
      return {Piece::Place::below, length, nullptr, 0};
    return {Piece::Place::file, length, &file_, host + bitmap_bytes_ + inside};
  }

  void validate() const override {
    // Blocks begin at any sector, but all are of one length; what follows the last part of the disk may be missing.
    std::vector<std::uint32_t> starts;
    for (std::uint64_t block = 0; block * header_.block_size < size(); block++) {
      const std::uint32_t entry = table_.be32(block);
      if (entry == block_free)
        continue;
      const std::uint64_t held = std::min<std::uint64_t>(header_.block_size, size() - block * header_.block_size);
      file_.require(entry * sector, bitmap_bytes_ + held, fmt::format("block {} of the disk", block));
      starts.push_back(entry);
    }
    std::sort(starts.begin(), starts.end());
    for (std::size_t i = 1; i < starts.size(); i++)
      if ((starts[i] - starts[i - 1]) * sector < bitmap_bytes_ + header_.block_size)
        throw corrupt(file_, "two blocks of the disk share bytes of the file", at_offset(starts[i] * sector));
  }

 private:
  void open_parent_disk(const OpenContext& context) {
    auto parent = open_parent(context, file_, header_.parent_names, "vhd");
    const ImageInfo info = parent->info();
    if (info.details.at("uuid") != header_.parent_id)
      throw Error("PARENT_MISMATCH", file_.path().string() + " was made over another parent",
                  fmt::format("it wants id {}, {} has {}", header_.parent_id, info.files.front().string(),
                              info.details.at("uuid")),
                  "restore the right parent disk");
    parent_name_ = info.files.front().filename().string();
    set_parent(std::move(parent));
  }

  DynamicHeader header_;
  FileTable table_;
  std::uint64_t bitmap_bytes_;
  std::string parent_name_;
  mutable PageCache bitmaps_{16U << 20};
};

} // namespace

std::unique_ptr<Image> open_vhd(SourceFile file, const OpenContext& context) {
  Footer footer = read_footer(file);
  if (footer.type == type_fixed)
    return std::make_unique<FixedVhd>(std::move(file), std::move(footer));
  DynamicHeader header = read_dynamic_header(file, footer);
  return std::make_unique<DynamicVhd>(std::move(file), std::move(footer), std::move(header), context);
}

} // namespace kvmport
