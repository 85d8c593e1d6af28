// SPDX-License-Identifier: Apache-2.0
// The text that describes a VMDK: identity, parent, and the list of its extents. VMware "Virtual Disk Format 5.0"
// (Technical Note, 2011), "The Descriptor File"; where real files differ from it, this follows the files.
#pragma once

#include "formats/readers.h"

#include <string>
#include <string_view>
#include <vector>

namespace kvmport::vmdk {

constexpr std::uint64_t sector = 512;
/// parentCID of a disk that has no parent.
constexpr std::uint32_t no_parent = 0xffffffff;
/// A descriptor longer than this, or with more extents, is refused.
constexpr std::uint64_t max_descriptor_bytes = 4U << 20;
constexpr std::size_t max_extents = 4096;

enum class ExtentType { flat, sparse, zero };

struct ExtentLine {
  std::uint64_t sectors = 0;
  ExtentType type = ExtentType::zero;
  bool no_access = false;   ///< NOACCESS: its bytes read as zeros, its file is not opened
  std::string file;         ///< as written; empty for zero
  std::uint64_t offset = 0; ///< first sector inside a flat file
};

struct Descriptor {
  std::string create_type;
  std::string encoding; ///< of the names, "UTF-8" when not said
  std::string adapter;  ///< ddb.adapterType
  std::string parent_hint;
  std::uint32_t cid = 0, parent_cid = no_parent;
  std::vector<ExtentLine> extents;
  std::uint64_t sectors = 0; ///< sum over the extents; fits into 2^54
};

/// Parses `text` (up to its first NUL) that stands in `file`. Errors: IMAGE_CORRUPT names the line; FORMAT_UNSUPPORTED
/// for extents and disk types that are not read (raw devices, vmfsSparse, seSparse, …).
Descriptor parse_descriptor(const SourceFile& file, std::string_view text);

/// `name` converted from the descriptor's encoding to UTF-8; nothing when it is the same or can't be converted.
std::optional<std::string> decoded_name(const std::string& name, const std::string& encoding);

} // namespace kvmport::vmdk
