// SPDX-License-Identifier: Apache-2.0
// The tree behind XmlEditor: expat's events with their byte positions, and the attributes of each start tag, whose
// positions expat doesn't tell. For xml_edit.cc alone.
#pragma once

#include "libconvert/clone/xml_edit.h"

namespace kvmport {

/// The root of `text`. Errors as XmlEditor's constructor.
std::unique_ptr<XmlNode> parse_positions(const std::string& text, const std::string& name);

} // namespace kvmport
