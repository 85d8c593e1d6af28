// SPDX-License-Identifier: Apache-2.0
#include "formats/vmdk_descriptor.h"

#include "formats/chain.h"
#include "formats/probe.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <iconv.h>

namespace kvmport::vmdk {
namespace {

constexpr std::string_view blanks = " \t\r\n";

std::string_view trim(std::string_view text) {
  const std::size_t first = text.find_first_not_of(blanks);
  if (first == std::string_view::npos)
    return {};
  return text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(), [](unsigned char c) { return std::tolower(c); });
  return result;
}

/// Takes the next word off `rest`.
std::string_view word(std::string_view& rest) {
  rest = trim(rest);
  const std::size_t end = std::min(rest.find_first_of(blanks), rest.size());
  const std::string_view result = rest.substr(0, end);
  rest.remove_prefix(end);
  return result;
}

template <class T> bool parse_number(std::string_view text, int base, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return error == std::errc{} && end == text.data() + text.size() && !text.empty();
}

class Parser {
 public:
  explicit Parser(const SourceFile& file) : file_(file) {}

  Descriptor parse(std::string_view text) {
    text = text.substr(0, text.find('\0'));
    while (!text.empty()) {
      const std::size_t end = text.find('\n');
      line_++;
      line(trim(text.substr(0, end)));
      text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    }
    check_type();
    return std::move(result_);
  }

 private:
  Error wrong(const std::string& what, std::string_view text) const {
    return corrupt(file_, "the VMDK descriptor " + what,
                   "line " + std::to_string(line_) + ": " + std::string(text.substr(0, 200)));
  }

  void line(std::string_view text) {
    if (text.empty() || text[0] == '#')
      return;
    std::string_view rest = text;
    const std::string first = lower(word(rest));
    const bool extent_like = first == "rw" || first == "rdonly" || first == "noaccess";
    if (extent_like && !trim(rest).starts_with('='))
      extent(text, first == "noaccess", rest);
    else if (const std::size_t equals = text.find('='); equals != std::string_view::npos)
      setting(lower(trim(text.substr(0, equals))), trim(text.substr(equals + 1)), text);
  }

  void extent(std::string_view text, bool no_access, std::string_view rest) {
    if (result_.extents.size() == max_extents)
      throw wrong("has more than " + std::to_string(max_extents) + " extents", text);
    ExtentLine extent;
    extent.no_access = no_access;
    if (!parse_number(word(rest), 10, extent.sectors) || extent.sectors == 0)
      throw wrong("has an extent without a size", text);
    result_.sectors += extent.sectors;
    if (extent.sectors > std::uint64_t{1} << 54 || result_.sectors > std::uint64_t{1} << 54)
      throw wrong("has extents that are too large", text);
    const std::string type = lower(word(rest));
    static constexpr std::string_view refused[] = {"vmfssparse", "sesparse", "vmfsrdm", "vmfsraw", "vsansparse"};
    if (type == "flat" || type == "vmfs")
      extent.type = ExtentType::flat;
    else if (type == "sparse")
      extent.type = ExtentType::sparse;
    else if (std::find(std::begin(refused), std::end(refused), type) != std::end(refused))
      throw unsupported_format(file_, type + " VMDK");
    else if (type != "zero")
      throw wrong("has an extent of an unknown type", text);
    if (extent.type != ExtentType::zero)
      extent_file(text, extent, rest);
    result_.extents.push_back(std::move(extent));
  }

  void extent_file(std::string_view text, ExtentLine& extent, std::string_view rest) const {
    const std::size_t open = rest.find('"'), close = rest.rfind('"');
    if (open == std::string_view::npos || close <= open + 1 || !trim(rest.substr(0, open)).empty())
      throw wrong("has an extent without a file name in quotes", text);
    extent.file = rest.substr(open + 1, close - open - 1);
    rest.remove_prefix(close + 1);
    const std::string_view offset = word(rest);
    if (offset.empty() || extent.type == ExtentType::sparse)
      return;
    if (!parse_number(offset, 10, extent.offset) || extent.offset > std::uint64_t{1} << 54)
      throw wrong("has an extent with a bad offset", text);
  }

  void setting(const std::string& key, std::string_view value, std::string_view text) {
    if (value.size() >= 2 && value.front() == '"' && value.back() == '"')
      value = value.substr(1, value.size() - 2);
    if (key == "createtype")
      result_.create_type = value;
    else if (key == "encoding")
      result_.encoding = value;
    else if (key == "parentfilenamehint")
      result_.parent_hint = value;
    else if (key == "ddb.adaptertype")
      result_.adapter = value;
    else if (key == "cid" && !parse_number(value, 16, result_.cid))
      throw wrong("has a bad CID", text);
    else if (key == "parentcid" && !parse_number(value, 16, result_.parent_cid))
      throw wrong("has a bad parentCID", text);
  }

  void check_type() const {
    const std::string type = lower(result_.create_type);
    static constexpr std::string_view read[] = {"monolithicsparse", "streamoptimized",    "twogbmaxextentsparse",
                                                "monolithicflat",   "twogbmaxextentflat", "vmfs",
                                                "vmfsthin",         "vmfspreallocated",   "vmfseagerzeroedthick"};
    if (type.empty())
      throw corrupt(file_, "the VMDK descriptor has no createType");
    if (std::find(std::begin(read), std::end(read), type) == std::end(read))
      throw unsupported_format(file_, result_.create_type + " VMDK");
  }

  const SourceFile& file_;
  Descriptor result_;
  unsigned line_ = 0;
};

} // namespace

Descriptor parse_descriptor(const SourceFile& file, std::string_view text) {
  if (text.starts_with("\xef\xbb\xbf"))
    text.remove_prefix(3);
  return Parser(file).parse(text);
}

std::optional<std::string> decoded_name(const std::string& name, const std::string& encoding) {
  const bool plain = std::all_of(name.begin(), name.end(), [](unsigned char c) { return c < 0x80; });
  if (plain || encoding.empty() || lower(encoding) == "utf-8" || encoding.size() > 64)
    return std::nullopt;
  const iconv_t converter = ::iconv_open("UTF-8", encoding.c_str());
  if (converter == reinterpret_cast<iconv_t>(-1))
    return std::nullopt;
  std::string in = name, out(name.size() * 4, '\0');
  char *from = in.data(), *to = out.data();
  std::size_t in_left = in.size(), out_left = out.size();
  const bool good = ::iconv(converter, &from, &in_left, &to, &out_left) != static_cast<std::size_t>(-1);
  ::iconv_close(converter);
  if (!good)
    return std::nullopt;
  out.resize(out.size() - out_left);
  return out;
}

} // namespace kvmport::vmdk
