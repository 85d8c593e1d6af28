// SPDX-License-Identifier: Apache-2.0
// Raw disks: a regular file or a block device whose bytes are the guest's bytes.
#include "formats/readers.h"

namespace kvmport {
namespace {

class RawImage final : public Image {
 public:
  explicit RawImage(SourceFile file) : file_(std::move(file)) {}

  std::uint64_t size() const override { return file_.size(); }

  ImageInfo info() const override {
    ImageInfo info;
    info.format = "raw";
    info.virtual_size = size();
    info.files = {file_.path()};
    if (size() % 512 != 0)
      info.notes.push_back("the size is not a multiple of 512 bytes");
    return info;
  }

  std::vector<Extent> extents(Range range) const override { return file_.data_extents(range); }
  void read(std::uint64_t offset, std::span<std::byte> out) const override { file_.read(offset, out); }
  std::optional<FileRange> file_range(Range range) const override { return file_.file_range(range); }

 private:
  SourceFile file_;
};

} // namespace

std::unique_ptr<Image> open_raw(SourceFile file, const OpenContext&) {
  return std::make_unique<RawImage>(std::move(file));
}

} // namespace kvmport
