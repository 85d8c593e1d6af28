// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/guest_tree.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

namespace fs = std::filesystem;

namespace kvmport::test {

namespace {

fs::path inside(const fs::path& root, const std::string& path) {
  return root / fs::path(path).relative_path();
}

} // namespace

GuestTree::GuestTree() : filesystem_(open_directory_filesystem(root_.path())) {}

GuestTree& GuestTree::file(const std::string& path, const std::string& content) {
  const fs::path real = inside(root_.path(), path);
  fs::create_directories(real.parent_path());
  std::ofstream(real, std::ios::binary) << content;
  return *this;
}

GuestTree& GuestTree::link(const std::string& target, const std::string& path) {
  const fs::path real = inside(root_.path(), path);
  fs::create_directories(real.parent_path());
  fs::create_symlink(target, real);
  return *this;
}

GuestTree& GuestTree::directory(const std::string& path) {
  fs::create_directories(inside(root_.path(), path));
  return *this;
}

Plan GuestTree::plan(const GuestInfo& info, const std::vector<Step>& steps) const {
  return make_plan(info, *filesystem_, steps);
}

Plan GuestTree::run(const GuestInfo& info, const std::vector<Step>& steps) {
  Plan made = plan(info, steps);
  apply_plan(made, *filesystem_);
  return made;
}

Plan GuestTree::run(const GuestInfo& info, void (*step)(const GuestInfo&, Draft&)) {
  return run(info, {{"step", step}});
}

std::vector<std::string> GuestTree::files() const {
  std::vector<std::string> found;
  for (const auto& entry : fs::recursive_directory_iterator(root_.path()))
    if (entry.is_regular_file() && !entry.is_symlink())
      found.push_back("/" + fs::relative(entry.path(), root_.path()).string());
  std::sort(found.begin(), found.end());
  return found;
}

std::string GuestTree::read(const std::string& path) const {
  return filesystem_->read(path);
}

bool GuestTree::exists(const std::string& path) const {
  return filesystem_->lstat(path).has_value();
}

std::string GuestTree::readlink(const std::string& path) const {
  return filesystem_->readlink(path);
}

std::vector<Step> configuration_steps() {
  std::vector<Step> kept;
  for (Step& step : linux_steps({}))
    if (!step.name.starts_with("initramfs"))
      kept.push_back(std::move(step));
  return kept;
}

MachineDisk disk_named(const std::string& name, ControllerType controller, unsigned unit) {
  MachineDisk disk;
  disk.source_name = name;
  disk.controller = controller;
  disk.unit = unit;
  return disk;
}

std::string fs_uuid(int disk, unsigned n) {
  return "f5f5f5f5-0000-4000-8000-00000000" + std::to_string(disk) + "00" + std::to_string(n);
}

std::string part_uuid(int disk, unsigned n) {
  return "9a9a9a9" + std::to_string(disk) + "-0" + std::to_string(n);
}

BlockDevice partition(int disk, const std::string& disk_name, unsigned n, const std::string& type) {
  BlockDevice device;
  const bool digit = disk_name.back() >= '0' && disk_name.back() <= '9';
  device.source_name = "/dev/" + disk_name + (n == 0 ? "" : (digit ? "p" : "") + std::to_string(n));
  device.disk = disk;
  device.partition = n;
  device.type = type;
  if (n > 0) {
    device.uuid = fs_uuid(disk, n);
    device.part_uuid = part_uuid(disk, n);
  }
  return device;
}

GuestInfo one_disk_guest(const std::string& name, ControllerType controller) {
  GuestInfo info;
  info.machine.disks = {disk_named(name, controller)};
  info.arch = "x86_64";
  info.devices.push_back(partition(0, name, 0, ""));
  unsigned n = 0;
  for (const char* type : {"ext4", "swap", "crypto_LUKS", "LVM2_member", "xfs"})
    info.devices.push_back(partition(0, name, ++n, type));
  info.devices.back().uuid.clear();
  BlockDevice volume;
  volume.source_name = "/dev/vg0/root";
  volume.type = "ext4";
  volume.uuid = "0a0a0a0a-1111-2222-3333-444444444444";
  info.devices.push_back(volume);
  info.root_device = "/dev/" + name + "1";
  return info;
}

std::string warnings_of(const Plan& plan) {
  std::string text;
  for (const std::string& warning : plan.warnings)
    text += warning + "\n";
  return text;
}

} // namespace kvmport::test
