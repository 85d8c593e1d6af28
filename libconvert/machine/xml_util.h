// SPDX-License-Identifier: Apache-2.0
// Reading hostile XML with tinyxml2: bounded in size, elements and depth, no document type (so no entities and nothing
// external), any encoding turned into UTF-8. Names are compared without their namespace prefix, which real files choose
// freely.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <tinyxml2.h>
#include <vector>

namespace kvmport {

using XmlElement = tinyxml2::XMLElement;

/// Bytes of the largest description that is read.
constexpr std::uint64_t max_description = 16U << 20;
constexpr std::ptrdiff_t max_description_elements = 200'000;
constexpr int max_description_depth = 200;

/// Parses `text`; Error DESCRIPTION_INVALID names `name`. The document always has a root element.
std::unique_ptr<tinyxml2::XMLDocument> parse_xml(const std::string& text, const std::string& name);

std::string_view local_name(const XmlElement& element);
/// The first child with this local name, or null; a null parent has no children.
const XmlElement* child(const XmlElement* parent, std::string_view name);
std::vector<const XmlElement*> children(const XmlElement* parent, std::string_view name);
std::vector<const XmlElement*> all_children(const XmlElement* parent);
/// Follows a path of child names.
const XmlElement* descend(const XmlElement* from, std::initializer_list<std::string_view> names);
/// The text directly inside, trimmed; "" for null.
std::string text_of(const XmlElement* element);
std::string child_text(const XmlElement* parent, std::string_view name);
/// The attribute with this local name; "" when it is not there or `element` is null.
std::string attribute(const XmlElement* element, std::string_view name);
bool has_attribute(const XmlElement* element, std::string_view name);

} // namespace kvmport
