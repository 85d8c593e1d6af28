// SPDX-License-Identifier: Apache-2.0
// A block device of this host over a file; it vanishes with its object.
#pragma once

#include "base/process.h"
#include "tests/support/mounted.h"
#include "tests/support/tempdir.h"

#include <filesystem>
#include <string>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

namespace kvmport::test {

namespace fs = std::filesystem;

class LoopDisk {
 public:
  explicit LoopDisk(const fs::path& file, const std::vector<std::string>& options = {}) {
    std::vector<std::string> command{"losetup", "--show", "-f"};
    command.insert(command.end(), options.begin(), options.end());
    command.push_back(file.string());
    const ProcessResult result = run_process(command, std::chrono::seconds(30));
    if (result.exit_code == 0)
      path_ = result.out.substr(0, result.out.find('\n'));
    why_ = result.err;
  }
  LoopDisk(const LoopDisk&) = delete;
  LoopDisk& operator=(const LoopDisk&) = delete;
  ~LoopDisk() {
    if (!path_.empty())
      run_process({"losetup", "-d", path_.string()}, std::chrono::seconds(30));
  }
  explicit operator bool() const { return !path_.empty(); }
  const fs::path& path() const { return path_; }
  const std::string& why() const { return why_; }
  dev_t device() const {
    struct stat st {};
    return ::stat(path_.c_str(), &st) == 0 ? st.st_rdev : 0;
  }

 private:
  fs::path path_;
  std::string why_;
};

} // namespace kvmport::test
