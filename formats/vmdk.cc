// SPDX-License-Identifier: Apache-2.0
// The VMDK reader: one sparse file, or a descriptor with its extents, and the chain of parents.
#include "formats/vmdk_descriptor.h"
#include "formats/vmdk_sparse.h"

#include <algorithm>
#include <fmt/format.h>
#include <map>

namespace kvmport {
namespace {

using vmdk::Descriptor;
using vmdk::ExtentLine;
using vmdk::ExtentType;
using vmdk::sector;
using vmdk::SparseExtent;

class VmdkImage final : public PiecedImage {
 public:
  VmdkImage(SourceFile file, const OpenContext& context);

  ImageInfo info() const override;

 protected:
  Piece locate(std::uint64_t offset, std::uint64_t max) const override;
  std::size_t read_packed(std::uint64_t offset, const Piece& piece, std::span<std::byte> out) const override;
  void validate() const override;

 private:
  struct Segment {
    std::uint64_t start = 0, length = 0;
    std::optional<SourceFile> flat;
    std::unique_ptr<SparseExtent> sparse;
  };

  void open_monolith();
  void open_descriptor(const OpenContext& context);
  SourceFile open_extent(const ExtentLine& line, const OpenContext& context);
  void add_segment(const ExtentLine& line, const OpenContext& context);
  void refuse_overlaps() const;
  void open_parent_disk(const OpenContext& context);
  const Segment& segment_at(std::uint64_t offset) const;

