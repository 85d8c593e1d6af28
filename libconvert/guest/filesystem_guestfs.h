// SPDX-License-Identifier: Apache-2.0
// The guest's tree as libguestfs mounts it. What was seen once is remembered until it is written: a call into the
// appliance costs milliseconds without KVM, and steps look at many files that are not there.
#pragma once

#include "libconvert/guest/appliance_handle.h"
#include "libconvert/guest/filesystem.h"

#include <map>
#include <string>
#include <vector>

namespace kvmport {

class GuestfsFilesystem final : public GuestFilesystem {
 public:
  /// Borrows the handle; the guest must be mounted. `mount_points` as the guest calls them.
  GuestfsFilesystem(const ApplianceHandle& appliance, std::vector<std::string> mount_points);

  /// After another filesystem was mounted at `path` or all were remounted.
  void mounted(const std::string& path);
  void forget();

  std::optional<FileStat> stat(const std::string& path) const override;
  std::optional<FileStat> lstat(const std::string& path) const override;
  std::vector<std::string> list(const std::string& directory) const override;
  std::string read(const std::string& path, std::uint64_t limit) const override;
  std::string read_head(const std::string& path, std::size_t bytes) const override;
  std::string readlink(const std::string& path) const override;
  std::string realpath(const std::string& path) const override;
  std::optional<std::string> label(const std::string& path) const override;
  std::optional<FreeSpace> free_space(const std::string& path) const override;
  void write(const std::string& path, std::string_view content, std::uint32_t mode) override;
  void append(const std::string& path, std::string_view content) override;
  void remove(const std::string& path) override;
  void rename(const std::string& from, const std::string& to) override;
  void copy(const std::string& from, const std::string& to) override;
  void symlink(const std::string& target, const std::string& path) override;
  void make_directories(const std::string& path) override;
  void set_label(const std::string& path, const std::string& label) override;

 private:
  struct Seen {
    FileStat stat;
    std::string link; ///< target of a symbolic link
  };
  std::optional<Seen> at(const std::string& resolved) const;
  std::string resolve(const std::string& path, bool follow_last) const;
  /// Names in a directory with what they are: one call for all. Nothing when it is not a directory.
  const std::vector<std::string>& entries(const std::string& resolved) const;
  std::string pread(const std::string& resolved, std::uint64_t size, const std::string& path) const;
  void check(int result, const char* doing, const std::string& path) const;
  void changed(const std::string& resolved);

  const ApplianceHandle& appliance_;
  std::vector<std::string> mount_points_;
  mutable std::map<std::string, std::optional<Seen>> seen_; ///< by resolved path; nothing: not there
  mutable std::map<std::string, std::vector<std::string>> lists_;
  mutable std::map<std::string, std::string> contents_; ///< of small files
};

} // namespace kvmport
