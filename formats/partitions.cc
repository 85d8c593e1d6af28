// SPDX-License-Identifier: Apache-2.0
#include "formats/partitions.h"

#include <algorithm>
#include <blkid/blkid.h>
#include <fmt/format.h>
#include <memory>
#include <optional>
#include <set>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

namespace kvmport {
namespace {

constexpr unsigned most_partitions = 256;

Bytes read_at(const Image& disk, std::uint64_t offset, std::size_t length) {
  Bytes bytes(length);
  disk.read(offset, bytes);
  return bytes;
}

bool inside(const Image& disk, std::uint64_t offset, std::uint64_t length) {
  return offset <= disk.size() && length <= disk.size() - offset;
}

std::uint32_t crc32_of(ByteSpan bytes) {
  return static_cast<std::uint32_t>(
      ::crc32(0, reinterpret_cast<const Bytef*>(bytes.data()), static_cast<uInt>(bytes.size())));
}

/// Mixed-endian GUID (UEFI specification, appendix A) in lower case.
std::string guid_text(ByteSpan b, std::size_t at) {
  std::string tail;
  for (std::size_t i = 8; i < 16; i++) {
    if (i == 10)
      tail += '-';
    tail += fmt::format("{:02x}", std::to_integer<unsigned>(b[at + i]));
  }
  return fmt::format("{:08x}-{:04x}-{:04x}-{}", load_le<std::uint32_t>(b, at), load_le<std::uint16_t>(b, at + 4),
                     load_le<std::uint16_t>(b, at + 6), tail);
}

/// UTF-16LE up to its NUL, as UTF-8; what is no ASCII becomes '_' as in udev's names.
std::string label_text(ByteSpan b, std::size_t at, std::size_t units) {
  std::string text;
  for (std::size_t i = 0; i < units; i++) {
    const auto unit = load_le<std::uint16_t>(b, at + 2 * i);
    if (unit == 0)
      break;
    text += unit >= 0x20 && unit < 0x7f ? static_cast<char>(unit) : '_';
  }
  return text;
}

/// One GPT: the header at `lba`. False when it is not whole.
bool read_gpt_at(const Image& disk, std::uint64_t lba, std::uint32_t sector, DiskPartitions& table) {
  if (!inside(disk, lba * sector, sector))
    return false;
  const Bytes header = read_at(disk, lba * sector, sector);
  if (as_text(header).substr(0, 8) != "EFI PART")
    return false;
  const auto header_size = load_le<std::uint32_t>(header, 12);
  if (header_size < 92 || header_size > sector)
    return false;
  Bytes zeroed(header.begin(), header.begin() + header_size);
  store_le<std::uint32_t>(zeroed, 16, 0);
  if (!checksum_agrees(load_le<std::uint32_t>(header, 16), crc32_of(zeroed)))
    return false;
  const auto array_lba = load_le<std::uint64_t>(header, 72);
  const auto count = load_le<std::uint32_t>(header, 80);
  const auto entry = load_le<std::uint32_t>(header, 84);
  if (entry < 128 || entry > 4096 || entry % 8 != 0 || count > 4096 || array_lba > disk.size() / sector ||
      !inside(disk, array_lba * sector, std::uint64_t{count} * entry))
    return false;
  const Bytes array = read_at(disk, array_lba * sector, std::size_t{count} * entry);
  if (!checksum_agrees(load_le<std::uint32_t>(header, 88), crc32_of(array)))
    return false;
  for (unsigned i = 0; i < count && table.partitions.size() < most_partitions; i++) {
    const std::size_t at = std::size_t{i} * entry;
    const auto first = load_le<std::uint64_t>(array, at + 32), last = load_le<std::uint64_t>(array, at + 40);
    const bool used = !is_zero(ByteSpan(array).subspan(at, 16));
    if (!used || first > last)
      continue;
    if (last >= disk.size() / sector) {
      table.notes.push_back(fmt::format("partition {} lies outside of the disk", i + 1));
      continue;
    }
    DiskPartition p;
    p.number = i + 1;
    p.range = {first * sector, (last - first + 1) * sector};
    p.type = guid_text(array, at);
    p.uuid = guid_text(array, at + 16);
    p.label = label_text(array, at + 56, 36);
    table.partitions.push_back(std::move(p));
  }
  return true;
}

bool is_extended(std::uint8_t type) {
  return type == 0x05 || type == 0x0f || type == 0x85;
}

struct MbrEntry {
  std::uint8_t type;
  std::uint64_t start, count; ///< sectors
};

MbrEntry mbr_entry(ByteSpan sector, unsigned index) {
  const std::size_t at = 446 + std::size_t{16} * index;
  return {load_le<std::uint8_t>(sector, at + 4), load_le<std::uint32_t>(sector, at + 8),
          load_le<std::uint32_t>(sector, at + 12)};
}

class MbrReader {
 public:
  MbrReader(const Image& disk, std::uint32_t sector, DiskPartitions& table)
      : disk_(disk), sector_(sector), table_(table) {}

