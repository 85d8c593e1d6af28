// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/ntfs_free.h"

#include "formats/ntfs_records.h"

#include <algorithm>
#include <bit>

namespace kvmport {
namespace {

using namespace ntfs;

enum SystemFile : std::uint64_t {
  mft_file = 0,
  mirror_file = 1,
  log_file = 2,
  volume_file = 3,
  bitmap_file = 6,
  boot_file = 7
};

constexpr std::uint64_t piece = 1U << 20;
constexpr std::uint64_t longest_log = 1U << 30;
constexpr std::uint64_t hibernation_header = 4096; // NTFS_HIBERFILE_HEADER_SIZE
constexpr std::uint16_t no_client = 0xffff, volume_is_clean = 2;

class NtfsReader {
 public:
  NtfsReader(const Part& part, const Volume& volume)
      : part_(part), v_(volume), mft_(find_file_table(part, volume)), bitmap_(data_of(bitmap_file)) {}

  std::vector<Range> read() {
    check_mirror();
    check_volume();
    check_log();
    check_hibernation();
    require(!bitmap_.resident && bitmap_.size >= div_round_up(v_.clusters, 8), "its cluster map is too short");
    require_used({0, 1}); // the boot sector's cluster
    for (const SystemFile file : {mft_file, mirror_file, log_file, bitmap_file, boot_file})
      for (const Run& run : (file == mft_file ? mft_ : data_of(file)).runs)
        require_used(run);
    return read_bitmap();
  }

 private:
  Record record(std::uint64_t number) const { return read_record(part_, v_, mft_, number); }
  Value data_of(std::uint64_t number) const {
    const Record file = record(number);
    require(!file.has(Attribute::list), "its system files lie in too many pieces");
    auto data = file.find(Attribute::data);
    require(data.has_value(), "its system files are damaged");
    return *data;
  }

  void check_mirror() const;
  void check_volume() const;
  void check_log() const;
  void check_log_restarts(const Value& log) const;
  void check_hibernation() const;
  void require_used(Run run) const;
  std::vector<Range> read_bitmap() const;

