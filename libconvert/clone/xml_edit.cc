// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/xml_edit.h"

#include "libconvert/clone/xml_parse.h"
#include "libconvert/machine/text.h"

#include <algorithm>
#include <stdexcept>

namespace kvmport {
namespace {

constexpr std::string_view xml_space = " \t\r\n";

/// The character reference or the entity that stands for `c`; "" when it stands for itself.
std::string_view reference(char c, bool in_attribute) {
  switch (c) {
  case '&':
    return "&amp;";
  case '<':
    return "&lt;";
  case '>':
    return "&gt;";
  case '\n':
    return in_attribute ? "&#10;" : "";
  case '\t':
    return in_attribute ? "&#9;" : "";
  case '\'':
    return in_attribute ? "&apos;" : "";
  case '"':
    return in_attribute ? "&quot;" : "";
  default:
    return "";
  }
}

std::string escaped(std::string_view value, bool in_attribute) {
  std::string result;
  for (char c : clean_utf8(value)) {
    const std::string_view instead = reference(c, in_attribute);
    if (instead.empty())
      result += c;
    else
      result += instead;
  }
  return result;
}

std::size_t colon_of(std::string_view name) {
  return name.find(':');
}

} // namespace

std::string xml_escaped_text(std::string_view value) {
  return escaped(value, false);
}

std::string xml_escaped_attribute(std::string_view value) {
  return escaped(value, true);
}

std::string_view XmlNode::local_name() const {
  const std::size_t colon = colon_of(name);
  return colon == std::string::npos ? std::string_view(name) : std::string_view(name).substr(colon + 1);
}

const XmlNode* XmlNode::child(std::string_view child_name) const {
  for (const auto& node : children)
    if (node->name == child_name)
      return node.get();
  return nullptr;
}

std::vector<const XmlNode*> XmlNode::all(std::string_view child_name) const {
  std::vector<const XmlNode*> list;
  for (const auto& node : children)
    if (node->name == child_name)
      list.push_back(node.get());
  return list;
}

const XmlNodeAttribute* XmlNode::find(std::string_view attribute_name) const {
  for (const XmlNodeAttribute& attribute : attributes)
    if (attribute.name == attribute_name)
      return &attribute;
  return nullptr;
}

std::string XmlNode::attribute(std::string_view attribute_name) const {
  const XmlNodeAttribute* found = find(attribute_name);
  return found == nullptr ? "" : found->value;
}

std::string XmlNode::name_space() const {
  const std::size_t colon = colon_of(name);
  const std::string declaration = colon == std::string::npos ? "xmlns" : "xmlns:" + name.substr(0, colon);
  for (const XmlNode* node = this; node != nullptr; node = node->parent)
    if (const XmlNodeAttribute* found = node->find(declaration))
      return found->value;
  return "";
}

std::string XmlNode::path() const {
  if (parent == nullptr)
    return "";
  const std::string above = parent->path();
  return (above.empty() ? "" : above + "/") + name + (of > 1 ? "[" + std::to_string(index) + "]" : "");
}

XmlEditor::XmlEditor(std::string text, const std::string& name)
    : text_(std::move(text)), root_(parse_positions(text_, name)), line_starts_{0} {
  for (std::size_t at = text_.find('\n'); at != std::string::npos; at = text_.find('\n', at + 1))
    line_starts_.push_back(at + 1);
}

XmlEditor::~XmlEditor() = default;

std::size_t XmlEditor::line_of(std::size_t offset) const {
  return static_cast<std::size_t>(std::upper_bound(line_starts_.begin(), line_starts_.end(), offset) -
                                  line_starts_.begin());
}

std::string XmlEditor::quote(std::size_t offset) const {
  constexpr std::size_t longest = 200;
  const std::size_t line = line_of(offset);
  std::size_t begin = line_starts_[line - 1];
  const std::size_t end = line < line_starts_.size() ? line_starts_[line] : text_.size();
  if (end - begin > longest)
    begin = offset;
  return printable(trimmed(std::string_view(text_).substr(begin, std::min(end - begin, longest))), longest);
}

void XmlEditor::splice(ByteRange range, std::string text, bool whole_element) {
  splices_.push_back({range, std::move(text), whole_element});
}

/// <a/> becomes <a>…</a>, and holds what is added to it after what it was given before.
void XmlEditor::fill(const XmlNode& node, const std::string& content) {
  const std::string close = "</" + node.name + ">";
  const auto [found, first] = filled_.emplace(node.whole.end, splices_.size());
  if (first)
    return splice({node.whole.end - 2, node.whole.end}, ">" + content + close);
  std::string& text = splices_[found->second].text;
  text.insert(text.size() - close.size(), content);
}

void XmlEditor::set_attribute(const XmlNode& node, std::string_view name, std::string_view value) {
  if (const XmlNodeAttribute* found = node.find(name))
    return splice(found->quoted, xml_escaped_attribute(value));
  const std::size_t at =
      node.attributes.empty() ? node.start_tag.begin + 1 + node.name.size() : node.attributes.back().whole.end;
  splice({at, at}, " " + std::string(name) + "='" + xml_escaped_attribute(value) + "'");
}

void XmlEditor::remove_attribute(const XmlNode& node, std::string_view name) {
  if (const XmlNodeAttribute* found = node.find(name))
    splice(found->whole, "");
}

void XmlEditor::set_text(const XmlNode& node, std::string_view value) {
  const std::string text = xml_escaped_text(value);
  if (node.self_closing())
    return fill(node, text);
  if (node.pieces.empty())
    return splice({node.start_tag.end, node.start_tag.end}, text);
  for (const ByteRange& piece : node.pieces)
    splice(piece, &piece == &node.pieces.front() ? text : "");
}

void XmlEditor::remove_element(const XmlNode& node) {
  ByteRange range = node.whole;
  std::size_t before = range.begin;
  while (before > 0 && (text_[before - 1] == ' ' || text_[before - 1] == '\t'))
    before--;
  const std::size_t after = text_.find_first_not_of(" \t\r", range.end);
  const bool ends_line = after == std::string::npos || text_[after] == '\n' || text_.compare(after, 2, "</") == 0;
  if (before > 0 && text_[before - 1] == '\n' && ends_line) {
    range.begin = before - 1;
    if (range.begin > 0 && text_[range.begin - 1] == '\r')
      range.begin--;
  }
  splice(range, "", true);
}

void XmlEditor::replace_element(const XmlNode& node, std::string_view xml) {
  splice(node.whole, std::string(xml), true);
}

void XmlEditor::insert_child(const XmlNode& parent, std::string_view xml) {
  if (parent.self_closing())
    return fill(parent, std::string(xml));
  const std::size_t begin = parent.start_tag.end;
  const std::size_t end = std::min(text_.find_first_not_of(xml_space, begin), text_.size());
  splice({begin, begin}, (parent.children.empty() ? "" : text_.substr(begin, end - begin)) + std::string(xml));
}

/// The splices that count, in the order of the text.
std::vector<const XmlEditor::Splice*> XmlEditor::ordered() const {
  std::vector<const Splice*> order;
  for (const Splice& each : splices_)
    order.push_back(&each);
  // What is inserted at a place stands before what is replaced there.
  std::stable_sort(order.begin(), order.end(), [](const Splice* a, const Splice* b) {
    if (a->range.begin != b->range.begin)
      return a->range.begin < b->range.begin;
    return a->range.end == a->range.begin && b->range.end != b->range.begin;
  });
  std::vector<const Splice*> result;
  for (const Splice* each : order) {
    const Splice* last = result.empty() ? nullptr : result.back();
    if (last == nullptr || each->range.begin >= last->range.end)
      result.push_back(each);
    else if (!last->whole_element || each->range.end > last->range.end)
      throw std::logic_error("two edits of the same bytes of a description");
  }
  return result;
}

std::string XmlEditor::result() const {
  std::string result;
  std::size_t done = 0;
  for (const Splice* each : ordered()) {
    result.append(text_, done, each->range.begin - done);
    result += each->text;
    done = each->range.end;
  }
  return result.append(text_, done);
}

std::vector<ByteRange> XmlEditor::kept() const {
  std::vector<ByteRange> ranges;
  std::size_t done = 0;
  for (const Splice* each : ordered()) {
    ranges.push_back({done, each->range.begin});
    done = each->range.end;
  }
  ranges.push_back({done, text_.size()});
  return ranges;
}

} // namespace kvmport
