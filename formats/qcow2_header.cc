// SPDX-License-Identifier: Apache-2.0
#include "formats/qcow2_format.h"

#include <algorithm>

namespace kvmport::qcow2 {
namespace {

[[noreturn]] void corrupt(const SourceFile& file, const std::string& what, const std::string& why = {}) {
  throw Error("IMAGE_CORRUPT", file.path().string() + ": " + what, why,
              "restore the image from a backup, or repair a copy of it with qemu-img check -r all");
}

std::string number(std::uint64_t value) {
  return std::to_string(value);
}

/// Bytes of the header; loads past what the version has are zero.
class Fields {
 public:
  explicit Fields(const SourceFile& file) : bytes_(v3_header_size + 8) {
    file.read(0, std::span(bytes_).first(std::min<std::uint64_t>(bytes_.size(), file.size())));
  }
  std::uint8_t u8(std::size_t at) const { return static_cast<std::uint8_t>(bytes_[at]); }
  std::uint32_t u32(std::size_t at) const { return load_be<std::uint32_t>(bytes_, at); }
  std::uint64_t u64(std::size_t at) const { return load_be<std::uint64_t>(bytes_, at); }

 private:
  Bytes bytes_;
};

void read_features(const SourceFile& file, const Fields& fields, std::uint64_t header_length, Header& header) {
  header.incompatible = fields.u64(72);
  header.autoclear = fields.u64(88);
  if ((header.incompatible & incompatible_corrupt) != 0)
    corrupt(file, "the image is marked corrupt (incompatible feature bit 1)");
  if ((header.incompatible & incompatible_data_file) != 0)
    throw Error("FORMAT_UNSUPPORTED", file.path().string() + ": the image keeps its data in an external data file",
                "incompatible feature bit 2", "convert it on its host with qemu-img convert first");
  constexpr std::uint64_t known =
      incompatible_dirty | incompatible_corrupt | incompatible_compression | incompatible_extended_l2;
  if (const std::uint64_t unknown = header.incompatible & ~known; unknown != 0)
    throw Error("FORMAT_UNSUPPORTED", file.path().string() + ": the image needs a feature that is not known here",
                "incompatible feature bit " + number(static_cast<unsigned>(std::countr_zero(unknown))));
  if ((header.incompatible & incompatible_dirty) != 0)
    header.notes.push_back("the dirty bit is set: reference counts may be stale, data is not affected");
  if (header_length > v3_header_size && header_length >= v3_header_size + 1) {
    const std::uint8_t type = fields.u8(104);
    if (type > static_cast<std::uint8_t>(CompressionType::zstd))
      throw Error("FORMAT_UNSUPPORTED", file.path().string() + ": unknown compression type " + number(type));
    if ((type != 0) != ((header.incompatible & incompatible_compression) != 0))
      corrupt(file, "the compression type contradicts the feature bits");
    header.compression = static_cast<CompressionType>(type);
  } else if ((header.incompatible & incompatible_compression) != 0) {
    corrupt(file, "the header is too short for its compression type");
  }
  if (header.extended() && header.cluster_bits < 14)
    corrupt(file, "clusters are too small for subclusters", "cluster bits " + number(header.cluster_bits));
}

/// Header extensions lie between the header and `end`; only the backing format matters to a reader.
void read_extensions(const SourceFile& file, std::uint64_t at, std::uint64_t end, Header& header) {
  constexpr std::uint32_t end_of_list = 0, backing_format = 0xe2792aca, bitmaps = 0x23852875;
  while (at + 8 <= end) {
    const Bytes head = file.read_bytes(at, 8);
    const auto type = load_be<std::uint32_t>(head, 0);
    const auto length = load_be<std::uint32_t>(head, 4);
    at += 8;
    if (type == end_of_list)
      return;
    if (length > end - at)
      corrupt(file, "a header extension is longer than the header", "at offset " + number(at - 8));
    if (type == backing_format) {
      if (length > 64)
        corrupt(file, "the name of the backing format is too long", number(length) + " bytes");
      header.backing_format = as_text(file.read_bytes(at, length));
    } else if (type == bitmaps) {
      header.notes.push_back("dirty bitmaps are present and are not carried over");
    }
    at = std::min(end, at + round_up(length, 8));
  }
}

void read_backing(const SourceFile& file, std::uint64_t offset, std::uint32_t length, Header& header) {
  if (length > max_backing_name || offset > header.cluster_size() || length > header.cluster_size() - offset)
    corrupt(file, "the name of the backing file does not lie in the header",
            number(length) + " bytes at offset " + number(offset));
  header.backing_name = as_text(file.read_bytes(offset, length));
  header.has_backing = !header.backing_name.empty();
  if (header.backing_name.find('\0') != std::string::npos)
    corrupt(file, "the name of the backing file contains a NUL");
}

void check_tables(const SourceFile& file, const Fields& fields, Header& header) {
  const std::uint64_t cluster = header.cluster_size();
  const std::uint32_t l1_size = fields.u32(36);
  header.l1_offset = fields.u64(40);
  const std::uint64_t per_l1 = header.l2_entries() * cluster;
  const std::uint64_t needed = div_round_up(header.size, per_l1);
  if (needed > l1_size)
    corrupt(file, "the L1 table is too small for the disk",
            number(l1_size) + " entries, " + number(needed) + " are needed for " + number(header.size) + " bytes");
  if (std::uint64_t{l1_size} * 8 > max_l1_bytes)
    corrupt(file, "the L1 table is too large", number(l1_size) + " entries");
  if (header.l1_offset % cluster != 0)
    corrupt(file, "the L1 table is not aligned to a cluster", "offset " + number(header.l1_offset));
  if (l1_size != 0 && header.l1_offset < cluster)
    corrupt(file, "the L1 table lies in the header");
  file.require(header.l1_offset, std::uint64_t{l1_size} * 8, "the end of its L1 table");
  header.l1_entries = static_cast<std::uint32_t>(needed);

  const std::uint64_t refcount_offset = fields.u64(48);
  const std::uint64_t refcount_bytes = fields.u32(56) * cluster;
  if (refcount_bytes > max_refcount_table_bytes)
    corrupt(file, "the reference count table is too large", number(fields.u32(56)) + " clusters");
  if (refcount_offset % cluster != 0)
    corrupt(file, "the reference count table is not aligned to a cluster", "offset " + number(refcount_offset));
  header.snapshots = fields.u32(60);
  if (header.snapshots > max_snapshots)
    corrupt(file, "too many internal snapshots", number(header.snapshots));
  if (header.snapshots != 0) {
    const std::uint64_t snapshots_offset = fields.u64(64);
    if (snapshots_offset % cluster != 0)
      corrupt(file, "the snapshot table is not aligned to a cluster", "offset " + number(snapshots_offset));
    file.require(snapshots_offset, std::uint64_t{header.snapshots} * 40, "the end of its snapshot table");
    header.notes.push_back(number(header.snapshots) + " internal snapshot(s) present; the current state is read");
  }
}

} // namespace

Header read_header(const SourceFile& file) {
  if (file.size() < 8)
    throw Error("FORMAT_UNKNOWN", file.path().string() + " is not a qcow2 image");
  const Fields fields(file);
  if (fields.u32(0) != magic)
    throw Error("FORMAT_UNKNOWN", file.path().string() + " is not a qcow2 image");
  Header header;
  header.version = fields.u32(4);
  if (header.version != 2 && header.version != 3)
    throw Error("FORMAT_UNSUPPORTED",
                file.path().string() + ": qcow version " + number(header.version) + " is not supported",
                "versions 2 and 3 are", "convert it with qemu-img convert first");
  file.require(0, header.version == 2 ? v2_header_size : v3_header_size, "the end of its header");
  header.cluster_bits = fields.u32(20);
  if (header.cluster_bits < min_cluster_bits || header.cluster_bits > max_cluster_bits)
    corrupt(file, "impossible cluster size", "cluster bits " + number(header.cluster_bits));
  header.size = fields.u64(24);
  if (header.size > std::uint64_t{1} << 62)
    corrupt(file, "impossible disk size", number(header.size) + " bytes");
  if (const std::uint32_t method = fields.u32(32); method != 0) {
    if (method > 2)
      throw Error("FORMAT_UNSUPPORTED", file.path().string() + ": unknown encryption method " + number(method));
    throw Error("IMAGE_ENCRYPTED",
                file.path().string() + ": the image is encrypted (" + (method == 1 ? "AES" : "LUKS") + ")", {},
                "decrypt it on its host first: qemu-img convert with its secret");
  }
  std::uint64_t header_length = v2_header_size;
  if (header.version == 3) {
    header_length = fields.u32(100);
    if (header_length < v3_header_size || header_length % 8 != 0 || header_length > header.cluster_size())
      corrupt(file, "impossible header length", number(header_length));
    file.require(0, header_length, "the end of its header");
    if (fields.u32(96) > 6)
      corrupt(file, "impossible reference count width", "order " + number(fields.u32(96)));
    read_features(file, fields, header_length, header);
  }
  check_tables(file, fields, header);
  const std::uint64_t backing_offset = fields.u64(8);
  if (backing_offset != 0)
    read_backing(file, backing_offset, fields.u32(16), header);
  const std::uint64_t extensions_end =
      std::min({file.size(), header.cluster_size(), backing_offset != 0 ? backing_offset : ~std::uint64_t{0}});
  read_extensions(file, header_length, extensions_end, header);
  return header;
}

} // namespace kvmport::qcow2
