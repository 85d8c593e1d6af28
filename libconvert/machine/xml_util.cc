// SPDX-License-Identifier: Apache-2.0
#include "libconvert/machine/xml_util.h"

#include "base/error.h"
#include "libconvert/machine/text.h"

#include <algorithm>

namespace kvmport {
namespace {

[[noreturn]] void invalid(const std::string& name, const std::string& why) {
  throw Error("DESCRIPTION_INVALID", name + " is not XML that can be read", why,
              "export the machine's description again");
}

/// The encoding that the XML declaration names; "" without one.
std::string declared_encoding(std::string_view text) {
  if (text.substr(0, 5) != "<?xml")
    return "";
  const std::string_view declaration = text.substr(0, std::min(text.find("?>"), std::size_t{400}));
  const std::size_t at = declaration.find("encoding");
  if (at == std::string_view::npos)
    return "";
  const std::size_t open = declaration.find_first_of("\"'", at);
  if (open == std::string_view::npos)
    return "";
  const std::size_t close = declaration.find(declaration[open], open + 1);
  return close == std::string_view::npos ? "" : lower(declaration.substr(open + 1, close - open - 1));
}

std::string decoded(const std::string& text, const std::string& name) {
  const std::string_view view = text;
  std::string encoding = "utf-8";
  std::size_t skip = 0;
  using namespace std::string_view_literals;
  if (view.substr(0, 3) == "\xEF\xBB\xBF"sv)
    skip = 3;
  else if (view.substr(0, 2) == "\xFF\xFE"sv || view.substr(0, 2) == "<\0"sv)
    encoding = "utf-16le", skip = view[0] == '<' ? 0 : 2;
  else if (view.substr(0, 2) == "\xFE\xFF"sv || view.substr(0, 2) == "\0<"sv)
    encoding = "utf-16be", skip = view[0] == '\0' ? 0 : 2;
  else if (std::string declared = declared_encoding(view); !declared.empty() && declared.find("utf-16") != 0)
    encoding = declared;
  auto converted = to_utf8(view.substr(skip), encoding);
  if (!converted)
    invalid(name, "its bytes are not valid " + printable(encoding, 40));
  if (converted->find('\0') != std::string::npos)
    invalid(name, "it contains NUL characters");
  return *converted;
}

void check_depth(const XmlElement& element, int depth, const std::string& name) {
  if (depth > max_description_depth)
    invalid(name, "elements are nested deeper than " + std::to_string(max_description_depth));
  for (const XmlElement* e = element.FirstChildElement(); e != nullptr; e = e->NextSiblingElement())
    check_depth(*e, depth + 1, name);
}

std::string_view without_prefix(const char* name) {
  const std::string_view view = name == nullptr ? "" : name;
  const std::size_t colon = view.rfind(':');
  return colon == std::string_view::npos ? view : view.substr(colon + 1);
}

const char* find_attribute(const XmlElement* element, std::string_view name) {
  if (element == nullptr)
    return nullptr;
  for (const tinyxml2::XMLAttribute* a = element->FirstAttribute(); a != nullptr; a = a->Next())
    if (without_prefix(a->Name()) == name)
      return a->Value();
  return nullptr;
}

} // namespace

std::unique_ptr<tinyxml2::XMLDocument> parse_xml(const std::string& text, const std::string& name) {
  if (text.size() > max_description)
    invalid(name, "it is larger than 16 MiB");
  const std::string clean = decoded(text, name);
  // tinyxml2 expands no entities, but a document type has no place in a machine's description either.
  if (clean.find("<!DOCTYPE") != std::string::npos || clean.find("<!ENTITY") != std::string::npos)
    invalid(name, "it has a document type declaration");
  if (std::count(clean.begin(), clean.end(), '<') > 2 * max_description_elements)
    invalid(name, "it has more than " + std::to_string(max_description_elements) + " elements");
  auto document = std::make_unique<tinyxml2::XMLDocument>();
  if (document->Parse(clean.data(), clean.size()) != tinyxml2::XML_SUCCESS) {
    const char* what = tinyxml2::XMLDocument::ErrorIDToName(document->ErrorID());
    invalid(name, std::string(what) + " in line " + std::to_string(document->ErrorLineNum()));
  }
  if (document->RootElement() == nullptr)
    invalid(name, "it has no root element");
  check_depth(*document->RootElement(), 1, name);
  return document;
}

std::string_view local_name(const XmlElement& element) {
  return without_prefix(element.Name());
}

const XmlElement* child(const XmlElement* parent, std::string_view name) {
  if (parent == nullptr)
    return nullptr;
  for (const XmlElement* e = parent->FirstChildElement(); e != nullptr; e = e->NextSiblingElement())
    if (local_name(*e) == name)
      return e;
  return nullptr;
}

std::vector<const XmlElement*> all_children(const XmlElement* parent) {
  std::vector<const XmlElement*> list;
  if (parent != nullptr)
    for (const XmlElement* e = parent->FirstChildElement(); e != nullptr; e = e->NextSiblingElement())
      list.push_back(e);
  return list;
}

std::vector<const XmlElement*> children(const XmlElement* parent, std::string_view name) {
  std::vector<const XmlElement*> list = all_children(parent);
  std::erase_if(list, [&](const XmlElement* e) { return local_name(*e) != name; });
  return list;
}

const XmlElement* descend(const XmlElement* from, std::initializer_list<std::string_view> names) {
  for (std::string_view name : names)
    from = child(from, name);
  return from;
}

std::string text_of(const XmlElement* element) {
  if (element == nullptr)
    return "";
  std::string text;
  for (const tinyxml2::XMLNode* node = element->FirstChild(); node != nullptr; node = node->NextSibling())
    if (const tinyxml2::XMLText* part = node->ToText())
      text += part->Value();
  return std::string(trimmed(text));
}

std::string child_text(const XmlElement* parent, std::string_view name) {
  return text_of(child(parent, name));
}

std::string attribute(const XmlElement* element, std::string_view name) {
  const char* value = find_attribute(element, name);
  return value == nullptr ? "" : value;
}

bool has_attribute(const XmlElement* element, std::string_view name) {
  return find_attribute(element, name) != nullptr;
}

} // namespace kvmport
