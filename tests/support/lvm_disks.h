// SPDX-License-Identifier: Apache-2.0
// Two disks with a volume group "vg-a", made by LVM itself on loop devices, without device-mapper: linear "root",
// "mixed" over both disks, "stripes"; each holds an ext4 filesystem, put there by what LVM reports.
#pragma once

#include "formats/image.h"
#include "tests/support/tempdir.h"

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace kvmport::test {

class LvmDisks {
 public:
  /// `start`: where the physical volumes begin: 0, or behind that many bytes as the second partition of a GPT.
  explicit LvmDisks(std::uint64_t start);

  std::unique_ptr<Image> open(int disk) const;
  /// LVM's own words: "name size uuid" for each volume, "uuid free" for each physical volume.
  const std::string& volumes() const { return volumes_; }
  const std::string& members() const { return members_; }
  /// UUIDs of the filesystems, by volume.
  const std::map<std::string, std::string>& filesystems() const { return filesystems_; }
  std::uint64_t free_bytes() const;
  /// What LVM reports ("vgs", "vg_name,…") of the group on copies of these two.
  std::string report_of(const std::vector<const Image*>& disks, const std::string& command,
                        const std::string& columns) const;

 private:
  std::string config_for(const std::vector<std::string>& devices) const;
  void fill(const std::string& segments, std::uint64_t pe_start);

  TempDir dir_;
  std::uint64_t start_;
  std::vector<std::string> loops_;
  std::string volumes_, members_;
  std::map<std::string, std::string> filesystems_;
};

} // namespace kvmport::test
