// SPDX-License-Identifier: Apache-2.0
// Reads the system files of an NTFS volume: boot sector, MFT records, attributes, data runs. Linux-NTFS documentation
// 0.5, "Files: $Boot", "Concepts: FILE Record, Fixup, Attribute Header, Data Runs". What is damaged is a Doubt.
#pragma once

#include "formats/part.h"

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace kvmport::ntfs {

struct Volume {
  std::uint64_t cluster = 0, clusters = 0; ///< bytes of one, number
  std::uint64_t mft = 0, mirror = 0;       ///< clusters
  std::uint32_t record = 0;                ///< bytes of an MFT record
};
Volume check_boot_sector(ByteSpan boot, const Part& part);

enum class Attribute : std::uint32_t {
  list = 0x20,
  volume_information = 0x70,
  data = 0x80,
  index_root = 0x90,
  index_allocation = 0xa0,
  bitmap = 0xb0,
};

/// One stretch of clusters.
struct Run {
  std::uint64_t start = 0, count = 0;
};

struct Value {
  bool resident = true;
  Bytes bytes;           ///< resident
  std::vector<Run> runs; ///< else: from the first cluster on, without holes, inside of the volume
  std::uint64_t size = 0;
};

/// Undoes the fixup of a record or index block, whose last two bytes of each 512 are kept in a list. Doubt when one
/// doesn't fit: it was written in part.
void undo_fixup(std::span<std::byte> block);

/// An MFT record in use, number `number`, which lies whole in `bytes`.
class Record {
 public:
  Record(const Volume& volume, Bytes bytes, std::uint64_t number);
  bool has(Attribute type) const;
  /// The attribute of this type and name ("", "$I30"), or nothing. Only attributes that lie whole in this record, not
  /// compressed, not encrypted, not sparse, written to their end.
  std::optional<Value> find(Attribute type, std::string_view name = {}) const;
  ByteSpan bytes() const { return bytes_; }

 private:
  template <typename Visit> void each(Visit visit) const;
  Value read_value(ByteSpan attribute) const;
  const Volume& volume_;
  Bytes bytes_;
};

/// Bytes of a value.
Bytes read_value(const Part& part, const Volume& volume, const Value& value, std::uint64_t offset, std::size_t length);

/// The file table's data, from its own first record.
Value find_file_table(const Part& part, const Volume& volume);
Record read_record(const Part& part, const Volume& volume, const Value& table, std::uint64_t number);
/// Calls `visit` with the number and the name (lower case; what is no ASCII is '?') of each entry of the root
/// directory, in no order; a file may have several names.
void each_root_entry(const Part& part, const Volume& volume, const Value& table,
                     const std::function<void(std::uint64_t number, const std::string& name)>& visit);

} // namespace kvmport::ntfs

namespace kvmport {

/// Whether Windows is installed on the NTFS volume in `range`: its root directory has a "Windows". Throws a Doubt when
/// the volume can't be understood.
bool ntfs_holds_windows(const Image& image, Range range);

} // namespace kvmport
