// SPDX-License-Identifier: Apache-2.0
// What the tests of a clone's description share: the machine that has everything, and small domains.
#pragma once

#include "libconvert/clone/description.h"
#include "tests/support/tempdir.h"

#include <functional>
#include <gtest/gtest.h>

namespace kvmport::test {

/// tests/clone/data/everything.xml
std::string everything();
/// What a clone of it asks for: every disk has a copy.
DescriptionRequest everything_request(const std::string& name);
/// A domain "web" with these elements below <domain> and below <devices>, one a line.
std::string domain_with(const std::string& devices, const std::string& more = "");
/// A clone "web-clone" where no other machine is.
DescriptionResult clone_of(const std::string& xml, DescriptionRequest request = {});
/// The code of the Error that `action` throws, "" when it throws none.
std::string code_of(const std::function<void()>& action);
bool has_warning(const DescriptionResult& result, const std::string& rule, const std::string& in_quote);
/// The changes of one rule.
std::vector<DescriptionChange> changes_of(const DescriptionResult& result, const std::string& rule);
bool contains(const std::string& text, const std::string& part);

} // namespace kvmport::test
