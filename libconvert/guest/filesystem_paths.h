// SPDX-License-Identifier: Apache-2.0
// Paths as a guest means them: absolute, cleaned of ".", ".." and double slashes, links resolved without ever leaving
// the guest's root. Shared by everything that shows a guest's tree.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvmport::guest_path {

/// The parts of a path, without empty ones and "."; ".." stays.
std::vector<std::string> split(std::string_view path);
/// "/a/b" of any absolute path; ".." taken by the letter. "/" for the root.
std::string clean(std::string_view path);
/// The directory that holds `path` ("/" for the root itself), and its last part.
std::string parent(std::string_view path);
std::string name(std::string_view path);
std::string join(std::string_view directory, std::string_view name);
/// True when `path` is `directory` or lies below it.
bool below(std::string_view path, std::string_view directory);

/// What a link at this clean path points to; nothing when it is no link (or not there).
using LinkReader = std::function<std::optional<std::string>(const std::string& path)>;

/// `path` with links resolved, all of them or all but the last part's. Parts that don't exist are taken as they are.
/// Nothing when there are more than 40 links on the way.
std::optional<std::string> resolve(std::string_view path, bool follow_last, const LinkReader& link);

} // namespace kvmport::guest_path
