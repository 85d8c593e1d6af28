// SPDX-License-Identifier: Apache-2.0
// XML edited in place: a light tree that knows which bytes of the text each thing is, and splices that are applied at
// once. What no splice covers (comments, unknown elements, quotes, whitespace) stays byte for byte. The parser is expat
// because it tells byte positions; machine/xml_util.h (tinyxml2), which reads descriptions into Machines, has none.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace kvmport {

/// Bytes begin..end of a text, end not included.
struct ByteRange {
  std::size_t begin = 0, end = 0;
};

struct XmlNodeAttribute {
  std::string name;  ///< with its prefix, as written
  std::string value; ///< unescaped
  ByteRange whole;   ///< from the whitespace before the name to the closing quote
  ByteRange quoted;  ///< the value between its quotes
};

/// One element. The nodes belong to their XmlEditor and never change: edits are seen in its result alone.
struct XmlNode {
  std::string name; ///< with its prefix, as written ("qemu:arg")
  std::vector<XmlNodeAttribute> attributes;
  std::string text;              ///< the character data directly inside, unescaped, CDATA included, not trimmed
  std::vector<ByteRange> pieces; ///< where that character data stands, in order
  ByteRange start_tag, whole;
  std::size_t line = 0;          ///< of the start tag, from 1
  std::size_t index = 1, of = 1; ///< place among the siblings of this name, and how many there are
  const XmlNode* parent = nullptr;
  std::vector<std::unique_ptr<XmlNode>> children;

  bool self_closing() const { return start_tag.end == whole.end; }
  std::string_view local_name() const; ///< without the prefix
  /// Null when there is none; children and attributes are matched by the name as written.
  const XmlNode* child(std::string_view child_name) const;
  const XmlNodeAttribute* find(std::string_view attribute_name) const;
  std::vector<const XmlNode*> all(std::string_view child_name) const;
  /// The attribute's value; "" without one.
  std::string attribute(std::string_view attribute_name) const;
  /// The namespace that the prefix of the name stands for here; "" without one.
  std::string name_space() const;
  /// "devices/interface[2]/mac": from the root, which is not named. [n] where siblings share the name.
  std::string path() const;
};

class XmlEditor {
 public:
  /// Parses `text`. Error DESCRIPTION_INVALID, with `name` in it, for what is not well-formed UTF-8 XML, larger than
  /// max_description, deeper or with more elements than machine/xml_util.h takes, or has a document type.
  XmlEditor(std::string text, const std::string& name);
  XmlEditor(const XmlEditor&) = delete;
  XmlEditor& operator=(const XmlEditor&) = delete;
  ~XmlEditor();

  const XmlNode& root() const { return *root_; }
  const std::string& text() const { return text_; }
  /// Number of the line, from 1, that holds this byte.
  std::size_t line_of(std::size_t offset) const;
  /// The line that holds this byte, without the whitespace around it; of a long one (XML on a single line) what follows
  /// the byte, up to 200 bytes.
  std::string quote(std::size_t offset) const;

  // Edits. Values are given unescaped; `xml` is markup. One edit a place: two that overlap are a std::logic_error in
  // result(), except that what lies inside a removed or replaced element is gone with it.
  void set_attribute(const XmlNode& node, std::string_view name, std::string_view value); ///< or adds it
  void remove_attribute(const XmlNode& node, std::string_view name);                      ///< if it is there
  /// Replaces the character data; comments and elements inside stay.
  void set_text(const XmlNode& node, std::string_view value);
  /// The line goes with the element when nothing else stands in it.
  void remove_element(const XmlNode& node);
  void replace_element(const XmlNode& node, std::string_view xml);
  /// As the first child, indented as the first child is now.
  void insert_child(const XmlNode& parent, std::string_view xml);

  /// The edited text.
  std::string result() const;
  /// The ranges of the text that result() holds as they were, in order.
  std::vector<ByteRange> kept() const;

 private:
  struct Splice {
    ByteRange range;
    std::string text;
    bool whole_element;
  };
  void splice(ByteRange range, std::string text, bool whole_element = false);
  void fill(const XmlNode& node, const std::string& content);
  std::vector<const Splice*> ordered() const;

  std::string text_;
  std::unique_ptr<XmlNode> root_;
  std::vector<std::size_t> line_starts_;
  std::vector<Splice> splices_;
  std::map<std::size_t, std::size_t> filled_; ///< end of an element without content → its splice
};

/// `value` for between tags, and for between quotes of either kind.
std::string xml_escaped_text(std::string_view value);
std::string xml_escaped_attribute(std::string_view value);

} // namespace kvmport
