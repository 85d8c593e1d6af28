// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/free_gaps.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace kvmport {
namespace {

constexpr std::size_t most_partitions = 256; // where read_partitions() stops

// FAT, NTFS, their hidden forms and recovery; swap and filesystems of Linux, LVM, RAID; the EFI system partition. Types
// whose partitions have tables of their own (BSD, Solaris, dynamic disks) are not among them.
constexpr std::array<std::string_view, 22> dos_types{"0x01", "0x04", "0x06", "0x07", "0x0b", "0x0c", "0x0e", "0x11",
                                                     "0x12", "0x14", "0x16", "0x17", "0x1b", "0x1c", "0x1e", "0x27",
                                                     "0x82", "0x83", "0x8e", "0xea", "0xef", "0xfd"};
constexpr std::array<std::string_view, 17> gpt_types{
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", // EFI system
    "21686148-6449-6e6f-744e-656564454649", // BIOS boot
    "e3c9e316-0b5c-4db8-817d-f92df00215ae", // Microsoft reserved
    "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", // Microsoft basic data
    "de94bba4-06d1-4d40-a16a-bfd50179d6ac", // Windows recovery
    "0fc63daf-8483-4772-8e79-3d69d8477de4", // Linux filesystem
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", // swap
    "e6d6d379-f507-44c2-a23c-238f2a3df928", // LVM
    "a19d880f-05fc-4d3b-a006-743f0f84911e", // RAID
    "ca7d7ccb-63ed-4c53-861c-1742536059cc", // LUKS
    "933ac7e1-2eb4-4f13-b844-0e14e2aef915", // home
    "3b8f8425-20e0-4f3b-907f-1a25a76f98e8", // srv
    "4d21b016-b534-45c2-a9fb-5c16e091fd2d", // var
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709", // root of x86-64
    "44479540-f297-41b2-9af7-d131d5f0458a", // root of x86
    "8484680c-9521-48c6-9c11-b0720656f69e", // usr of x86-64
    "bc13c2ff-59e6-4262-a352-b275fd6f7172", // extended boot loader
};

bool known(const DiskPartitions& table, const DiskPartition& one) {
  const auto among = [&](auto& types) { return std::find(types.begin(), types.end(), one.type) != types.end(); };
  return table.kind == "dos" ? among(dos_types) : table.kind == "gpt" && among(gpt_types);
}

/// Extended partitions: boot records lie anywhere in them.
void add_containers(const Image& disk, std::uint64_t sector, std::vector<Range>& used) {
  Bytes mbr(512);
  disk.read(0, mbr);
  for (std::size_t at = 446; at < 510; at += 16) {
    const auto type = load_le<std::uint8_t>(mbr, at + 4);
    if (type == 0x05 || type == 0x0f || type == 0x85) {
      const std::uint64_t begin = std::min(load_le<std::uint32_t>(mbr, at + 8) * sector, disk.size());
      used.push_back({begin, std::min(load_le<std::uint32_t>(mbr, at + 12) * sector, disk.size() - begin)});
    }
  }
}

/// Where each GPT lies: the backup is not at the end of a disk that has grown.
void add_gpts(const Image& disk, std::uint64_t sector, std::vector<Range>& used) {
  for (const std::uint64_t lba : {std::uint64_t{1}, disk.size() / sector - 1}) {
    if (lba >= disk.size() / sector)
      continue;
    Bytes header(512);
    disk.read(lba * sector, header);
    if (as_text(ByteSpan(header).first(8)) != "EFI PART")
      continue;
    for (const std::size_t field : {32, 72}) { // the other header, this one's entries
      const auto place = load_le<std::uint64_t>(header, field);
      require(place < disk.size() / sector, "its GPT names places outside of it");
      const std::uint64_t begin = place * sector - std::min(place * sector, gap_edge);
      used.push_back({begin, std::min(2 * gap_edge, disk.size() - begin)});
    }
  }
}

std::vector<Range> used_ranges(const Image& disk, const DiskPartitions& table) {
  const std::uint64_t sector = disk.info().logical_sector;
  std::vector<Range> used;
  for (const DiskPartition& one : table.partitions) {
    require(known(table, one), "a partition is of a kind that may use space outside of it");
    used.push_back(one.range);
  }
  const auto by_offset = [](const Range& a, const Range& b) { return a.offset < b.offset; };
  std::sort(used.begin(), used.end(), by_offset);
  for (std::size_t i = 1; i < used.size(); i++)
    require(used[i].offset >= used[i - 1].end(), "partitions overlap");
  used.push_back({0, used.front().end()}); // all before the first partition
  const std::uint64_t tail = std::min(disk.size(), 2 * gap_edge);
  used.push_back({disk.size() - tail, tail});
  if (table.kind == "dos")
    add_containers(disk, sector, used);
  else
    add_gpts(disk, sector, used);
  std::sort(used.begin(), used.end(), by_offset);
  return used;
}

/// A filesystem of a partition that was deleted begins where the gap does, or where the next one would begin.
void require_empty(const Image& disk, Range gap) {
  for (const std::uint64_t begin : {gap.offset, round_up(gap.offset, gap_edge)})
    Part(disk, {begin, gap.end() - begin}).require_content("");
}

std::vector<Range> read(const Image& disk, const DiskPartitions& table) {
  require(table.partitions.size() < most_partitions, "it has too many partitions");
  Part(disk, {0, disk.size()}).require_content("");
  FreeRanges free;
  std::uint64_t at = 0;
  for (const Range& range : used_ranges(disk, table)) {
    if (range.offset > at && range.offset - at > shortest_free_gap) {
      const Range gap{at, range.offset - at};
      require_empty(disk, gap);
      free.add({gap.offset + gap_edge, gap.length - 2 * gap_edge});
    }
    at = std::max(at, range.end());
  }
  return free.take();
}

} // namespace

FreeBlocks read_free_gaps(const Image& disk, const DiskPartitions& table) {
  if (table.partitions.empty())
    return {};
  FreeBlocks result;
  result.recognised = true;
  try {
    result.free = read(disk, table);
    std::uint64_t bytes = 0;
    for (const Range& range : result.free)
      bytes += range.length;
    result.recognised = bytes != 0;
    result.note =
        "large gaps between partitions: " + std::to_string(bytes >> 20) +
        " MiB are not copied, no signature was seen in them; the space before the first partition, small gaps, "
        "the edges of large ones and the end of the disk are copied";
  } catch (const Doubt& doubt) {
    result.note = "space outside of partitions, copied whole: " + doubt.why;
  }
  return result;
}

} // namespace kvmport
