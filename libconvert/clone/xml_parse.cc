// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/xml_parse.h"

#include "base/error.h"
#include "libconvert/machine/text.h"
#include "libconvert/machine/xml_util.h"

#include <algorithm>
#include <expat.h>
#include <map>
#include <new>

namespace kvmport {
namespace {

/// What expat's callbacks, which may not throw, build and say.
struct Build {
  XML_Parser parser = nullptr;
  const std::string* text = nullptr;
  std::unique_ptr<XmlNode> root;
  struct Open {
    XmlNode* node;
    std::map<std::string, std::vector<XmlNode*>> children;
  };
  std::vector<Open> open;
  std::size_t elements = 0;
  std::size_t cdata_begin = 0;
  std::string refusal;

  ByteRange event() const {
    const auto begin = static_cast<std::size_t>(XML_GetCurrentByteIndex(parser));
    return {begin, begin + static_cast<std::size_t>(XML_GetCurrentByteCount(parser))};
  }
  void refuse(std::string why) {
    if (refusal.empty())
      refusal = std::move(why);
    XML_StopParser(parser, XML_FALSE);
  }
};

/// Positions in a start tag that expat has found to be well-formed; `values` are expat's, in the same order.
void locate_attributes(const std::string& text, XmlNode& node, const XML_Char** values) {
  std::size_t at = node.start_tag.begin + 1 + node.name.size();
  for (; *values != nullptr; values += 2) {
    XmlNodeAttribute attribute;
    attribute.name = values[0];
    attribute.value = values[1];
    attribute.whole.begin = at;
    const std::size_t open = text.find_first_of("\"'", at);
    const std::size_t close = text.find(text[open], open + 1);
    attribute.quoted = {open + 1, close};
    attribute.whole.end = at = close + 1;
    node.attributes.push_back(std::move(attribute));
  }
}

void on_start(void* data, const XML_Char* name, const XML_Char** attributes) {
  auto& build = *static_cast<Build*>(data);
  if (++build.elements > max_description_elements)
    return build.refuse("it has more than " + std::to_string(max_description_elements) + " elements");
  if (build.open.size() >= max_description_depth)
    return build.refuse("elements are nested deeper than " + std::to_string(max_description_depth));
  auto node = std::make_unique<XmlNode>();
  node->name = name;
  node->start_tag = build.event();
  node->line = XML_GetCurrentLineNumber(build.parser);
  locate_attributes(*build.text, *node, attributes);
  XmlNode* raw = node.get();
  if (build.open.empty()) {
    build.root = std::move(node);
  } else {
    Build::Open& parent = build.open.back();
    auto& same = parent.children[raw->name];
    same.push_back(raw);
    raw->index = same.size();
    raw->parent = parent.node;
    parent.node->children.push_back(std::move(node));
  }
  build.open.push_back({raw, {}});
}

void on_end(void* data, const XML_Char*) {
  auto& build = *static_cast<Build*>(data);
  Build::Open& open = build.open.back();
  XmlNode& node = *open.node;
  // For <a/> expat's end event is empty; its start event is the whole tag.
  node.whole = {node.start_tag.begin, std::max(node.start_tag.end, build.event().end)};
  for (const auto& [name, same] : open.children)
    for (XmlNode* child : same)
      child->of = same.size();
  build.open.pop_back();
}

void add_piece(XmlNode& node, ByteRange range) {
  if (!node.pieces.empty() && node.pieces.back().end == range.begin)
    node.pieces.back().end = range.end;
  else
    node.pieces.push_back(range);
}

void on_text(void* data, const XML_Char* text, int length) {
  auto& build = *static_cast<Build*>(data);
  XmlNode& node = *build.open.back().node;
  node.text.append(text, static_cast<std::size_t>(length));
  if (build.cdata_begin == 0)
    add_piece(node, build.event());
}

void on_cdata_start(void* data) {
  auto& build = *static_cast<Build*>(data);
  build.cdata_begin = build.event().begin;
}

void on_cdata_end(void* data) {
  auto& build = *static_cast<Build*>(data);
  add_piece(*build.open.back().node, {build.cdata_begin, build.event().end});
  build.cdata_begin = 0;
}

void on_doctype(void* data, const XML_Char*, const XML_Char*, const XML_Char*, int) {
  static_cast<Build*>(data)->refuse("it has a document type declaration");
}

void on_declaration(void* data, const XML_Char*, const XML_Char* encoding, int) {
  if (encoding != nullptr && lower(encoding) != "utf-8")
    static_cast<Build*>(data)->refuse("it is encoded in " + printable(encoding, 40) + ", not in UTF-8");
}

[[noreturn]] void invalid(const std::string& name, const std::string& why) {
  throw Error("DESCRIPTION_INVALID", name + " is not XML that can be edited", why,
              "give libvirt's own description, as `virsh dumpxml --inactive --security-info` writes it");
}

} // namespace

std::unique_ptr<XmlNode> parse_positions(const std::string& text, const std::string& name) {
  using namespace std::string_view_literals;
  if (text.size() > max_description)
    invalid(name, "it is larger than 16 MiB");
  const std::string_view start = std::string_view(text).substr(0, 2);
  if (start == "\xFF\xFE"sv || start == "\xFE\xFF"sv || start == "<\0"sv || start == "\0<"sv)
    invalid(name, "it is encoded in UTF-16, not in UTF-8");
  // The encoding is given, so that a declaration of another one can't change how bytes are counted.
  const std::unique_ptr<XML_ParserStruct, decltype(&XML_ParserFree)> parser{XML_ParserCreate("UTF-8"), XML_ParserFree};
  if (!parser)
    throw std::bad_alloc();
  Build build;
  build.parser = parser.get();
  build.text = &text;
  XML_SetUserData(parser.get(), &build);
  XML_SetElementHandler(parser.get(), on_start, on_end);
  XML_SetCharacterDataHandler(parser.get(), on_text);
  XML_SetCdataSectionHandler(parser.get(), on_cdata_start, on_cdata_end);
  XML_SetStartDoctypeDeclHandler(parser.get(), on_doctype);
  XML_SetXmlDeclHandler(parser.get(), on_declaration);
  if (XML_Parse(parser.get(), text.data(), static_cast<int>(text.size()), XML_TRUE) != XML_STATUS_OK) {
    if (!build.refusal.empty())
      invalid(name, build.refusal);
    invalid(name, std::string(XML_ErrorString(XML_GetErrorCode(parser.get()))) + " in line " +
                      std::to_string(XML_GetCurrentLineNumber(parser.get())));
  }
  return std::move(build.root);
}

} // namespace kvmport
