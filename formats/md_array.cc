// SPDX-License-Identifier: Apache-2.0
#include "formats/md_array.h"

#include <algorithm>
#include <array>
#include <fmt/format.h>

namespace kvmport {
namespace {

constexpr std::uint32_t magic = 0xa92b4efc;
constexpr std::uint64_t sector = 512;
constexpr std::size_t fixed_size = 256, most_devices = 1920; // MD_SB_DISKS of version 1: what fits into 4 KiB
constexpr std::uint64_t clean = UINT64_MAX;                  // resync_offset: nothing is left to do
constexpr int raid1 = 1, linear = -1;

/// The one bit of feature_map (MD_FEATURE_BITMAP_OFFSET) with which members are still what they seem: an intent bitmap
/// of writes under way, empty in an array that is clean.
constexpr std::uint32_t has_bitmap = 1;

[[noreturn]] void corrupt(const char* why) {
  throw Error("IMAGE_CORRUPT", "the superblock of a RAID member is damaged", why);
}

/// calc_sb_1_csum: the sum of all 32-bit words but sb_csum's, folded.
std::uint32_t checksum(ByteSpan super) {
  std::uint64_t sum = 0;
  for (std::size_t at = 0; at + 4 <= super.size(); at += 4)
    sum += at == 216 ? 0 : load_le<std::uint32_t>(super, at);
  if (super.size() % 4 == 2)
    sum += load_le<std::uint16_t>(super, super.size() - 2);
  return static_cast<std::uint32_t>(sum) + static_cast<std::uint32_t>(sum >> 32);
}

std::string uuid_text(ByteSpan b) {
  std::string text;
  for (std::size_t i = 0; i < 16; i++)
    text += fmt::format("{}{:02x}", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", std::to_integer<unsigned>(b[i]));
  return text;
}

MdMember parse(ByteSpan super, std::uint64_t at, Range range) {
  const auto u32 = [&](std::size_t field) { return load_le<std::uint32_t>(super, field); };
  const auto u64 = [&](std::size_t field) { return load_le<std::uint64_t>(super, field); };
  const auto bytes = [&](std::uint64_t sectors) { return checked_mul(sectors, sector, "a RAID member's size"); };
  const std::uint32_t devices = u32(220);
  if (devices > most_devices || fixed_size + std::size_t{devices} * 2 > super.size())
    corrupt("it names too many devices");
  if (!checksum_agrees(u32(216), checksum(super.first(fixed_size + std::size_t{devices} * 2))))
    corrupt("its checksum is wrong");
  if (bytes(u64(144)) != at)
    corrupt("it lies elsewhere than it says");
  MdMember member;
  member.array_uuid = uuid_text(super.subspan(16, 16));
  const ByteSpan name = super.subspan(32, 32);
  for (const std::byte c : name.first(static_cast<std::size_t>(std::ranges::find(name, std::byte{0}) - name.begin())))
    member.name += static_cast<char>(c);
  member.level = static_cast<int>(u32(72));
  member.disks = u32(92);
  member.events = u64(200);
  member.array_size = bytes(u64(80));
  member.chunk = bytes(u32(88));
  member.data = {bytes(u64(128)), bytes(u64(136))};
  if (member.data.offset > range.length || member.data.length > range.length - member.data.offset)
    corrupt("its data lie outside of the member");
  const std::uint32_t number = u32(160);
  member.role = number < devices ? load_le<std::uint16_t>(super, fixed_size + std::size_t{number} * 2) : 0xffff;
  const std::uint32_t features = u32(8);
  if (member.level != raid1 && member.level != linear)
    member.unsupported = fmt::format("it is of level {}", member.level);
  else if ((features & ~has_bitmap) != 0)
    member.unsupported = "it is being reshaped or recovered, has bad blocks, a journal or a cluster";
  else if (u64(208) != clean && member.level == raid1)
    member.unsupported = "it was not shut down cleanly: its members may differ";
  else if (member.role >= member.disks)
    member.unsupported = "a member is a spare or has failed";
  return member;
}

} // namespace

std::optional<MdMember> read_md_member(const Image& disk, Range range) {
  if (range.offset > disk.size() || range.length > disk.size() - range.offset || range.length < (64U << 10))
    return std::nullopt;
  // 1.1, 1.2 and 1.0: at least 8 KiB before the end, at a multiple of 4 KiB (super_1_load).
  const std::uint64_t near_end = (range.length / sector - 16) / 8 * 8 * sector;
  for (const std::uint64_t at : {std::uint64_t{0}, std::uint64_t{4096}, near_end}) {
    Bytes super(std::min<std::uint64_t>(4096, range.length - at));
    disk.read(range.offset + at, super);
    if (load_le<std::uint32_t>(super, 0) != magic || load_le<std::uint32_t>(super, 4) != 1)
      continue;
    return parse(super, at, range);
  }
  return std::nullopt;
}

std::string assemble_md(std::vector<PlacedMdMember> members, std::vector<MapPiece>& pieces) {
  if (members.empty())
    return "there are no members";
  std::ranges::sort(members, {}, [](const PlacedMdMember& m) { return m.member.role; });
  const MdMember first = members.front().member;
  if (members.size() != first.disks)
    return fmt::format("{} of {} members are there", members.size(), first.disks);
  for (std::size_t i = 0; i < members.size(); i++) {
    const MdMember& m = members[i].member;
    if (!m.unsupported.empty())
      return m.unsupported;
    if (m.role != i || m.events != first.events || m.level != first.level || m.disks != first.disks ||
        m.array_size != first.array_size || m.chunk != first.chunk)
      return "its members are of different times";
    members[i].place.offset += m.data.offset;
  }
  pieces.clear();
  if (first.level == raid1) {
    MapPiece mirror{MapPiece::Kind::mirrored, first.array_size, 0, {}};
    for (const auto& [member, place] : members) {
      if (member.data.length < first.array_size)
        return "a member is too small";
      mirror.targets.push_back(place);
    }
    pieces.push_back(std::move(mirror));
    return {};
  }
  for (const auto& [member, place] : members) { // linear_conf: whole chunks of each
    const std::uint64_t unit = std::max<std::uint64_t>(member.chunk, sector);
    pieces.push_back({MapPiece::Kind::striped, member.data.length / unit * unit, 0, {place}});
  }
  return {};
}

} // namespace kvmport
