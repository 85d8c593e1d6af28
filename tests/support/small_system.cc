// SPDX-License-Identifier: Apache-2.0
#include "tests/support/small_system.h"

#include "base/file.h"
#include "tests/support/tempdir.h"

namespace fs = std::filesystem;

namespace kvmport::test {

fs::path ext4_disk(const fs::path& dir, const std::string& name, const std::function<void(const fs::path&)>& fill) {
  const fs::path tree = dir / (name + ".tree"), disk = dir / name;
  fs::create_directories(tree);
  fill(tree);
  must_run({"mke2fs", "-q", "-F", "-t", "ext4", "-d", tree.string(), disk.string(), "32M"});
  fs::remove_all(tree);
  return disk;
}

void small_system(const fs::path& tree) {
  for (const char* directory : {"etc", "usr/bin", "sbin", "boot/grub", "lib/modules"})
    fs::create_directories(tree / directory);
  write_file_durably(tree / "etc/os-release", "ID=test\nPRETTY_NAME=\"A test\"\n");
  write_file_durably(tree / "etc/fstab", "/dev/sda / ext4 defaults 0 1\n");
  write_file_durably(tree / "sbin/init", "#!/bin/sh\n");
}

} // namespace kvmport::test
