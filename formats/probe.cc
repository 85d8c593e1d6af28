// SPDX-License-Identifier: Apache-2.0
#include "formats/probe.h"

#include <algorithm>
#include <cctype>

namespace kvmport {
namespace {

using namespace std::string_view_literals;

struct Magic {
  std::uint64_t offset;
  std::string_view bytes;
  const char* format;
};

// Signatures that are long or odd enough to stand alone. Names that open_format() does not know are refused by name.
constexpr Magic magics[] = {
    {0, "vhdxfile"sv, "vhdx"},
    {0, "conectix"sv, "vhd"},
    {0, "COWD\1\0\0\0"sv, "vmfsSparse VMDK"},
    {0, "\xbe\xba\xfe\xca\0\0\0\0"sv, "seSparse VMDK"},
    {0, "QED\0"sv, "qed"},
    {0, "WithoutFreeSpace"sv, "parallels"},
    {0, "WithouFreSpacExt"sv, "parallels"},
    {0, "EVF\x09\x0d\x0a\xff\0"sv, "ewf"},
    {0, "EVF2\x0d\x0a\x81\0"sv, "ewf"},
    {0, "Bochs Virtual HD Image"sv, "bochs"},
    {0, "#!/bin/sh\n#V2.0 Format\n"sv, "cloop"},
    {0, "\x1f\x8b\x08"sv, "gzip"},
    {0, "BZh91AY&SY"sv, "bzip2"},
    {0,
     "\xfd"
     "7zXZ\0"sv,
     "xz"},
    {0, "\x28\xb5\x2f\xfd"sv, "zstd"},
    {0, "PK\3\4"sv, "zip"},
    {0, "7z\xbc\xaf\x27\x1c"sv, "7z"},
    {257, "ustar"sv, "tar"},
};

bool has(ByteSpan head, const Magic& magic) {
  return head.size() >= magic.offset + magic.bytes.size() &&
         as_text(head.subspan(magic.offset, magic.bytes.size())) == magic.bytes;
}

/// A VMDK descriptor: text whose first line, after blank lines, is the comment that VMware writes.
bool is_descriptor(ByteSpan head) {
  std::string_view text = as_text(head);
  if (text.starts_with("\xef\xbb\xbf"))
    text.remove_prefix(3);
  const std::size_t start = text.find_first_not_of(" \t\r\n");
  constexpr std::string_view wanted = "# disk descriptorfile";
  if (start == std::string_view::npos || text.size() - start < wanted.size())
    return false;
  return std::equal(wanted.begin(), wanted.end(), text.begin() + static_cast<std::ptrdiff_t>(start),
                    [](char a, char b) { return a == std::tolower(static_cast<unsigned char>(b)); });
}

bool has_dmg_trailer(const SourceFile& file) {
  if (file.size() < 512)
    return false;
  const Bytes tail = file.read_bytes(file.size() - 512, 12);
  return as_text(tail).starts_with("koly") && load_be<std::uint32_t>(tail, 4) == 4 &&
         load_be<std::uint32_t>(tail, 8) == 512;
}

bool has_vhd_trailer(const SourceFile& file) {
  if (file.size() < 512)
    return false;
  const Bytes tail = file.read_bytes(file.size() - 512, 512);
  return is_vhd_footer(tail) || is_vhd_footer(ByteSpan(tail).subspan(1));
}

} // namespace

bool is_vhd_footer(ByteSpan bytes) {
  // Virtual PC before 2004 wrote 511 bytes.
  if (bytes.size() < 511 || as_text(bytes.first(8)) != "conectix")
    return false;
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i < bytes.size(); i++)
    if (i < 64 || i >= 68)
      sum += std::to_integer<std::uint32_t>(bytes[i]);
  return ~sum == load_be<std::uint32_t>(bytes, 64);
}

std::string probe_content(const SourceFile& file) {
  if (file.size() == 0)
    throw Error("FORMAT_UNKNOWN", file.path().string() + " is empty", {}, "copy it again from its source");
  const Bytes head = file.read_bytes(0, std::min<std::uint64_t>(file.size(), 4096));
  std::vector<std::string> found;
  const auto add = [&](const std::string& format) {
    if (std::find(found.begin(), found.end(), format) == found.end())
      found.push_back(format);
  };
  for (const Magic& magic : magics)
    if (has(head, magic))
      add(magic.format);
  if (head.size() >= 8 && as_text(ByteSpan(head).first(4)) == "QFI\xfb")
    add(load_be<std::uint32_t>(head, 4) == 1 ? "qcow1" : "qcow2");
  if ((head.size() >= 8 && as_text(ByteSpan(head).first(4)) == "KDMV") || is_descriptor(head))
    add("vmdk");
  if (head.size() >= 72 && load_le<std::uint32_t>(head, 64) == 0xbeda107fU)
    add("vdi");
  if (has_vhd_trailer(file))
    add("vhd");
  if (has_dmg_trailer(file))
    add("dmg");
  if (found.size() > 1) {
    std::string list = found[0];
    for (std::size_t i = 1; i < found.size(); i++)
      list += ", " + found[i];
    throw Error("FORMAT_AMBIGUOUS", file.path().string() + " looks like several formats at once", list,
                "name the right one with --input-format; a raw disk whose guest wrote such bytes is \"raw\"");
  }
  return found.empty() ? "raw" : found[0];
}

Error unsupported_format(const SourceFile& file, const std::string& name) {
  std::string hint = "convert it to one of raw, qcow2, vmdk, vdi, vhd, vhdx with the tool that made it";
  if (name == "gzip" || name == "bzip2" || name == "xz" || name == "zstd" || name == "zip" || name == "7z")
    hint = "decompress it first";
  else if (name == "tar")
    hint = "an OVA is given to `kvm-v2v convert`; unpack any other archive first";
  else if (name == "qcow1" || name == "qed" || name == "parallels" || name == "dmg" || name == "bochs" ||
           name == "cloop")
    hint = "qemu-img convert -O qcow2 can read it";
  else if (name.ends_with("VMDK"))
    hint = "export it with vmkfstools -i or ovftool";
  return {"FORMAT_UNSUPPORTED", file.path().string() + " is of a format that is not read", name, hint};
}

} // namespace kvmport
