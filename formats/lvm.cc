// SPDX-License-Identifier: Apache-2.0
#include "formats/lvm.h"

#include "formats/lvm_config.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <set>
#include <zlib.h>

namespace kvmport {
namespace {

constexpr std::uint64_t sector = 512, most_text = 1U << 20;
constexpr std::size_t most_objects = 4096, label_sectors = 4, mda_header_size = 512, text_checksum = 56, uuid_size = 32;
constexpr std::uint32_t initial_crc = 0xf597a6cf;
constexpr std::string_view mda_magic = " LVM2 x[5A%r0N*>";

[[noreturn]] void corrupt(const char* why) {
  throw Error("IMAGE_CORRUPT", "the metadata of LVM is damaged", why);
}
void require(bool right, const char* why) {
  if (!right)
    corrupt(why);
}

/// lib/misc/crc.c: the usual polynomial, but neither start nor end inverted.
std::uint32_t lvm_crc(std::uint32_t start, ByteSpan bytes) {
  return ~static_cast<std::uint32_t>(
      ::crc32(~start, reinterpret_cast<const Bytef*>(bytes.data()), static_cast<uInt>(bytes.size())));
}

std::string text_of(ByteSpan bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// 32 characters as "6-4-4-4-4-4-6".
std::string uuid_text(ByteSpan bytes) {
  const std::string all = text_of(bytes);
  require(std::ranges::all_of(all, [](unsigned char c) { return std::isalnum(c) != 0 || c == '!' || c == '#'; }),
          "a UUID has other characters than letters and digits");
  std::string text;
  std::size_t at = 0;
  for (const std::size_t length : {6, 4, 4, 4, 4, 4, 6}) {
    text += (at == 0 ? "" : "-") + all.substr(at, length);
    at += length;
  }
  return text;
}

/// One part of a disk, checked.
class Window {
 public:
  Window(const Image& disk, Range range) : disk_(disk), range_(range) {
    require(range.offset <= disk.size() && range.length <= disk.size() - range.offset, "it lies outside of its disk");
  }
  Bytes read(std::uint64_t offset, std::uint64_t length) const {
    require(offset <= range_.length && length <= range_.length - offset, "a part of it lies outside of its volume");
    Bytes bytes(length);
    disk_.read(range_.offset + offset, bytes);
    return bytes;
  }
  std::uint64_t size() const { return range_.length; }

 private:
  const Image& disk_;
  Range range_;
};

/// Where the committed text of a metadata area lies (struct mda_header, a circular buffer behind it).
struct CommittedText {
  Bytes header;
  Range first, rest;  ///< of the volume; the second begins where the buffer does
  std::string text{}; ///< empty when the area has none
};

CommittedText metadata_in(const Window& volume, Range area) {
  CommittedText found;
  found.header = volume.read(area.offset, mda_header_size);
  const ByteSpan header = found.header;
  require(checksum_agrees(load_le<std::uint32_t>(header, 0), lvm_crc(initial_crc, header.subspan(4))),
          "the checksum of a metadata area is wrong");
  require(text_of(header.subspan(4, 16)) == mda_magic && load_le<std::uint32_t>(header, 20) == 1,
          "a metadata area has an unknown version");
  require(load_le<std::uint64_t>(header, 24) == area.offset && load_le<std::uint64_t>(header, 32) == area.length,
          "a metadata area lies elsewhere than it says");
  const auto offset = load_le<std::uint64_t>(header, 40), size = load_le<std::uint64_t>(header, 48);
  const auto checksum = load_le<std::uint32_t>(header, text_checksum), flags = load_le<std::uint32_t>(header, 60);
  if (offset == 0 || size == 0 || (flags & 1) != 0) // RAW_LOCN_IGNORED
    return found;
  require(offset >= mda_header_size && offset < area.length && size <= area.length - mda_header_size &&
              size <= most_text,
          "a metadata area's text lies outside of it");
  found.first = {area.offset + offset, std::min(size, area.length - offset)};
  found.rest = {area.offset + mda_header_size, size - found.first.length};
  Bytes text = volume.read(found.first.offset, found.first.length);
  const Bytes rest = volume.read(found.rest.offset, found.rest.length);
  text.insert(text.end(), rest.begin(), rest.end());
  require(checksum_agrees(checksum, lvm_crc(initial_crc, text)), "the checksum of the text is wrong");
  found.text = text_of(text);
  return found;
}

/// A label (struct label_header, struct pv_header) that was found.
struct Label {
  std::uint64_t at = 0; ///< of the volume
  Bytes sector;
  std::size_t uuid = 0;     ///< in the sector
  std::vector<Range> areas; ///< of metadata, of the volume
};

std::optional<Label> find_label(const Window& volume) {
  for (std::uint64_t at = 0; at < label_sectors * sector && at + sector <= volume.size(); at += sector) {
    Label found{at, volume.read(at, sector), 0, {}};
    const ByteSpan label = found.sector;
    if (text_of(label.first(8)) != "LABELONE" || text_of(label.subspan(24, 8)) != "LVM2 001")
      continue;
    require(load_le<std::uint64_t>(label, 8) == at / sector, "its label lies in another sector than it says");
    require(checksum_agrees(load_le<std::uint32_t>(label, 16), lvm_crc(initial_crc, label.subspan(20))),
            "the checksum of its label is wrong");
    std::size_t field = load_le<std::uint32_t>(label, 20);
    require(field <= sector - 40, "its label is impossible");
    found.uuid = field;
    field += 40;
    const auto next = [&] {
      const Range area{load_le<std::uint64_t>(label, field), load_le<std::uint64_t>(label, field + 8)};
      field += 16;
      return area;
    };
    while (next().offset != 0) { // data areas, up to an empty one
    }
    for (Range area = next(); area.offset != 0; area = next()) {
      require(area.length >= mda_header_size, "a metadata area is too small");
      found.areas.push_back(area);
    }
    return found;
  }
  return std::nullopt;
}

using lvm_config::Section;

/// What the text says of extents, of one group.
class GroupReader {
 public:
  GroupReader(std::string name, const Section& group) : section_(group) {
    group_.name = std::move(name);
    group_.uuid = group.text("id");
    group_.sequence = group.number("seqno");
    extent_ = checked_mul(group.number("extent_size"), sector, "an extent of LVM");
    require(extent_ > 0, "its extents have no size");
  }

  LvmGroup read() {
    check_status();
    read_members();
    if (const Section* volumes = section_.section("logical_volumes"))
      for (const auto& [name, volume] : volumes->sections)
        read_volume(name, volume);
    refuse_overlaps();
    for (auto& volume : group_.volumes)
      if (origins_.contains(volume.name))
        volume.unsupported = "it has snapshots";
    std::erase_if(group_.volumes, [&](const LvmVolume& v) { return hidden_.contains(v.name); });
    if (free_known_)
      find_free();
    return std::move(group_);
  }

 private:
  struct Member {
    std::string uuid;
    std::uint64_t start = 0, extents = 0; ///< bytes; number
    std::vector<Range> used;              ///< in extents
  };

  void check_status() {
    const auto status = section_.texts("status");
    const auto has = [&](const char* word) { return std::ranges::find(status, word) != status.end(); };
    if (has("EXPORTED"))
      group_.unsupported = "its volume group is exported";
    else if (!has("READ") || !has("WRITE"))
      group_.unsupported = "its volume group is read-only";
    else if (has("CLUSTERED") || section_.has("lock_type") || section_.has("system_id"))
      group_.unsupported = "its volume group belongs to a cluster or to one host by name";
  }

  void read_members() {
    const Section* volumes = section_.section("physical_volumes");
    require(volumes != nullptr && volumes->sections.size() <= most_objects, "it has no physical volumes");
    for (const auto& [name, one] : volumes->sections) {
      Member member{
          one.text("id"), checked_mul(one.number("pe_start"), sector, "a volume's start"), one.number("pe_count"), {}};
      (void)checked_add(member.start, checked_mul(member.extents, extent_, "a volume's size"), "a volume's size");
      const auto flags = one.texts("flags");
      if (std::ranges::find(flags, "MISSING") != flags.end())
        group_.unsupported = "a physical volume of its group is missing";
      group_.members.push_back(member.uuid);
      members_[name] = std::move(member);
    }
  }

  void read_volume(const std::string& name, const Section& section) {
    require(group_.volumes.size() < most_objects, "it has too many volumes");
    LvmVolume volume;
    volume.name = name;
    volume.uuid = section.text("id");
    const auto status = section.texts("status");
    if (std::ranges::find(status, "VISIBLE") == status.end())
      hidden_.insert(name);
    if (std::ranges::find(status, "WRITE") == status.end())
      volume.unsupported = "it is read-only";
    for (const char* word : {"LOCKED", "PVMOVE", "CONVERTING", "MERGING"})
      if (std::ranges::find(status, word) != status.end())
        volume.unsupported = "it is being moved or merged";
    const std::uint64_t count = section.number("segment_count");
    require(count > 0 && count <= most_objects, "a volume has no segments");
    std::uint64_t at = 0; // extents
    for (std::uint64_t i = 1; i <= count; i++) {
      const Section* segment = section.section("segment" + std::to_string(i));
      require(segment != nullptr && segment->number("start_extent") == at, "a volume's segments have gaps");
      at = checked_add(at, segment->number("extent_count"), "a volume");
      read_segment(*segment, volume);
    }
    group_.volumes.push_back(std::move(volume));
  }

  void read_segment(const Section& section, LvmVolume& volume) {
    const std::string type = section.text("type");
    if (type == "snapshot") // of another volume, which it names
      origins_.insert(section.has("origin") ? section.text("origin") : "");
    if (type != "striped" && type != "linear") {
      volume.unsupported = "it is of type " + type;
      for (const auto& [key, values] : section.values) // does it name physical volumes, as mirrors of pvmove do?
        for (const auto& value : values)
          free_known_ = free_known_ && !members_.contains(value.text);
      return;
    }
    const std::uint64_t extents = section.number("extent_count"), stripes = section.number("stripe_count");
    require(extents > 0 && stripes > 0 && stripes <= most_objects && extents % stripes == 0,
            "a segment's stripes don't fill it");
    const auto* places = section.find("stripes");
    require(places != nullptr && places->size() == stripes * 2, "a segment names other stripes than it has");
    LvmSegment segment;
    segment.length = checked_mul(extents, extent_, "a segment");
    if (stripes > 1)
      segment.stripe_size = checked_mul(section.number("stripe_size"), sector, "a stripe");
    for (std::size_t i = 0; i < stripes; i++) {
      const auto member = members_.find((*places)[i * 2].text);
      if (member == members_.end()) { // a stripe over other volumes
        volume.unsupported = "it lies on other volumes";
        return;
      }
      const std::uint64_t first = (*places)[i * 2 + 1].number, each = extents / stripes;
      require(first <= member->second.extents && each <= member->second.extents - first,
              "a segment lies outside of its physical volume");
      member->second.used.push_back({first, each});
      segment.stripes.push_back({member->second.uuid, member->second.start + first * extent_});
    }
    volume.segments.push_back(std::move(segment));
  }

  void refuse_overlaps() {
    for (auto& [name, member] : members_) {
      std::ranges::sort(member.used, {}, &Range::offset);
      for (std::size_t i = 1; i < member.used.size(); i++)
        require(member.used[i].offset >= member.used[i - 1].end(), "two volumes have the same extents");
    }
  }

  void find_free() {
    for (auto& [name, member] : members_) {
      member.used.push_back({member.extents, 0});
      std::uint64_t at = 0;
      for (const Range& used : member.used) {
        if (used.offset > at)
          group_.free.push_back({member.uuid, {member.start + at * extent_, (used.offset - at) * extent_}});
        at = std::max(at, used.end());
      }
    }
  }

  const Section& section_;
  LvmGroup group_;
  std::uint64_t extent_ = 0; ///< bytes
  std::map<std::string, Member> members_;
  std::set<std::string> hidden_, origins_;
  bool free_known_ = true;
};

} // namespace

std::optional<LvmMember> read_lvm_member(const Image& disk, Range range) {
  const Window volume(disk, range);
  const auto label = find_label(volume);
  if (!label)
    return std::nullopt;
  LvmMember member;
  member.uuid = uuid_text(ByteSpan(label->sector).subspan(label->uuid, uuid_size));
  for (const Range area : label->areas) {
    std::string text = metadata_in(volume, area).text;
    while (text.ends_with('\0'))
      text.pop_back();
    if (member.metadata.empty())
      member.metadata = std::move(text);
  }
  return member;
}

bool renew_lvm_uuids(WritableImage& disk, Range range, const std::function<std::string(const std::string&)>& renew) {
  const Window volume(disk, range);
  auto label = find_label(volume);
  if (!label)
    return false;
  const auto renewed = [&](const std::string& text) {
    std::string after = renew(text);
    if (after.size() != text.size())
      throw Error("INTERNAL", "a new UUID of LVM has another length than the old one");
    return after;
  };
  for (const Range area : label->areas) {
    CommittedText found = metadata_in(volume, area);
    const std::string after = renewed(found.text);
    if (after == found.text)
      continue;
    const ByteSpan bytes = as_bytes(after);
    disk.write(range.offset + found.first.offset, bytes.first(found.first.length));
    if (found.rest.length > 0)
      disk.write(range.offset + found.rest.offset, bytes.subspan(found.first.length));
    store_le(std::span(found.header), text_checksum, lvm_crc(initial_crc, bytes));
    store_le(std::span(found.header), 0, lvm_crc(initial_crc, ByteSpan(found.header).subspan(4)));
    disk.write(range.offset + area.offset, found.header);
  }
  const std::span<std::byte> own = std::span(label->sector).subspan(label->uuid, uuid_size);
  std::string uuid = renewed(uuid_text(own));
  std::erase(uuid, '-');
  std::memcpy(own.data(), uuid.data(), uuid_size);
  store_le(std::span(label->sector), 16, lvm_crc(initial_crc, ByteSpan(label->sector).subspan(20)));
  disk.write(range.offset + label->at, label->sector);
  return true;
}

std::string rename_lvm_group(std::string_view text, std::string_view before, std::string_view after) {
  std::string result(text);
  std::size_t level = 0, begin = 0, end = 0; // of sections; of the last word
  for (std::size_t at = 0; at < text.size(); at++) {
    const char c = text[at];
    if (c == '#') {
      at = std::min(text.find('\n', at), text.size());
    } else if (c == '"') {
      while (++at < text.size() && text[at] != '"')
        at += text[at] == '\\' ? 1 : 0;
    } else if (c == '{') {
      if (level++ == 0 && text.substr(begin, end - begin) == before)
        return result.replace(begin, end - begin, after);
    } else if (c == '}') {
      level -= level > 0 ? 1 : 0;
    } else if (std::isspace(static_cast<unsigned char>(c)) == 0) {
      begin = at == end ? begin : at;
      end = at + 1;
    }
  }
  return result;
}

LvmGroup parse_lvm_metadata(std::string_view text) {
  const Section all = lvm_config::parse(text);
  require(all.sections.size() == 1 && all.text("contents") == "Text Format Volume Group" && all.number("version") == 1,
          "its text is no volume group");
  const auto& [name, group] = *all.sections.begin();
  return GroupReader(name, group).read();
}

} // namespace kvmport