  SourceFile file_;
  Descriptor descriptor_;
  bool described_ = false;
  std::vector<Segment> segments_;
  std::map<std::string, SourceFile> opened_;
  std::vector<std::string> notes_;
};

VmdkImage::VmdkImage(SourceFile file, const OpenContext& context) : PiecedImage(0), file_(std::move(file)) {
  if (file_.size() >= sector && as_text(file_.read_bytes(0, 4)) == "KDMV")
    open_monolith();
  else
    open_descriptor(context);
  open_parent_disk(context);
}

void VmdkImage::open_monolith() {
  Segment segment;
  segment.sparse = std::make_unique<SparseExtent>(file_);
  segment.length = segment.sparse->size();
  const std::string text = segment.sparse->descriptor();
  if (const std::size_t used = text.find('\0'); used != 0 && !text.empty()) {
    descriptor_ = vmdk::parse_descriptor(file_, text);
    described_ = true;
    // The extent line names this very file, under a name that it may have lost since; it is never opened.
    if (descriptor_.extents.size() != 1 || descriptor_.extents[0].type != ExtentType::sparse)
      throw corrupt(file_, "the embedded VMDK descriptor does not list one sparse extent",
                    std::to_string(descriptor_.extents.size()) + " extents");
    if (descriptor_.sectors != segment.length / sector)
      notes_.push_back(fmt::format("the descriptor says {} sectors, the header {}; the header was followed",
                                   descriptor_.sectors, segment.length / sector));
  } else {
    notes_.push_back("there is no descriptor in it; it may be one part of a split disk");
  }
  set_size(segment.length);
  segments_.push_back(std::move(segment));
}

void VmdkImage::open_descriptor(const OpenContext& context) {
  if (file_.size() > vmdk::max_descriptor_bytes)
    throw corrupt(file_, "the VMDK descriptor is too long", std::to_string(file_.size()) + " bytes");
  descriptor_ = vmdk::parse_descriptor(file_, as_text(file_.read_bytes(0, file_.size())));
  described_ = true;
  if (descriptor_.extents.empty())
    throw corrupt(file_, "the VMDK descriptor lists no extents");
  for (const ExtentLine& line : descriptor_.extents)
    add_segment(line, context);
  set_size(descriptor_.sectors * sector);
  refuse_overlaps();
}

SourceFile VmdkImage::open_extent(const ExtentLine& line, const OpenContext& context) {
  if (const auto found = opened_.find(line.file); found != opened_.end())
    return found->second;
  const auto open = [&]() -> SourceFile {
    const auto other = vmdk::decoded_name(line.file, descriptor_.encoding);
    if (!other)
      return context.open_file(file_, line.file, "extent");
    try {
      return context.open_file(file_, *other, "extent");
    } catch (const Error& error) {
      if (error.code() != "PARENT_MISSING")
        throw;
      return context.open_file(file_, line.file, "extent");
    }
  };
  return opened_.emplace(line.file, open()).first->second;
}

void VmdkImage::add_segment(const ExtentLine& line, const OpenContext& context) {
  Segment segment;
  if (!segments_.empty())
    segment.start = segments_.back().start + segments_.back().length;
  segment.length = line.sectors * sector;
  if (line.no_access) {
    notes_.push_back(
        fmt::format("{} sectors from sector {} are NOACCESS and read as zeros", line.sectors, segment.start / sector));
  } else if (line.type == ExtentType::flat) {
    const SourceFile whole = open_extent(line, context);
    segment.flat = whole.part({line.offset * sector, segment.length});
  } else if (line.type == ExtentType::sparse) {
    segment.sparse = std::make_unique<SparseExtent>(open_extent(line, context));
    if (segment.sparse->size() < segment.length)
      throw corrupt(segment.sparse->file(), "the extent is smaller than its descriptor says",
                    fmt::format("{} of {} sectors", segment.sparse->size() / sector, line.sectors));
  }
  segments_.push_back(std::move(segment));
}

/// No byte of a file may stand in for two parts of the disk.
void VmdkImage::refuse_overlaps() const {
  struct Use {
    SourceFile::Identity start;
    std::uint64_t length;
    const SourceFile* file;
  };
  std::vector<Use> uses;
  for (const Segment& segment : segments_) {
    if (segment.flat)
      uses.push_back({segment.flat->identity(), segment.length, &*segment.flat});
    else if (segment.sparse)
      uses.push_back({segment.sparse->file().identity(), segment.sparse->file().size(), &segment.sparse->file()});
  }
  std::sort(uses.begin(), uses.end(), [](const Use& a, const Use& b) { return a.start < b.start; });
  for (std::size_t i = 1; i < uses.size(); i++) {
    const Use &a = uses[i - 1], &b = uses[i];
    if (a.start.device == b.start.device && a.start.inode == b.start.inode &&
        a.start.offset + a.length > b.start.offset)
      throw corrupt(file_, "two extents of the VMDK share bytes of one file", b.file->path().string());
  }
}

void VmdkImage::open_parent_disk(const OpenContext& context) {
  if (!described_ || (descriptor_.parent_cid == vmdk::no_parent && descriptor_.parent_hint.empty()))
    return;
  std::vector<std::string> names;
  if (const auto other = vmdk::decoded_name(descriptor_.parent_hint, descriptor_.encoding))
    names.push_back(*other);
  names.push_back(descriptor_.parent_hint);
  auto parent = open_parent(context, file_, names, "vmdk");
  const ImageInfo info = parent->info();
  const std::string wanted = fmt::format("{:08x}", descriptor_.parent_cid);
  const auto found = info.details.find("cid");
  if (found == info.details.end() || found->second != wanted)
    throw Error("PARENT_MISMATCH", file_.path().string() + " was made over another state of its parent",
                fmt::format("it wants content id {}, {} has {}", wanted, info.files.front().string(),
                            found == info.details.end() ? "none" : found->second),
                "the parent was changed after the snapshot, or is another disk; restore the right one");
  set_parent(std::move(parent));
}

const VmdkImage::Segment& VmdkImage::segment_at(std::uint64_t offset) const {
  const auto after = std::upper_bound(segments_.begin(), segments_.end(), offset,
                                      [](std::uint64_t at, const Segment& s) { return at < s.start; });
  return *(after - 1);
}

Piece VmdkImage::locate(std::uint64_t offset, std::uint64_t max) const {
  const Segment& segment = segment_at(offset);
  const std::uint64_t inside = offset - segment.start, length = std::min(max, segment.length - inside);
  if (segment.sparse)
    return segment.sparse->locate(inside, length);
  if (segment.flat)
    return {Piece::Place::file, length, &*segment.flat, inside};
  return {Piece::Place::zero, length, nullptr, 0};
}

std::size_t VmdkImage::read_packed(std::uint64_t offset, const Piece&, std::span<std::byte> out) const {
  const Segment& segment = segment_at(offset);
  const std::uint64_t inside = offset - segment.start;
  return segment.sparse->read_packed(inside, out.first(std::min<std::uint64_t>(out.size(), segment.length - inside)));
}

void VmdkImage::validate() const {
  for (const Segment& segment : segments_)
    if (segment.sparse)
      segment.sparse->validate();
}

ImageInfo VmdkImage::info() const {
  ImageInfo info;
  info.format = "vmdk";
  info.variant = descriptor_.create_type;
  info.virtual_size = size();
  info.notes = notes_;
  info.files = {file_.path()};
  for (const auto& [name, file] : opened_)
    info.files.push_back(file.path());
  for (const Segment& segment : segments_) {
    if (!segment.sparse)
      continue;
    info.block_size = segment.sparse->grain_bytes();
    if (segment.sparse->compressed())
      info.details["compression"] = "deflate";
    for (const std::string& note : segment.sparse->notes())
      info.notes.push_back(note);
  }
  if (described_) {
    info.details["subformat"] = descriptor_.create_type;
    info.details["cid"] = fmt::format("{:08x}", descriptor_.cid);
    info.details["extents"] = std::to_string(segments_.size());
    if (!descriptor_.adapter.empty())
      info.details["adapter"] = descriptor_.adapter;
  }
  if (parent()) {
    info.details["parent"] = descriptor_.parent_hint;
    add_parent(info);
  }
  return info;
}

} // namespace

std::unique_ptr<Image> open_vmdk(SourceFile file, const OpenContext& context) {
  return std::make_unique<VmdkImage>(std::move(file), context);
}

} // namespace kvmport
