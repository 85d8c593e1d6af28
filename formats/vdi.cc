// SPDX-License-Identifier: Apache-2.0
// The VDI reader: dynamic and fixed disks of VirtualBox. There is no specification; this follows VirtualBox's VDICore.h
// (header 1.1) and what its files hold. All numbers are little-endian.
#include "formats/chain.h"
#include "formats/probe.h"

#include <fmt/format.h>

namespace kvmport {
namespace {

constexpr std::uint32_t block_free = 0xffffffff, block_zero = 0xfffffffe;
enum : std::uint32_t { type_dynamic = 1, type_fixed = 2, type_undo = 3, type_differencing = 4 };

struct VdiHeader {
  std::uint32_t type = 0, blocks = 0, block_size = 0, block_extra = 0, map_offset = 0, data_offset = 0;
  std::uint64_t disk_size = 0, size = 0; ///< as the header says; rounded up to sectors
};

VdiHeader read_header(const SourceFile& file) {
  const Bytes header = file.read_bytes(0, 512);
  if (load_le<std::uint32_t>(header, 64) != 0xbeda107fU)
    throw corrupt(file, "is not a VDI", "the signature at offset 64 is missing");
  const auto version = load_le<std::uint32_t>(header, 68);
  if (version >> 16 != 1)
    throw unsupported_format(file, fmt::format("VDI version {}.{}", version >> 16, version & 0xffff));
  VdiHeader h;
  h.type = load_le<std::uint32_t>(header, 76);
  h.map_offset = load_le<std::uint32_t>(header, 340);
  h.data_offset = load_le<std::uint32_t>(header, 344);
  const auto sector = load_le<std::uint32_t>(header, 360);
  h.disk_size = load_le<std::uint64_t>(header, 368);
  h.block_size = load_le<std::uint32_t>(header, 376);
  h.block_extra = load_le<std::uint32_t>(header, 380);
  h.blocks = load_le<std::uint32_t>(header, 384);
  if (h.type == type_undo || h.type == type_differencing)
    throw Error("FORMAT_UNSUPPORTED", file.path().string() + " is a differencing VDI (a snapshot of VirtualBox)",
                "it does not say where its parent lies",
                "merge it with `VBoxManage clonemedium disk`, or delete the snapshots");
  if (h.type != type_dynamic && h.type != type_fixed)
    throw corrupt(file, "the VDI header has an unknown image type", std::to_string(h.type));
  if (sector != 512)
    throw unsupported_format(file, fmt::format("VDI with sectors of {} bytes", sector));
  require_power_of_two(file, h.block_size, 512, 256U << 20, "the block size of the VDI header");
  if (h.block_extra > h.block_size)
    throw corrupt(file, "the VDI header has more extra data than data in a block", std::to_string(h.block_extra));
  if (h.disk_size > std::uint64_t{h.blocks} * h.block_size)
    throw corrupt(file, "the VDI has too few blocks for its size",
                  fmt::format("{} blocks of {} bytes for {} bytes", h.blocks, h.block_size, h.disk_size));
  h.size = round_up(h.disk_size, 512);
  const std::uint64_t map_end = h.map_offset + std::uint64_t{h.blocks} * 4;
  if (h.map_offset < 448 || map_end > h.data_offset)
    throw corrupt(file, "the VDI header has overlapping areas",
                  fmt::format("block map {}..{}, data from {}", h.map_offset, map_end, h.data_offset));
  return h;
}

class VdiImage final : public PiecedImage {
 public:
  VdiImage(SourceFile file, const VdiHeader& header)
      : PiecedImage(header.size), file_(std::move(file)), header_(header),
        map_(file_, header_.map_offset, std::uint64_t{header_.blocks} * 4, "the VDI block map") {}

  ImageInfo info() const override {
    ImageInfo info;
    info.format = "vdi";
    info.variant = header_.type == type_fixed ? "fixed" : "dynamic";
    info.virtual_size = size();
    info.block_size = header_.block_size;
    info.files = {file_.path()};
    if (header_.disk_size != header_.size)
      info.notes.push_back(fmt::format("the size of {} bytes was rounded up to whole sectors", header_.disk_size));
    return info;
  }

 protected:
  Piece locate(std::uint64_t offset, std::uint64_t max) const override {
    const std::uint64_t block = offset / header_.block_size, inside = offset % header_.block_size;
    Piece piece;
    piece.length = std::min(max, header_.block_size - inside);
    const std::uint32_t entry = map_.le32(block);
    if (entry == block_free)
      return piece;
    if (entry == block_zero) {
      piece.place = Piece::Place::zero;
      return piece;
    }
    piece.place = Piece::Place::file;
    piece.file = &file_;
    piece.host = host_of(entry) + inside;
    return piece;
  }

  void validate() const override {
    UnitMap used;
    const std::uint64_t blocks = div_round_up(size(), header_.block_size);
    for (std::uint64_t block = 0; block < blocks; block++) {
      const std::uint32_t entry = map_.le32(block);
      if (entry == block_free || entry == block_zero)
        continue;
      const std::uint64_t start = block * header_.block_size;
      file_.require(host_of(entry), std::min<std::uint64_t>(header_.block_size, size() - start),
                    fmt::format("block {} of the disk", block));
      if (!used.claim(entry))
        throw corrupt(file_, "two blocks of the disk share one block of the file",
                      fmt::format("block {} {}", block, at_offset(host_of(entry))));
    }
  }

 private:
  /// Each block's data stands behind `block_extra` bytes that only the writer understands.
  std::uint64_t host_of(std::uint32_t entry) const {
    return header_.data_offset + entry * (std::uint64_t{header_.block_size} + header_.block_extra) +
           header_.block_extra;
  }

  SourceFile file_;
  VdiHeader header_;
  FileTable map_;
};

} // namespace

std::unique_ptr<Image> open_vdi(SourceFile file, const OpenContext&) {
  const VdiHeader header = read_header(file);
  return std::make_unique<VdiImage>(std::move(file), header);
}

} // namespace kvmport
