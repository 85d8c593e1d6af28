// SPDX-License-Identifier: Apache-2.0
// QEMU's image locking (block/file-posix.c, docs/system/images.rst, "Disk image file locking"): whoever has permission
// number p holds a shared lock on byte 100+p of the file, whoever denies it to others one on byte 200+p.
#include "libconvert/source/source.h"

#include <fcntl.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

constexpr off_t permission_base = 100;
constexpr off_t write_permission = 1, write_unchanged_permission = 2, resize_permission = 3;

/// True when somebody else holds a lock on this byte; asking takes no lock.
bool held(int fd, off_t byte) {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = byte;
  lock.l_len = 1;
  if (::fcntl(fd, F_OFD_GETLK, &lock) != 0)
    return false; // a file system without locks
  return lock.l_type != F_UNLCK;
}

} // namespace

void check_not_locked(const fs::path& path) {
  const UniqueFd fd = open_source(path);
  for (off_t permission : {write_permission, resize_permission, write_unchanged_permission})
    if (held(fd.get(), permission_base + permission))
      throw Error("SOURCE_RUNNING", path.string() + " is in use: another program has it open for writing",
                  "it holds QEMU's image lock (byte " + std::to_string(permission_base + permission) + ")",
                  "shut the machine down, then try again");
}

} // namespace kvmport
