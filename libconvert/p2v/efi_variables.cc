// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/efi_variables.h"

#include "formats/chain.h"
#include "libconvert/machine/text.h"

#include <algorithm>
#include <fmt/format.h>

namespace kvmport {
namespace {

/// One node of a device path (10.3): type, sub-type, and what follows its header.
struct PathNode {
  unsigned type = 0, subtype = 0;
  ByteSpan data;
};

std::vector<PathNode> parse_device_path(ByteSpan path) {
  std::vector<PathNode> nodes;
  constexpr std::size_t header = 4, most = 64;
  while (path.size() >= header && nodes.size() < most) {
    const unsigned type = std::to_integer<unsigned>(path[0]), subtype = std::to_integer<unsigned>(path[1]);
    const std::size_t length = load_le<std::uint16_t>(path, 2);
    if (type == 0x7f || length < header || length > path.size())
      break;
    nodes.push_back({type, subtype, path.subspan(header, length - header)});
    path = path.subspan(length);
  }
  return nodes;
}

/// Appendix A: the first three fields are little-endian.
std::string guid_text(ByteSpan raw) {
  std::string digits = fmt::format("{:08x}{:04x}{:04x}", load_le<std::uint32_t>(raw, 0), load_le<std::uint16_t>(raw, 4),
                                   load_le<std::uint16_t>(raw, 6));
  for (std::size_t i = 8; i < 16; i++)
    digits += fmt::format("{:02x}", load_le<std::uint8_t>(raw, i));
  return parse_uuid(digits).value_or(std::string());
}

/// What a node says of the kind of the whole option; empty: nothing.
const char* kind_of(const PathNode& node) {
  constexpr unsigned messaging = 3, media = 4, bios_boot = 5;
  if (node.type == bios_boot)
    return "legacy";
  if (node.type == messaging) {
    switch (node.subtype) {
    case 5:
    case 15:
    case 16:
      return "usb";
    case 11:
    case 12:
    case 13:
    case 24:
      return "network"; // MAC, IPv4, IPv6, URI
    case 1:
    case 2:
    case 3:
    case 18:
    case 19:
    case 21:
    case 22:
    case 23:
    case 25:
    case 26:
    case 29:
      return "disk";
    default:
      return "";
    }
  }
  if (node.type == media)
    return node.subtype == 1 ? "disk" : node.subtype == 6 || node.subtype == 7 ? "firmware" : "";
  return "";
}

/// 10.3.5.1, Hard Drive; its signature is a GUID when its type is 2.
void read_hard_drive(const PathNode& node, FirmwareBootOption& option) {
  constexpr std::size_t signature = 20, type = 37;
  if (node.data.size() > type && std::to_integer<unsigned>(node.data[type]) == 2)
    option.partition = guid_text(node.data.subspan(signature, 16));
}

} // namespace

FirmwareBootOption parse_boot_option(std::uint16_t number, ByteSpan raw) {
  FirmwareBootOption option;
  option.number = number;
  option.kind = "other";
  constexpr std::size_t fixed = 6, active = 1;
  if (raw.size() < fixed)
    return option;
  option.active = (load_le<std::uint32_t>(raw, 0) & active) != 0;
  const std::size_t path_length = load_le<std::uint16_t>(raw, 4);
  const ByteSpan rest = raw.subspan(fixed);
  std::size_t end = 0;
  while (end + 2 <= rest.size() && load_le<std::uint16_t>(rest, end) != 0)
    end += 2;
  option.description = clean_utf8(utf16_text(rest.first(std::min(end, rest.size())), false));
  if (end + 2 > rest.size())
    return option;
  const ByteSpan behind = rest.subspan(end + 2);
  for (const PathNode& node : parse_device_path(behind.first(std::min(path_length, behind.size())))) {
    if (const std::string kind = kind_of(node); !kind.empty() && option.kind != "network")
      option.kind = kind;
    if (node.type == 4 && node.subtype == 1)
      read_hard_drive(node, option);
    if (node.type == 4 && node.subtype == 4) // 10.3.5.4, File Path
      option.file += clean_utf8(utf16_text(node.data.first(node.data.size() / 2 * 2), false));
  }
  return option;
}

std::vector<std::uint16_t> parse_boot_order(ByteSpan variable) {
  std::vector<std::uint16_t> order;
  for (std::size_t at = 0; at + 2 <= variable.size(); at += 2)
    order.push_back(load_le<std::uint16_t>(variable, at));
  return order;
}

} // namespace kvmport
