// SPDX-License-Identifier: Apache-2.0
#include "libconvert/machine/tar_index.h"
#include "libconvert/machine/text.h"
#include "libconvert/machine/xml_util.h"
#include "libconvert/source/source.h"

#include <algorithm>
#include <array>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

bool starts_like_xml(std::string_view head) {
  using namespace std::string_view_literals;
  if (head.substr(0, 3) == "\xEF\xBB\xBF"sv)
    head.remove_prefix(3);
  if (head.substr(0, 2) == "\xFF\xFE"sv || head.substr(0, 2) == "\xFE\xFF"sv)
    return head.substr(2, 4).find('<') != std::string_view::npos;
  if (head.substr(0, 4) == "<\0?\0"sv || head.substr(0, 4) == "\0<\0?"sv)
    return true;
  head = trimmed(head);
  return head.size() > 2 && head[0] == '<' &&
         (head[1] == '?' || head[1] == '!' || std::isalpha(static_cast<unsigned char>(head[1])) != 0);
}

SourceKind xml_kind(const fs::path& path) {
  const auto document = parse_xml(read_file(path, max_description), path.string());
  const std::string_view root = local_name(*document->RootElement());
  if (root == "Envelope")
    return SourceKind::ovf;
  if (root == "VirtualBox")
    return SourceKind::vbox;
  if (root == "domain" || root == "domstatus" || root == "domainsnapshot")
    return SourceKind::libvirt;
  throw Error("DESCRIPTION_UNSUPPORTED", path.string() + " is XML, but no machine description that is known",
              "its root element is " + printable(root, 80), "give an OVF, libvirt or VirtualBox description");
}

/// Text of `key = "value"` lines that are about a machine (a VMDK descriptor has such lines too).
bool looks_like_vmx(std::string_view head) {
  if (head.find('\0') != std::string_view::npos || head.find("# Disk DescriptorFile") != std::string_view::npos)
    return false;
  const std::string text = lower(head);
  for (const char* key : {"config.version", "virtualhw.version", "displayname", "guestos", ".encoding", "memsize"})
    for (std::size_t at = text.find(key); at != std::string::npos; at = text.find(key, at + 1)) {
      const std::size_t after = text.find_first_not_of(" \t", at + std::string_view(key).size());
      const bool line_start =
          at == 0 || text[at - 1] == '\n' || text[at - 1] == ' ' || text[at - 1] == '\t' || text[at - 1] == '\xBF';
      if (line_start && after != std::string::npos && text[after] == '=')
        return true;
    }
  return false;
}

} // namespace

SourceKind source_kind(const fs::path& path) {
  const UniqueFd fd = open_source(path);
  std::array<char, 65536> buffer;
  const std::size_t n = read_some(fd.get(), 0, std::as_writable_bytes(std::span(buffer)), path.string());
  const std::string_view head(buffer.data(), n);
  if (starts_like_xml(head))
    return xml_kind(path);
  if (looks_like_tar(fd.get()))
    return SourceKind::ova;
  if (looks_like_vmx(head) || (lower(path.extension().string()) == ".vmx" && head.find('\0') == std::string_view::npos))
    return SourceKind::vmx;
  static constexpr std::pair<std::string_view, std::string_view> packed[] = {{"\x1F\x8B\x08", "gzip"},
                                                                             {"PK\x03\x04", "zip"},
                                                                             {"\xFD"
                                                                              "7zXZ",
                                                                              "xz"},
                                                                             {"\x28\xB5\x2F\xFD", "zstd"},
                                                                             {"7z\xBC\xAF\x27\x1C", "7-Zip"},
                                                                             {"BZh", "bzip2"}};
  for (const auto& [magic, name] : packed)
    if (head.substr(0, magic.size()) == magic)
      throw Error("DESCRIPTION_UNSUPPORTED", path.string() + " is packed with " + std::string(name), {},
                  "unpack it first, then give what was in it");
  return SourceKind::disk;
}

} // namespace kvmport
