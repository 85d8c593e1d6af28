// SPDX-License-Identifier: Apache-2.0
#include "formats/vhdx_log.h"

#include "formats/chain.h"

#include <algorithm>
#include <fmt/format.h>

namespace kvmport::vhdx {
namespace {

constexpr std::uint64_t sector = 4096; // of the log, whatever the disk has
constexpr std::uint64_t max_log_bytes = 256U << 20;
constexpr std::size_t header_bytes = 64, descriptor_bytes = 32;

constexpr std::array<std::uint32_t, 256> make_crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; i++) {
    std::uint32_t c = i;
    for (int k = 0; k < 8; k++)
      c = (c & 1) != 0 ? c >> 1 ^ 0x82f63b78U : c >> 1;
    table[i] = c;
  }
  return table;
}

struct Entry {
  std::uint64_t position = 0, length = 0, tail = 0, sequence = 0, descriptors = 0, flushed_size = 0, last_size = 0;
};

} // namespace

std::uint32_t crc32c(ByteSpan bytes, std::size_t hole) {
  static constexpr auto table = make_crc_table();
  std::uint32_t crc = ~0U;
  for (std::size_t i = 0; i < bytes.size(); i++) {
    const std::uint32_t byte = i - hole < 4 ? 0 : std::to_integer<std::uint32_t>(bytes[i]);
    crc = table[(crc ^ byte) & 0xff] ^ crc >> 8;
  }
  return ~crc;
}

// --- a file with writes over it ----------------------------------------------------------------------------------

void PatchedFile::insert(std::uint64_t offset, Patch patch) {
  if (patch.length == 0)
    return;
  const std::uint64_t end = offset + patch.length;
  auto at = patches_.lower_bound(offset);
  if (at != patches_.begin()) {
    const auto before = std::prev(at);
    const std::uint64_t before_end = before->first + before->second.length;
    if (before_end > end) {
      Patch rest = before->second;
      rest.skip += end - before->first;
      rest.length = before_end - end;
      patches_.emplace(end, std::move(rest));
    }
    if (before_end > offset)
      before->second.length = offset - before->first;
    at = patches_.lower_bound(offset);
  }
  while (at != patches_.end() && at->first < end) {
    const std::uint64_t at_end = at->first + at->second.length;
    if (at_end > end) {
      Patch rest = at->second;
      rest.skip += end - at->first;
      rest.length = at_end - end;
      patches_.emplace(end, std::move(rest));
    }
    at = patches_.erase(at);
  }
  patches_.emplace(offset, std::move(patch));
}

void PatchedFile::write(std::uint64_t offset, Bytes bytes) {
  const std::uint64_t length = bytes.size();
  insert(offset, {length, std::make_shared<const Bytes>(std::move(bytes)), 0});
}

void PatchedFile::zero(std::uint64_t offset, std::uint64_t length) {
  insert(offset, {length, nullptr, 0});
}

bool PatchedFile::is_verbatim(std::uint64_t offset, std::uint64_t length) const {
  if (!file_.contains(offset, length))
    return false;
  const auto after = patches_.lower_bound(offset + length);
  return after == patches_.begin() || std::prev(after)->first + std::prev(after)->second.length <= offset;
}

void PatchedFile::require(std::uint64_t offset, std::uint64_t length, std::string_view what) const {
  if (offset > size_ || length > size_ - offset)
    file_.require(offset, length, what);
}

void PatchedFile::read(std::uint64_t offset, std::span<std::byte> out) const {
  require(offset, out.size(), "data that it should hold");
  const std::uint64_t end = offset + out.size();
  const std::size_t held = offset < file_.size() ? std::min<std::uint64_t>(out.size(), file_.size() - offset) : 0;
  file_.read(std::min(offset, file_.size()), out.first(held));
  std::fill(out.begin() + static_cast<std::ptrdiff_t>(held), out.end(), std::byte{0});
  auto at = patches_.upper_bound(offset);
  if (at != patches_.begin())
    --at;
  for (; at != patches_.end() && at->first < end; ++at) {
    const std::uint64_t from = std::max(at->first, offset), to = std::min(at->first + at->second.length, end);
    if (from >= to)
      continue;
    const auto place = out.begin() + static_cast<std::ptrdiff_t>(from - offset);
    if (at->second.bytes)
      std::copy_n(at->second.bytes->begin() + static_cast<std::ptrdiff_t>(at->second.skip + from - at->first),
                  to - from, place);
    else
      std::fill_n(place, to - from, std::byte{0});
  }
}

Bytes PatchedFile::read_bytes(std::uint64_t offset, std::uint64_t length) const {
  require(offset, length, "data that it should hold");
  Bytes bytes(length);
  read(offset, bytes);
  return bytes;
}

// --- the log -----------------------------------------------------------------------------------------------------

namespace {

class Log {
 public:
  Log(PatchedFile& target, const LogPlace& place)
      : target_(target), place_(place), ring_(target.file().read_bytes(place.offset, place.length)),
        budget_(ring_.size() * 16) {}

  std::string replay() {
    find_entries();
    const std::vector<Entry> sequence = active_sequence();
    if (sequence.empty()) {
      if (seen_)
        throw corrupt(target_.file(), "the VHDX log is damaged", "it has entries, but no complete sequence of them");
      return "the log was in use and is empty";
    }
    const Entry& head = sequence.back();
    target_.file().require(0, head.flushed_size, "the end that its log knows");
    if (head.last_size > head.flushed_size + (std::uint64_t{1} << 40))
      throw corrupt(target_.file(), "the VHDX log grows the file beyond reason", std::to_string(head.last_size));
    target_.grow(head.last_size);
    std::uint64_t writes = 0;
    for (const Entry& entry : sequence)
      writes += apply(entry);
    return fmt::format("the log was replayed in memory ({} writes)", writes);
  }

