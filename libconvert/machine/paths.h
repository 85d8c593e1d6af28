// SPDX-License-Identifier: Apache-2.0
// The rules by which a description may name files: only what lies, after links are followed, in the description's own
// directory or one that the user allowed, or what the user named himself for this disk.
#pragma once

#include "libconvert/machine/machine.h"

namespace kvmport {

/// Where the file that a description calls `written` lies. `description`: path of the description's file.
///
/// - An override of the user (options.disk_paths) wins.
/// - "[datastore] dir/x.vmdk" and "D:\dir\x.vmdk" mean x.vmdk beside the description.
/// - A relative path starts at the description's directory.
/// - An absolute path outside of the allowed directories means the file of that name beside the description, when there
///   is one: machines are moved by copying their directory. A note says so.
///
/// Errors: PATH_NOT_ALLOWED, DISK_MISSING (names `what`, e.g. "disk scsi0:0"), NOT_A_DISK.
std::filesystem::path resolve_file(const std::filesystem::path& description, const std::string& written,
                                   const std::string& what, const ReadOptions& options,
                                   std::vector<std::string>& notes);

/// True when `path`, links followed, lies in `directory` or deeper.
bool lies_in(const std::filesystem::path& path, const std::filesystem::path& directory);

} // namespace kvmport
