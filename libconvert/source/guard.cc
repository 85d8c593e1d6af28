// SPDX-License-Identifier: Apache-2.0
#include "libconvert/source/source.h"

#include <set>
#include <sys/stat.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

struct stat stat_of(const fs::path& path) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0)
    throw Error("SOURCE_CHANGED", path.string() + " has vanished");
  return st;
}

std::int64_t mtime_ns(const struct stat& st) {
  return st.st_mtim.tv_sec * 1'000'000'000 + st.st_mtim.tv_nsec;
}

} // namespace

SourceGuard::SourceGuard(const Source& source) {
  std::set<fs::path> files;
  for (const auto& image : source.images)
    for (const fs::path& file : image->info().files)
      files.insert(file);
  for (const MachineDisk& disk : source.machine.disks) {
    files.insert(disk.path);
    for (const FilePiece& piece : disk.more_pieces)
      files.insert(piece.path);
  }
  files.insert(source.machine.nvram);
  files.erase(fs::path());
  for (const fs::path& file : files) {
    const struct stat st = stat_of(file);
    // The mtime of a block device node says nothing about its content.
    stamps_.push_back(
        {file, static_cast<std::uint64_t>(st.st_size), st.st_ino, st.st_dev, S_ISREG(st.st_mode) ? mtime_ns(st) : 0});
  }
}

void SourceGuard::check() const {
  for (const Stamp& stamp : stamps_) {
    const struct stat st = stat_of(stamp.path);
    const char* what = nullptr;
    if (st.st_ino != stamp.inode || st.st_dev != stamp.device)
      what = "it is another file now";
    else if (static_cast<std::uint64_t>(st.st_size) != stamp.size)
      what = "its size changed";
    else if (S_ISREG(st.st_mode) && mtime_ns(st) != stamp.mtime_ns)
      what = "it was written to";
    if (what != nullptr)
      throw Error("SOURCE_CHANGED", stamp.path.string() + " changed during the run", what,
                  "make sure that the source machine is shut down, then try again");
  }
}

} // namespace kvmport
