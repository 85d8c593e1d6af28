// SPDX-License-Identifier: Apache-2.0
// Headers, region tables and metadata of a VHDX. [MS-VHDX] 2.2 "Header Section", 2.6 "Metadata Region".
#pragma once

#include "formats/vhdx_log.h"

#include <map>
#include <string>
#include <vector>

namespace kvmport::vhdx {

/// All that the metadata says, checked; the log has been replayed over `file`.
struct Layout {
  std::uint64_t disk_size = 0;
  std::uint32_t block_size = 0, logical_sector = 0;
  bool has_parent = false, fixed = false;
  std::string data_write_guid;               ///< "{…}" in lower case: what children name as their parent
  Range table;                               ///< block allocation table, inside the file
  std::vector<Range> used;                   ///< log, table and metadata
  std::map<std::string, std::string> parent; ///< the parent locator's keys and values
  std::vector<std::string> notes;

  /// Payload blocks that one sector bitmap block describes.
  std::uint64_t chunk_ratio() const { return (std::uint64_t{1} << 23) * logical_sector / block_size; }
  std::uint64_t blocks() const { return div_round_up(disk_size, block_size); }
};

/// Reads headers, repeats the log over `file`, reads region table and metadata. Errors: IMAGE_CORRUPT, DISK_TRUNCATED,
/// FORMAT_UNSUPPORTED for what a newer version requires.
Layout read_layout(PatchedFile& file);

} // namespace kvmport::vhdx
