// SPDX-License-Identifier: Apache-2.0
// Any bytes as an ext filesystem whose journal waits to be replayed: it is refused and nothing has changed, or replayed
// and nothing is left to replay.
#include "formats/ext_journal.h"
#include "tests/fuzz/image_fuzz.h"

#include <filesystem>

namespace {

using namespace kvmport;

class Disk final : public Image {
 public:
  explicit Disk(Bytes bytes) : bytes_(std::move(bytes)) {}
  std::uint64_t size() const override { return bytes_.size(); }
  ImageInfo info() const override { return {}; }
  std::vector<Extent> extents(Range range) const override { return {{range, ExtentKind::data}}; }
  void read(std::uint64_t offset, std::span<std::byte> out) const override {
    fuzz::must(offset <= bytes_.size() && out.size() <= bytes_.size() - offset);
    if (!out.empty())
      std::memcpy(out.data(), bytes_.data() + offset, out.size());
  }

 private:
  Bytes bytes_;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvmport::fuzz;
  const Disk disk(unpack(std::as_bytes(std::span(data, size))));
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
