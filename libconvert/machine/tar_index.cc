// SPDX-License-Identifier: Apache-2.0
#include "libconvert/machine/tar_index.h"

#include "libconvert/machine/text.h"

#include <array>
#include <limits>
#include <set>

namespace kvmport {
namespace {

constexpr std::uint64_t block = 512;
constexpr std::size_t max_members = 10'000;
constexpr std::uint64_t max_extension = 1U << 20; ///< bytes of one pax or long-name member
using Header = std::array<std::byte, block>;

std::string field(const Header& header, std::size_t offset, std::size_t length) {
  std::string text(as_text(ByteSpan(header).subspan(offset, length)));
  return text.substr(0, text.find('\0'));
}

/// Octal text, or base-256 when the top bit is set. Nothing for negative and malformed numbers.
std::optional<std::uint64_t> number(const Header& header, std::size_t offset, std::size_t length) {
  std::uint64_t value = 0;
  const auto first = static_cast<unsigned char>(header[offset]);
  if ((first & 0x80) != 0) {
    if (first != 0x80)
      return std::nullopt;
    for (std::size_t i = 1; i < length; i++) {
      if (value >> 55 != 0)
        return std::nullopt;
      value = value << 8 | static_cast<unsigned char>(header[offset + i]);
    }
    return value;
  }
  const std::string text = field(header, offset, length);
  for (char c : trimmed(text)) {
    if (c < '0' || c > '7' || value >> 60 != 0)
      return std::nullopt;
    value = value * 8 + static_cast<std::uint64_t>(c - '0');
  }
  return value;
}

bool checksum_matches(const Header& header) {
  std::int64_t plain = 0, with_sign = 0;
  for (std::size_t i = 0; i < block; i++) {
    const bool own = i >= 148 && i < 156; // the checksum itself counts as spaces
    plain += own ? ' ' : static_cast<unsigned char>(header[i]);
    with_sign += own ? ' ' : static_cast<signed char>(header[i]);
  }
  const auto stored = number(header, 148, 8);
  return stored && (static_cast<std::int64_t>(*stored) == plain || static_cast<std::int64_t>(*stored) == with_sign);
}

Error damaged(const std::string& archive, std::uint64_t at, const std::string& why) {
  return Error("DESCRIPTION_INVALID", archive + " is a damaged tar archive",
               why + " (offset " + std::to_string(at) + ")", "copy the file again from its origin");
}

/// What extension members say about the next real one.
struct Extension {
  std::optional<std::string> name;
  std::optional<std::uint64_t> size;
  bool sparse = false;
};

/// pax records: "LENGTH KEY=VALUE\n".
void read_pax(const std::string& text, Extension& extension, const std::string& archive, std::uint64_t at) {
  for (std::size_t from = 0; from < text.size() && text[from] != '\0';) {
    const std::size_t space = text.find(' ', from);
    const auto length = space == std::string::npos ? std::nullopt : parse_number(text.substr(from, space - from));
    if (!length || *length > text.size() - from || *length < space - from + 3 || text[from + *length - 1] != '\n')
      throw damaged(archive, at, "a pax record is malformed");
    const std::string record = text.substr(space + 1, from + *length - 1 - (space + 1));
    const std::size_t equals = record.find('=');
    if (equals == std::string::npos)
      throw damaged(archive, at, "a pax record is malformed");
    const std::string key = record.substr(0, equals), value = record.substr(equals + 1);
    if (key == "path")
      extension.name = value;
    else if (key == "size" && !(extension.size = parse_number(value)))
      throw damaged(archive, at, "a pax size is not a number");
    else if (key.rfind("GNU.sparse.", 0) == 0)
      extension.sparse = true;
    from += *length;
  }
}

void check_name(const std::string& name, char type, const std::string& archive) {
  const std::string shown = printable(name);
  if (type == '1' || type == '2')
    throw Error("PATH_NOT_ALLOWED", archive + ": the member " + shown + " is a link", {},
                "make the archive again with the file itself");
  if (type != '0' && type != '\0' && type != '7')
    throw Error("DESCRIPTION_INVALID", archive + ": the member " + shown + " is not a regular file");
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos ||
      name.find('\0') != std::string::npos)
    throw Error("PATH_NOT_ALLOWED", archive + ": the member name " + shown + " is a path", {},
                "an OVA holds plain files without directories");
}

/// The name in the header itself: ustar's prefix counts only with ustar's own magic (GNU uses those bytes otherwise).
std::string header_name(const Header& header) {
  const std::string name = field(header, 0, 100);
  if (as_text(ByteSpan(header).subspan(257, 6)) == std::string_view("ustar\0", 6))
    if (const std::string prefix = field(header, 345, 155); !prefix.empty())
      return prefix + "/" + name;
  return name;
}

} // namespace

bool looks_like_tar(int fd) {
  Header header;
  return file_size(fd) >= block && read_some(fd, 0, header, "archive") == block && !is_zero(header) &&
         as_text(ByteSpan(header).subspan(257, 5)) == "ustar" && checksum_matches(header);
}

std::vector<TarMember> index_tar(int fd, const std::string& archive, std::vector<std::string>& notes) {
  const std::uint64_t size = file_size(fd);
  std::vector<TarMember> members;
  std::set<std::string> seen;
  Extension extension;
  std::uint64_t at = 0;
  for (;;) {
    if (at >= size) {
      notes.push_back("the archive has no end mark");
      return members;
    }
    Header header;
    read_exact(fd, at, header, archive);
    if (is_zero(header))
      return members;
    if (!checksum_matches(header))
      throw damaged(archive, at, "the checksum of a header is wrong");
    const char type = static_cast<char>(header[156]);
    auto length = number(header, 124, 12);
    if (!length)
      throw damaged(archive, at, "a size is not a number");
    const bool is_extension = type == 'x' || type == 'g' || type == 'L' || type == 'K';
    if (!is_extension && extension.size)
      length = extension.size;
    const std::uint64_t data = at + block;
    if (*length > size - data)
      throw Error("DISK_TRUNCATED", archive + " ends too early",
                  "the member at offset " + std::to_string(at) + " needs " + std::to_string(*length) + " bytes, " +
                      std::to_string(size - data) + " are there",
                  "copy the file again from its origin");
    // The padding after the last member may be missing.
    at = data + std::min(round_up(*length, block), round_up(size - data, block));
    if (is_extension) {
      if (*length > max_extension)
        throw damaged(archive, data, "an extension header is too large");
      std::string text(*length, '\0');
      read_exact(fd, data, std::as_writable_bytes(std::span(text)), archive);
      if (type == 'x')
        read_pax(text, extension, archive, data);
      else if (type == 'L')
        extension.name = text.substr(0, text.find('\0'));
      continue;
    }
    std::string name = extension.name.value_or(header_name(header));
    const bool sparse = extension.sparse || type == 'S';
    extension = {};
    if (name.rfind("./", 0) == 0)
      name.erase(0, 2);
    if (type == '5' && (name.empty() || name == "."))
      continue;
    if (sparse)
      throw Error("DESCRIPTION_UNSUPPORTED", archive + ": the member " + printable(name) + " is stored sparse", {},
                  "make the archive again without --sparse");
    check_name(name, type, archive);
    if (!seen.insert(name).second)
      throw Error("DESCRIPTION_INVALID", archive + " holds the member " + printable(name) + " twice");
    if (members.size() >= max_members)
      throw Error("DESCRIPTION_INVALID", archive + " holds more than " + std::to_string(max_members) + " members");
    members.push_back({name, {data, *length}});
  }
}

} // namespace kvmport