  void read(ByteSpan mbr) {
    disk_id_ = load_le<std::uint32_t>(mbr, 440);
    for (unsigned i = 0; i < 4; i++) {
      const MbrEntry e = mbr_entry(mbr, i);
      if (is_extended(e.type))
        read_logical(e.start);
      else
        add(i + 1, e.type, e.start, e.count);
    }
    std::ranges::sort(table_.partitions, {}, &DiskPartition::number);
  }

 private:
  void add(unsigned number, std::uint8_t type, std::uint64_t start, std::uint64_t count) {
    if (type == 0 || count == 0 || table_.partitions.size() >= most_partitions)
      return;
    const Range range{start * sector_, count * sector_};
    if (!inside(disk_, range.offset, range.length)) {
      table_.notes.push_back(fmt::format("partition {} lies outside of the disk", number));
      return;
    }
    table_.partitions.push_back(
        {number, range, fmt::format("0x{:02x}", type), fmt::format("{:08x}-{:02x}", disk_id_, number), {}});
  }

  /// The chain of extended boot records: entry 0 is relative to its record, entry 1 (the next) to the container.
  void read_logical(std::uint64_t container) {
    std::set<std::uint64_t> seen;
    std::uint64_t at = container;
    for (unsigned number = 5; number < most_partitions; number++) {
      if (!inside(disk_, at * sector_, 512) || !seen.insert(at).second) {
        table_.notes.emplace_back("the chain of logical partitions is damaged");
        return;
      }
      const Bytes record = read_at(disk_, at * sector_, 512);
      if (load_le<std::uint16_t>(record, 510) != 0xaa55)
        return;
      const MbrEntry partition = mbr_entry(record, 0), next = mbr_entry(record, 1);
      add(number, partition.type, at + partition.start, partition.count);
      if (!is_extended(next.type) || next.start == 0)
        return;
      at = container + next.start;
    }
  }

