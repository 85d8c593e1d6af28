// SPDX-License-Identifier: Apache-2.0
// A copy of a small file (a variable store, a TPM's state) that is on the disk when the call returns.
#pragma once

#include <filesystem>

namespace kvmport {

/// An existing `to` is overwritten; it gets the mode of `from`, not its owner. Gives no final name: `to` may be half
/// made when this throws or the program dies. Errors: those of open_source(), DISK_FULL, IO_ERROR.
void copy_file_durably(const std::filesystem::path& from, const std::filesystem::path& to);

} // namespace kvmport