  const Part& part_;
  const Volume v_;
  const Value mft_, bitmap_;
};

/// The mirror has the first four records; Windows writes both, so a difference tells damage or a write under way.
void NtfsReader::check_mirror() const {
  for (std::uint64_t number = 0; number < 4; number++) {
    const Record ours = record(number);
    const Record theirs(v_, part_.read(v_.mirror * v_.cluster + number * v_.record, v_.record), number);
    const ByteSpan a = ours.bytes().subspan(56), b = theirs.bytes().subspan(56); // behind header and fixup
    require(std::ranges::equal(a, b), "its file table and the mirror differ");
  }
}

void NtfsReader::check_volume() const {
  const auto information = record(volume_file).find(Attribute::volume_information);
  require(information && information->resident && information->size >= 12, "its $Volume is damaged");
  const auto major = load_le<std::uint8_t>(information->bytes, 8);
  const auto flags = load_le<std::uint16_t>(information->bytes, 10);
  require(major == 1 || major == 3, "its version is unknown");
  require((flags & 1) == 0, "it is marked as dirty");
  require(flags == 0, "it waits for a repair or an upgrade");
}

/// Filled with ones: mkntfs and ntfs-3g leave it so, Windows starts a new one. Else its restart pages tell.
void NtfsReader::check_log() const {
  const Value log = data_of(log_file);
  require(!log.resident && log.size >= 16384 && log.size <= longest_log, "its $LogFile is damaged");
  for (std::uint64_t at = 0; at < log.size; at += piece) {
    const Bytes bytes = read_value(part_, v_, log, at, std::min(piece, log.size - at));
    if (!std::ranges::all_of(bytes, [](std::byte one) { return one == std::byte{0xff}; })) {
      check_log_restarts(log);
      return;
    }
  }
}

void NtfsReader::check_log_restarts(const Value& log) const {
  constexpr const char* not_clean = "its $LogFile is not clean, so its map may be old";
  struct Restart {
    std::uint64_t lsn = 0;
    bool clean = false;
  };
  std::vector<Restart> restarts;
  for (const std::uint64_t at : {std::uint64_t{0}, std::uint64_t{4096}}) {
    Bytes page = read_value(part_, v_, log, at, 4096);
    require(as_text(ByteSpan(page).first(4)) == "RSTR", not_clean);
    require(load_le<std::uint32_t>(page, 16) == page.size() && load_le<std::uint32_t>(page, 20) == page.size(),
            "its $LogFile has pages of an unknown size");
    undo_fixup(page);
    // Version 2 is what Windows 8 and later use while the volume is mounted or a Fast Startup waits.
    require(load_le<std::uint16_t>(page, 28) == 1 && load_le<std::uint16_t>(page, 26) <= 1, not_clean);
    const std::size_t area = load_le<std::uint16_t>(page, 24);
    require(area % 8 == 0 && area >= 48 && area + 48 <= page.size(), "its $LogFile is damaged");
    const auto in_use = load_le<std::uint16_t>(page, area + 12), flags = load_le<std::uint16_t>(page, area + 14);
    restarts.push_back({load_le<std::uint64_t>(page, area), in_use == no_client || (flags & volume_is_clean) != 0});
  }
  // The pages are written in turn: the newer one counts.
  const Restart &a = restarts[0], &b = restarts[1];
  require(a.lsn == b.lsn ? a.clean && b.clean : a.lsn > b.lsn ? a.clean : b.clean, not_clean);
}

void NtfsReader::check_hibernation() const {
  each_root_entry(part_, v_, mft_, [&](std::uint64_t number, const std::string& name) {
    if (name != "hiberfil.sys")
      return;
    require(number < mft_.size / v_.record, "its hiberfil.sys can't be read");
    const Value data = data_of(number);
    if (data.size < hibernation_header || !is_zero(read_value(part_, v_, data, 0, hibernation_header)))
      throw Doubt{"Windows is hibernated in it (or uses Fast Startup)", true};
  });
}

void NtfsReader::require_used(Run run) const {
  for (std::uint64_t at = run.start; at < run.start + run.count;) {
    const std::uint64_t first = at / 8, end = run.start + run.count;
    const auto bytes = read_value(part_, v_, bitmap_, first, std::min(piece, div_round_up(end, 8) - first));
    const std::uint64_t stop = std::min(end, (first + bytes.size()) * 8);
    require(find_bit(bytes, at - first * 8, stop - first * 8, false) == stop - first * 8,
            "its cluster map calls a system file free");
    at = stop;
  }
}

std::vector<Range> NtfsReader::read_bitmap() const {
  FreeRanges free;
  for (std::uint64_t at = 0; at < v_.clusters; at += piece * 8) {
    const std::uint64_t count = std::min(piece * 8, v_.clusters - at);
    const Bytes bits = read_value(part_, v_, bitmap_, at / 8, div_round_up(count, 8));
    for (std::uint64_t i = find_bit(bits, 0, count, false); i < count;) {
      const std::uint64_t end = find_bit(bits, i, count, true);
      free.add({part_.range().offset + (at + i) * v_.cluster, (end - i) * v_.cluster});
      i = find_bit(bits, end, count, false);
    }
  }
  return free.take();
}

} // namespace

FreeBlocks read_ntfs_free(const Image& image, Range range) {
  const Part part(image, range);
  if (range.length < 4096)
    return {};
  const Bytes boot = part.read(0, 512);
  if (as_text(ByteSpan(boot).subspan(3, 8)) != "NTFS    ")
    return {};
  return judge_free_blocks("ntfs", [&] {
    part.require_content("ntfs");
    return NtfsReader(part, check_boot_sector(boot, part)).read();
  });
}

} // namespace kvmport
