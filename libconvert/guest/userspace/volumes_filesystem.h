// SPDX-License-Identifier: Apache-2.0
// The guest's mounted tree made of volumes in user space: which volume a path lies on, links across volumes.
#pragma once

#include "libconvert/guest/userspace/volume.h"

#include <map>
#include <memory>
#include <string>

namespace kvmport {

class VolumesFilesystem final : public GuestFilesystem {
 public:
  /// Puts `volume` at `path` ("/" first). The directory must exist.
  void mount(const std::string& path, std::unique_ptr<Volume> volume);
  bool mounted(const std::string& path) const { return volumes_.contains(path); }
  /// Everything lies in the overlays afterwards.
  void flush();

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
  struct Place {
    Volume* volume;
    std::string path; ///< inside the volume
    std::string mount;
  };
  /// Where a path without links lies.
  Place place(const std::string& resolved) const;
  std::string resolve(const std::string& path, bool follow_last) const;
  std::optional<FileStat> at(const std::string& resolved) const;
  std::map<std::string, std::unique_ptr<Volume>> volumes_;
};

} // namespace kvmport