  const Image& disk_;
  std::uint32_t sector_;
  DiskPartitions& table_;
  std::uint32_t disk_id_ = 0;
};

/// The first 512 bytes; nothing when they are no MBR.
std::optional<Bytes> read_mbr(const Image& disk) {
  if (disk.size() < 512)
    return std::nullopt;
  Bytes mbr = read_at(disk, 0, 512);
  return load_le<std::uint16_t>(mbr, 510) == 0xaa55 ? std::optional(std::move(mbr)) : std::nullopt;
}

bool has_code(ByteSpan mbr) {
  constexpr std::size_t boot_code_size = 440;
  return !is_zero(mbr.first(boot_code_size));
}

} // namespace

DiskPartitions read_partitions(const Image& disk, std::uint32_t sector) {
  DiskPartitions table;
  if (disk.size() < 512)
    return table;
  const Bytes mbr = read_at(disk, 0, 512);
  const bool signature = load_le<std::uint16_t>(mbr, 510) == 0xaa55;
  const bool protective = signature && (mbr_entry(mbr, 0).type == 0xee || mbr_entry(mbr, 1).type == 0xee ||
                                        mbr_entry(mbr, 2).type == 0xee || mbr_entry(mbr, 3).type == 0xee);
  if (protective) {
    if (read_gpt_at(disk, 1, sector, table)) {
      table.kind = "gpt";
    } else if (disk.size() >= sector && read_gpt_at(disk, disk.size() / sector - 1, sector, table)) {
      table.kind = "gpt";
      table.notes.emplace_back("the first GPT is damaged: the backup at the end was used");
    } else {
      table.notes.emplace_back("the GPT is damaged");
    }
    return table;
  }
  // The boot sector of a filesystem on the whole disk carries the signature too: its status bytes tell.
  const auto status = [&](unsigned i) { return std::to_integer<unsigned>(mbr[446 + 16 * i]); };
  if (!signature || (status(0) | status(1) | status(2) | status(3)) & 0x7f)
    return table;
  MbrReader(disk, sector, table).read(mbr);
  if (!table.partitions.empty())
    table.kind = "dos";
  return table;
}

bool is_efi_system_type(std::string_view type) {
  return type == "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" || type == "0xef";
}

bool is_bios_boot_type(std::string_view type) {
  return type == "21686148-6449-6e6f-744e-656564454649";
}

bool has_boot_code(const Image& disk) {
  const auto mbr = read_mbr(disk);
  return mbr && has_code(*mbr);
}

bool made_for_uefi(const Image& disk) {
  const auto mbr = read_mbr(disk);
  if (!mbr || has_code(*mbr))
    return false;
  for (unsigned i = 0; i < 4; i++)
    if (const std::uint8_t type = mbr_entry(*mbr, i).type; type == 0xee || type == 0xef)
      return true;
  return false;
}

Content probe_content(const Image& disk, Range range) {
  constexpr std::uint64_t piece = 64U << 10;
  // Where libblkid looks: most signatures lie in the first 64 KiB, those of UDF and ZFS up to 1 MiB from the beginning,
  // that of VMFS at 2 MiB, those of ZFS and of RAID members in the last 512 KiB.
  constexpr std::uint64_t head = (1U << 20) + piece, vmfs = 2U << 20, tail = (512U << 10) + piece;
  Content content;
  if (range.length == 0 || !inside(disk, range.offset, range.length))
    return content;
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION // libblkid is slow, and checks checksums
  const Bytes start = read_at(disk, range.offset, std::min<std::uint64_t>(range.length, 8192));
  if (as_text(start).find("LABELONE") != std::string::npos)
    content.type = "LVM2_member";
  else if (as_text(start).find("\xfc\x4e\x2b\xa9") != std::string::npos)
    content.type = "linux_raid_member";
  return content;
#endif
  const UniqueFd fd(::memfd_create("kvmport-probe", MFD_CLOEXEC));
  if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(range.length)) != 0)
    throw system_error(errno, "can't make a temporary file in memory");
  Bytes buffer(piece);
  const auto take = [&](Range part) {
    for (std::uint64_t at = part.offset; at < std::min(part.end(), range.length); at += piece) {
      const auto bytes = std::span(buffer).first(std::min({piece, part.end() - at, range.length - at}));
      disk.read(range.offset + at, bytes);
      if (!is_zero(bytes))
        write_exact(fd.get(), at, bytes, "probe");
    }
  };
  take({0, head});
  take({vmfs, piece});
  take({range.length - std::min(tail, range.length), tail});

  const std::unique_ptr<blkid_struct_probe, decltype(&::blkid_free_probe)> probe(::blkid_new_probe(),
                                                                                 ::blkid_free_probe);
  if (!probe || ::blkid_probe_set_device(probe.get(), fd.get(), 0, static_cast<blkid_loff_t>(range.length)) != 0)
    throw Error("IO_ERROR", "libblkid can't be used");
  ::blkid_probe_enable_superblocks(probe.get(), 1);
  ::blkid_probe_set_superblocks_flags(probe.get(), BLKID_SUBLKS_TYPE | BLKID_SUBLKS_UUID | BLKID_SUBLKS_LABEL);
  if (::blkid_do_safeprobe(probe.get()) != 0)
    return content;
  const auto value = [&](const char* name) {
    const char* text = nullptr;
    return ::blkid_probe_lookup_value(probe.get(), name, &text, nullptr) == 0 ? std::string(text) : std::string();
  };
  return {value("TYPE"), value("UUID"), value("LABEL")};
}

} // namespace kvmport
