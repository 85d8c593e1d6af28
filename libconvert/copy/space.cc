// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/copy.h"
#include "libconvert/copy/planner.h"

#include <algorithm>
#include <cerrno>
#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

std::string in_mib(std::uint64_t bytes) {
  return fmt::format("{} MiB", div_round_up(bytes, 1U << 20));
}

} // namespace

void check_space(const fs::path& directory, std::uint64_t needed) {
  fs::path there = directory.empty() ? fs::path(".") : fs::absolute(directory);
  std::error_code ignored;
  while (!fs::exists(there, ignored) && there.has_relative_path())
    there = there.parent_path();
  struct statvfs st {};
  if (::statvfs(there.c_str(), &st) != 0)
    throw system_error(errno, "can't see how much space there is in " + there.string());
  const std::uint64_t blocks = ::geteuid() == 0 ? st.f_bfree : st.f_bavail;
  const std::uint64_t available = blocks * st.f_frsize;
  if (available < needed)
    throw Error("DISK_FULL", there.string() + " has too little space for the result",
                in_mib(needed) + " are needed, " + in_mib(available) + " are free",
                "free space there, name another directory, or compress the result");
}

std::uint64_t estimate_size(const Image& image, const std::vector<Range>& skip, const CreateOptions& create) {
  const bool raw = create.format == "raw";
  const std::uint64_t cluster = raw ? 4096 : create.cluster_size;
  const std::uint64_t chunk = round_up(2U << 20, cluster);
  const ChunkRanges none;
  Planner planner(image, chunk, skip, none);
  std::uint64_t clusters = 0, tables = 0;
  for (CopyTask task; planner.next(task);) {
    std::uint64_t next = 0; // first cluster that is not counted yet
    for (const Range& range : task.data) {
      const std::uint64_t first = std::max(next, range.offset / cluster), last = div_round_up(range.end(), cluster);
      clusters += last - std::min(first, last);
      next = std::max(next, last);
    }
  }
  if (!raw) { // header, L1, L2 tables (all that could be in use), refcounts
    const std::uint64_t l2 = std::min(div_round_up(image.size(), cluster), clusters * (cluster / 8));
    tables = 4 * cluster + round_up(l2 * 8, cluster) +
             round_up(div_round_up(image.size(), cluster * cluster / 8) * 8, cluster) + round_up(clusters * 2, cluster);
  }
  return clusters * cluster + tables;
}

} // namespace kvmport
