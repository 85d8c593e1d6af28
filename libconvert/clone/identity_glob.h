// SPDX-License-Identifier: Apache-2.0
// Finds a rule's files in a guest. Patterns are absolute; each part may have '*', '?' and '[…]', and a last part "**"
// means everything below, contents before their directories. A guest's links can't lead a pattern astray: those in the
// fixed parts before the first wildcard are followed, they are the system's own; later ones are matched, not followed.
#pragma once

#include "libconvert/guest/guest.h"
#include "libconvert/guest/plan.h"

#include <string>
#include <vector>

namespace kvmport::identity {

struct FoundPath {
  std::string path;
  FileType type = FileType::regular;
  std::uint64_t size = 0; ///< of a regular file
};

/// At most this many paths are taken from one pattern.
inline constexpr std::size_t most_found = 20000;

/// What `pattern` matches now, sorted by directory. Never a mount point or lost+found.
std::vector<FoundPath> find_paths(const GuestInfo& info, const Draft& draft, const std::string& pattern);
/// Only regular files (no links), of several patterns.
std::vector<std::string> find_files(const GuestInfo& info, const Draft& draft,
                                    const std::vector<std::string>& patterns);

} // namespace kvmport::identity
