// SPDX-License-Identifier: Apache-2.0
// How a guest's filesystems come together to its tree, however they are mounted: which system, what its fstab wants,
// which EFI system partition, which firmware, and the refusals of guests that can't be converted. The appliance and the
// user-space access do the mounting.
#pragma once

#include "libconvert/guest/appliance.h"
#include "libconvert/guest/inspect_roots.h"

#include <string>
#include <vector>

namespace kvmport {

class GuestAssembly {
 public:
  virtual ~GuestAssembly() = default;
  GuestInfo info;

 protected:
  explicit GuestAssembly(const Machine& machine) { info.machine = machine; }

  /// Mounts and appends to info.mounts. `options` as for mount(8).
  virtual void mount(const BlockDevice& device, const std::string& path, const std::string& options,
                     const std::string& type) = 0;
  /// The tree mounted so far; not before "/" is.
  virtual GuestFilesystem& tree() = 0;
  /// The boot code of a disk's first sector (440 bytes), or what there is of it.
  virtual std::string boot_code(int disk) = 0;
  /// Whether a LUKS device is opened.
  virtual bool is_open(const BlockDevice& container) const = 0;
  /// fstab names a device that is not there: opens what may hold it. False when nothing new came up.
  virtual bool open_more() { return false; }

  /// The device that the guest calls by this name.
  const BlockDevice* by_spec(const std::string& spec) const;
  const BlockDevice* by_source_name(const std::string& name) const;

  // In this order, after info.devices is filled:
  void refuse_hibernated() const;
  /// The one that is asked for, or the only one that is not a copy. Errors: GUEST_NOT_FOUND, GUEST_AMBIGUOUS,
  /// GUEST_UNSUPPORTED, KEY_MISSING, GUEST_UNCLEAN.
  RootCandidate choose_root(const RootSearch& search, const ApplianceOptions& options) const;
  // With "/" mounted:
  void mount_fstab();
  void mount_boot_partitions();
  void refuse_hibernated_files();
  void refuse_full();
  /// Identity, firmware and kernels.
  void read_system();

 private:
  [[noreturn]] void refuse_without_root(const RootSearch& search, const ApplianceOptions& options) const;
  void find_firmware();
};

} // namespace kvmport
