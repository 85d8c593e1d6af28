// SPDX-License-Identifier: Apache-2.0
// Mounts, for tests that look at filesystems as the kernel sees them; undone with the object.
#pragma once

#include "base/process.h"

#include <filesystem>
#include <string>

namespace kvmport::test {

/// A filesystem that the kernel mounted; a file by way of a loop device.
class Mounted {
 public:
  Mounted(const std::filesystem::path& disk, std::filesystem::path where, const std::string& options = "loop")
      : where_(std::move(where)) {
    std::filesystem::create_directories(where_);
    const ProcessResult result =
        run_process({"mount", "-o", options, disk.string(), where_.string()}, std::chrono::seconds(60));
    mounted_ = result.exit_code == 0;
    why_ = result.err;
  }
  Mounted(const Mounted&) = delete;
  Mounted& operator=(const Mounted&) = delete;
  ~Mounted() { unmount(); }
  void unmount() {
    if (mounted_)
      run_process({"umount", where_.string()}, std::chrono::seconds(60));
    mounted_ = false;
  }
  explicit operator bool() const { return mounted_; }
  const std::filesystem::path& path() const { return where_; }
  const std::string& why() const { return why_; }

 private:
  std::filesystem::path where_;
  bool mounted_ = false;
  std::string why_;
};

} // namespace kvmport::test
