// SPDX-License-Identifier: Apache-2.0
// Names of clones: which a libvirt domain may have, and the next one that is free.
#pragma once

#include "libconvert/clone/taken.h"

namespace kvmport {

/// Bytes of the longest name: libvirt makes files NAME.xml.new, NAME-swtpm.log, NAME_VARS.fd of it (at most 255).
constexpr std::size_t max_domain_name = 200;

/// Error NAME_INVALID for a name that libvirt refuses or that is no name for a file: empty or only spaces, with '/' or
/// control characters, "." and "..", not UTF-8, longer than max_domain_name (formatdomain.html, "General metadata").
void check_name(const std::string& name);

/// "web" → "web-clone", "web-clone" → "web-clone1", "web-clone9" → "web-clone10", skipping names that are taken; a
/// long name is cut. Claims nothing.
std::string next_clone_name(const std::string& base, const TakenIdentities& taken);

} // namespace kvmport
