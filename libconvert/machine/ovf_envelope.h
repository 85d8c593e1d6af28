// SPDX-License-Identifier: Apache-2.0
// The OVF envelope (DSP0243 1.1.0 and 2.1.1, and the dialects of VMware and VirtualBox), apart from where its files
// lie: that is a directory for an .ovf and an archive for an .ova.
#pragma once

#include "libconvert/machine/machine.h"
#include "libconvert/machine/xml_util.h"

#include <functional>

namespace kvmport {

/// Finds the bytes of the file `href` (percent escapes still in it); nothing when the package does not hold it. `what`
/// names its use for errors. May throw PATH_NOT_ALLOWED, MANIFEST_MISMATCH.
using FindFile = std::function<std::optional<FilePiece>(const std::string& href, const std::string& what,
                                                        std::vector<std::string>& notes)>;

/// The machine of `document`; `name` is the package's name for errors and for a machine without a name of its own.
Machine read_envelope(const tinyxml2::XMLDocument& document, const std::string& name, const FindFile& find,
                      const ReadOptions& options);

} // namespace kvmport
