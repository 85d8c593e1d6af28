// SPDX-License-Identifier: Apache-2.0
#include "formats/mapped_image.h"

#include "formats/readers.h"

#include <algorithm>

namespace kvmport {
namespace {

void require(bool right, const char* why) {
  if (!right)
    throw Error("IMAGE_CORRUPT", "a logical volume or array is impossible", why);
}

} // namespace

MappedImage::MappedImage(std::vector<MapPiece> pieces) : pieces_(std::move(pieces)) {
  for (const MapPiece& piece : pieces_) {
    const bool stripes = piece.kind == MapPiece::Kind::striped && piece.targets.size() > 1;
    require(piece.length > 0 && !piece.targets.empty(), "a piece of it is empty");
    require(!stripes || (piece.chunk > 0 && piece.length % piece.targets.size() == 0 &&
                         piece.length / piece.targets.size() % piece.chunk == 0),
            "its stripes don't fill it");
    const std::uint64_t of_each = stripes ? piece.length / piece.targets.size() : piece.length;
    for (const MapTarget& target : piece.targets)
      require(target.offset <= target.image->size() && of_each <= target.image->size() - target.offset,
              "a piece of it lies outside of its disk");
    starts_.push_back(size_);
    size_ = checked_add(size_, piece.length, "a logical volume");
  }
}

ImageInfo MappedImage::info() const {
  ImageInfo info;
  info.format = "raw";
  info.virtual_size = size_;
  return info;
}

/// The first bytes of a range that lie together.
MappedImage::Part MappedImage::part_at(Range range) const {
  const auto index =
      static_cast<std::size_t>(std::upper_bound(starts_.begin(), starts_.end(), range.offset) - starts_.begin()) - 1;
  const MapPiece& piece = pieces_[index];
  const std::uint64_t at = range.offset - starts_[index];
  Part part{range.offset, std::min(range.length, piece.length - at), {}};
  if (piece.kind == MapPiece::Kind::mirrored || piece.targets.size() == 1) {
    part.targets = piece.targets;
    for (MapTarget& target : part.targets)
      target.offset += at;
    return part;
  }
  const std::uint64_t chunk = at / piece.chunk, in_chunk = at % piece.chunk, stripes = piece.targets.size();
  part.length = std::min(part.length, piece.chunk - in_chunk);
  part.targets = {piece.targets[chunk % stripes]};
  part.targets.front().offset += chunk / stripes * piece.chunk + in_chunk;
  return part;
}

void MappedImage::walk(Range range, const std::function<void(const Part&)>& visit) const {
  if (range.offset > size_ || range.length > size_ - range.offset)
    throw Error("OUT_OF_RANGE", "a logical volume or array is used past its end");
  while (range.length > 0) {
    const Part part = part_at(range);
    visit(part);
    range = {range.offset + part.length, range.length - part.length};
  }
}

std::vector<Extent> MappedImage::extents(Range range) const {
  std::vector<Extent> list;
  walk(range, [&](const Part& part) {
    const MapTarget& target = part.targets.front();
    for (Extent extent : target.image->extents({target.offset, part.length})) {
      extent.range.offset += part.offset - target.offset;
      append_extent(list, extent);
    }
  });
  return list;
}

void MappedImage::read(std::uint64_t offset, std::span<std::byte> out) const {
  walk({offset, out.size()}, [&](const Part& part) {
    const MapTarget& target = part.targets.front();
    target.image->read(target.offset, out.subspan(part.offset - offset, part.length));
  });
}

void MappedImage::write(std::uint64_t offset, ByteSpan data) {
  walk({offset, data.size()}, [&](const Part& part) {
    for (const MapTarget& target : part.targets) {
      if (target.writable == nullptr)
        throw Error("GUEST_WRITE_FAILED", "a logical volume or array lies on a disk that can't be written");
      target.writable->write(target.offset, data.subspan(part.offset - offset, part.length));
    }
  });
}

} // namespace kvmport
