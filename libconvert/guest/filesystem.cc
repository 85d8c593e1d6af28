// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/filesystem.h"

namespace kvmport {

std::optional<std::string> GuestFilesystem::try_read(const std::string& path, std::uint64_t limit) const {
  if (!is_file(path))
    return std::nullopt;
  return read(path, limit);
}

std::string GuestFilesystem::read_head(const std::string& path, std::size_t bytes) const {
  return read(path).substr(0, bytes);
}

std::optional<FreeSpace> GuestFilesystem::free_space(const std::string&) const {
  return std::nullopt;
}

} // namespace kvmport
