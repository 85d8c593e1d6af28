// SPDX-License-Identifier: Apache-2.0
// What a kernel would make of a machine's disks: partitions, arrays over them, logical volumes over those, each with
// what blkid says of its content. Nothing is activated; a device is a place on the disks or a map of such places. What
// can't be used without the kernel's own drivers is listed with the reason.
#pragma once

#include "formats/lvm.h"
#include "formats/mapped_image.h"
#include "formats/partitions.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace kvmport {

/// One disk of the machine.
struct StackDisk {
  const Image* image = nullptr;      ///< borrowed
  WritableImage* writable = nullptr; ///< the same, or null: only to be read
  std::uint32_t logical_sector = 512;
};

struct StackDevice {
  enum class Kind { disk, partition, array, volume };
  Kind kind = Kind::disk;
  std::size_t disk = 0;    ///< which one, of a disk or partition
  std::string table;       ///< "gpt" or "dos": on a disk, or of the disk that a partition lies on
  DiskPartition partition; ///< of a partition; its number is 0 for all others
  std::string name;        ///< "vg/root" of a volume; of an array its name ("host:0"), maybe empty
  Content content;         ///< what it holds; nothing when it has a partition table
  MapTarget place;         ///< where it lies, on a disk or a map of this stack
  std::uint64_t size = 0;  ///< bytes
  std::string unsupported; ///< why it can't be read and written like this; empty: it can. `place` is unset then
  Range range() const { return {place.offset, size}; }
};

/// Free extents of a volume group.
struct StackFree {
  std::size_t device = 0; ///< index into devices(): the physical volume
  Range range;            ///< of its bytes
};

/// Reads all in the constructor, in bounded time however hostile the disks are (what is nested deeper than volumes on
/// arrays on partitions is not looked into). Errors only when a disk can't be read. One thread at a time.
class BlockStack {
 public:
  explicit BlockStack(std::vector<StackDisk> disks);

  /// Disks first, each followed by its partitions; then arrays; then volumes. Never changes.
  const std::vector<StackDevice>& devices() const { return devices_; }
  const std::vector<StackFree>& free() const { return free_; }
  /// Damage that was seen: of partition tables, members, groups.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  void add_disks();
  void add_arrays();
  /// Devices by the UUID of the physical volume on them.
  using Members = std::map<std::string, std::vector<std::size_t>>;
  void add_volumes();
  void add_group(const LvmGroup& group, std::string unsupported, const Members& members);
  std::vector<MapPiece> pieces_of(const LvmVolume& volume, const Members& members) const;
  void add_mapped(StackDevice device, std::vector<MapPiece> pieces);

  std::vector<StackDisk> disks_;
  std::vector<StackDevice> devices_;
  std::vector<std::unique_ptr<MappedImage>> maps_;
  std::vector<StackFree> free_;
  std::vector<std::string> notes_;
};

/// What a device is called in messages: "disk 1", "partition 2 of disk 1", "vg/root".
std::string describe(const StackDevice& device);

} // namespace kvmport
