// SPDX-License-Identifier: Apache-2.0
#include "base/copy_file.h"

#include "base/error.h"
#include "base/file.h"

#include <cerrno>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

namespace kvmport {

void copy_file_durably(const std::filesystem::path& from, const std::filesystem::path& to) {
  constexpr std::size_t chunk = 1U << 20;
  const UniqueFd in = open_source(from), out = create_or_empty(to);
  struct stat st {};
  if (::fstat(in.get(), &st) != 0 || ::fchmod(out.get(), st.st_mode & 07777) != 0)
    throw system_error(errno, "can't give " + to.string() + " the mode of " + from.string());
  std::vector<std::byte> buffer(chunk);
  std::uint64_t offset = 0;
  while (const std::size_t got = read_some(in.get(), offset, buffer, from.string())) {
    write_exact(out.get(), offset, ByteSpan(buffer).first(got), to.string());
    offset += got;
  }
  if (::fsync(out.get()) != 0)
    throw system_error(errno, "can't sync " + to.string());
}

} // namespace kvmport
