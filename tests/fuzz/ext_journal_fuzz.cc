// SPDX-License-Identifier: Apache-2.0
// Any bytes as an ext filesystem whose journal waits to be replayed: it is refused and nothing has changed, or replayed
// and nothing is left to replay.
#include "formats/ext_journal.h"
#include "tests/fuzz/input.h"

#include <filesystem>

namespace {

using namespace kvmport;

/// What unpack() of image_fuzz.h makes of an input, without making it.
class Disk final : public Image {
 public:
  explicit Disk(fuzz::Input in) : size_(std::min<std::uint64_t>(in.number(4), 16U << 10) << 10) {
    while (!in.empty()) {
      const std::uint64_t offset = in.number(4);
      pieces_.push_back({offset, in.take(in.number(2))});
    }
  }
  std::uint64_t size() const override { return size_; }
  ImageInfo info() const override { return {}; }
  std::vector<Extent> extents(Range range) const override { return {{range, ExtentKind::data}}; }
  void read(std::uint64_t offset, std::span<std::byte> out) const override {
    fuzz::must(offset <= size_ && out.size() <= size_ - offset);
    std::ranges::fill(out, std::byte{0});
    for (const Piece& piece : pieces_) {
      const std::uint64_t from = std::max(offset, piece.offset);
      const std::uint64_t to = std::min(offset + out.size(), piece.offset + piece.bytes.size());
      if (from < to)
        std::memcpy(out.data() + (from - offset), piece.bytes.data() + (from - piece.offset), to - from);
    }
  }

 private:
  struct Piece {
    std::uint64_t offset;
    ByteSpan bytes;
  };
  std::uint64_t size_;
  std::vector<Piece> pieces_;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvmport::fuzz;
  const Disk disk(Input(data, size));
  if (disk.size() == 0)
    return 0;
  Overlay overlay(disk, std::filesystem::temp_directory_path(), 64U << 20);
  JournalReplay replay;
  try {
    replay = replay_ext_journal(overlay, {0, disk.size()}, 1U << 16);
  } catch (const Error&) {
    must(overlay.dirty().empty());
    return 0;
  }
  must(replay.needed || overlay.dirty().empty());
  try {
    must(!replay_ext_journal(overlay, {0, disk.size()}, 1U << 16).needed);
  } catch (const Error&) { // the journal may have overwritten the superblock
  }
  return 0;
}
