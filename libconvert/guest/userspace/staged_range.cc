// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/userspace/staged_range.h"

#include <algorithm>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

namespace kvmport {
namespace {

constexpr std::uint64_t piece = 1U << 20, block = 4096;

} // namespace

StagedRange::StagedRange(WritableImage& disk, Range range, std::uint64_t most)
    : disk_(disk), range_(range), file_(::memfd_create("kvmport filesystem", MFD_CLOEXEC)) {
  if (!file_ || ::ftruncate(file_.get(), static_cast<off_t>(range.length)) != 0)
    throw system_error(errno, "can't make a file in memory");
  Bytes bytes;
  for (const Extent& extent : disk.extents(range)) {
    if (extent.kind != ExtentKind::data)
      continue;
    for (std::uint64_t at = extent.range.offset; at < extent.range.end(); at += bytes.size()) {
      bytes.resize(std::min(piece, extent.range.end() - at));
      disk.read(at, bytes);
      if (is_zero(bytes))
        continue;
      if (bytes.size() > most)
        throw Error("GUEST_READ_FAILED", "a filesystem of the guest is too large to be copied into memory");
      most -= bytes.size();
      write_exact(file_.get(), at - range.offset, bytes, "a file in memory");
    }
  }
}

std::string StagedRange::path() const {
  return fmt::format("/proc/{}/fd/{}", ::getpid(), file_.get());
}

void StagedRange::commit() {
  Bytes now, before;
  for (off_t from = 0; (from = ::lseek(file_.get(), from, SEEK_DATA)) >= 0;) {
    const off_t end = ::lseek(file_.get(), from, SEEK_HOLE);
    for (; from < end; from += static_cast<off_t>(now.size())) {
      const auto offset = static_cast<std::uint64_t>(from);
      now.resize(std::min(piece, static_cast<std::uint64_t>(end) - offset));
      before.resize(now.size());
      read_exact(file_.get(), offset, now, "a file in memory");
      disk_.read(range_.offset + offset, before);
      for (std::size_t at = 0; at < now.size(); at += block) {
        const std::size_t size = std::min<std::size_t>(block, now.size() - at);
        if (std::memcmp(now.data() + at, before.data() + at, size) != 0)
          disk_.write(range_.offset + offset + at, ByteSpan(now).subspan(at, size));
      }
    }
  }
}

} // namespace kvmport