 private:
  Bytes at_ring(std::uint64_t position, std::uint64_t length) const {
    Bytes bytes(length);
    const std::uint64_t first = std::min(length, ring_.size() - position);
    std::copy_n(ring_.begin() + static_cast<std::ptrdiff_t>(position), first, bytes.begin());
    std::copy_n(ring_.begin(), length - first, bytes.begin() + static_cast<std::ptrdiff_t>(first));
    return bytes;
  }

  void find_entries() {
    for (std::uint64_t position = 0; position < ring_.size(); position += sector) {
      const ByteSpan header = ByteSpan(ring_).subspan(position, header_bytes);
      if (as_text(header.first(4)) != "loge" || !std::equal(place_.id.begin(), place_.id.end(), header.begin() + 32))
        continue;
      seen_ = true;
      Entry entry;
      entry.position = position;
      entry.length = load_le<std::uint32_t>(header, 8);
      entry.tail = load_le<std::uint32_t>(header, 12);
      entry.sequence = load_le<std::uint64_t>(header, 16);
      entry.descriptors = load_le<std::uint32_t>(header, 24);
      entry.flushed_size = load_le<std::uint64_t>(header, 48);
      entry.last_size = load_le<std::uint64_t>(header, 56);
      if (entry.length < sector || entry.length % sector != 0 || entry.length > ring_.size() ||
          entry.tail % sector != 0 || entry.tail >= ring_.size() || entry.sequence == 0 ||
          header_bytes + entry.descriptors * descriptor_bytes > entry.length)
        continue;
      if (entry.length > budget_)
        throw corrupt(target_.file(), "the VHDX log has entries that overlap each other");
      budget_ -= entry.length;
      if (crc32c(at_ring(position, entry.length), 4) == load_le<std::uint32_t>(header, 4))
        entries_.emplace(position, entry);
    }
  }

  /// From the tail that the entry with the highest number names, up to that entry.
  std::vector<Entry> active_sequence() const {
    std::vector<const Entry*> heads;
    for (const auto& [position, entry] : entries_)
      heads.push_back(&entry);
    std::sort(heads.begin(), heads.end(), [](const Entry* a, const Entry* b) { return a->sequence > b->sequence; });
    std::uint64_t steps = 1U << 20;
    for (const Entry* head : heads) {
      std::vector<Entry> sequence;
      std::uint64_t position = head->tail;
      for (auto at = entries_.find(position); at != entries_.end() && steps-- > 0; at = entries_.find(position)) {
        if (!sequence.empty() && at->second.sequence != sequence.back().sequence + 1)
          break;
        sequence.push_back(at->second);
        if (at->first == head->position)
          return sequence;
        position = (position + at->second.length) % ring_.size();
      }
    }
    return {};
  }

  std::uint64_t apply(const Entry& entry) {
    const Bytes bytes = at_ring(entry.position, entry.length);
    const auto wrong = [&] {
      return corrupt(target_.file(), "the VHDX log has a damaged entry",
                     at_offset(place_.offset + entry.position) + ", sequence number " + std::to_string(entry.sequence));
    };
    std::uint64_t data = round_up(header_bytes + entry.descriptors * descriptor_bytes, sector);
    for (std::uint64_t i = 0; i < entry.descriptors; i++) {
      const ByteSpan descriptor = ByteSpan(bytes).subspan(header_bytes + i * descriptor_bytes, descriptor_bytes);
      const std::string_view signature = as_text(descriptor.first(4));
      const auto offset = load_le<std::uint64_t>(descriptor, 16);
      if (load_le<std::uint64_t>(descriptor, 24) != entry.sequence || offset % sector != 0)
        throw wrong();
      if (signature == "zero") {
        const auto length = load_le<std::uint64_t>(descriptor, 8);
        if (length % sector != 0 || offset > target_.size() || length > target_.size() - offset)
          throw wrong();
        target_.zero(offset, length);
        continue;
      }
      if (signature != "desc" || data + sector > entry.length || offset > target_.size() ||
          sector > target_.size() - offset)
        throw wrong();
      Bytes page(bytes.begin() + static_cast<std::ptrdiff_t>(data),
                 bytes.begin() + static_cast<std::ptrdiff_t>(data + sector));
      if (as_text(ByteSpan(page).first(4)) != "data" ||
          (std::uint64_t{load_le<std::uint32_t>(page, 4)} << 32 | load_le<std::uint32_t>(page, 4092)) != entry.sequence)
        throw wrong();
      std::copy_n(descriptor.begin() + 8, 8, page.begin());
      std::copy_n(descriptor.begin() + 4, 4, page.begin() + 4092);
      target_.write(offset, std::move(page));
      data += sector;
    }
    return entry.descriptors;
  }

  PatchedFile& target_;
  const LogPlace& place_;
  Bytes ring_;
  std::uint64_t budget_;
  bool seen_ = false;
  std::map<std::uint64_t, Entry> entries_; ///< those with a good checksum, by position
};

} // namespace

std::string replay_log(PatchedFile& target, const LogPlace& place) {
  if (place.id == Guid{})
    return {};
  if (place.length == 0 || place.length % (1U << 20) != 0 || place.length > max_log_bytes ||
      place.offset % (1U << 20) != 0 || place.offset == 0)
    throw corrupt(target.file(), "the VHDX header places the log badly",
                  fmt::format("{} bytes {}", place.length, at_offset(place.offset)));
  return Log(target, place).replay();
}

} // namespace kvmport::vhdx
