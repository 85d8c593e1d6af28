// SPDX-License-Identifier: Apache-2.0
// Sectors and NVRAM that hold a UUID, and what the survey of the disks makes of an answer.
#include "base/error.h"
#include "base/file.h"
#include "base/process.h"
#include "formats/partitions.h"
#include "libconvert/clone/new_uuids.h"
#include "libconvert/clone/uuid_disks.h"
#include "tests/clone/clone_tree.h"
#include "tests/clone/uuid_support.h"

#include <gmock/gmock.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// --- sectors -----------------------------------------------------------------------------------------------------

class UuidSectors : public testing::Test {
 protected:
  Overlay& disk_of(std::uint64_t size) {
    fs::remove(dir_.path() / "disk");
    must_run({"truncate", "-s", std::to_string(size), (dir_.path() / "disk").string()});
    return opened();
  }
  Overlay& opened() {
    image_ = open_image(dir_.path() / "disk", {.format = "raw", .allowed_directories = {}, .window = {}});
    return overlay_.emplace(*image_, dir_.path(), 64U << 20);
  }
  /// What fsck says of the disk with its changes.
  void write_back() {
    Bytes all(overlay_->size());
    overlay_->read(0, all);
    write_file_durably(dir_.path() / "disk", as_text(all));
  }

  TempDir dir_;
  std::unique_ptr<Image> image_;
  std::optional<Overlay> overlay_;
};

TEST_F(UuidSectors, FatHasItInBothBootSectors) {
  for (const char* bits : {"12", "16", "32"}) {
    disk_of(std::string(bits) == "12" ? 4U << 20 : 40U << 20);
    must_run({"mkfs.vfat", "-F", bits, "-i", "abcd12ef", (dir_.path() / "disk").string()});
    Overlay& disk = opened();
    EXPECT_EQ(probe_content(disk, {0, disk.size()}).uuid, "ABCD-12EF");
    set_fat_serial(disk, "9E8D-7C6B");
    EXPECT_EQ(probe_content(disk, {0, disk.size()}).uuid, "9E8D-7C6B");
    write_back();
    must_run({"fsck.vfat", "-n", (dir_.path() / "disk").string()}); // compares the two
  }
}

TEST_F(UuidSectors, MbrHasItBehindTheBootCode) {
  Overlay& disk = disk_of(1U << 20);
  set_mbr_signature(disk, "f1d8a2cf");
  Bytes number(8);
  disk.read(436, number);
  EXPECT_EQ(load_le<std::uint32_t>(number, 4), 0xf1d8a2cfU);
  EXPECT_EQ(load_le<std::uint32_t>(number, 0), 0U);
}

TEST(UuidNvram, BootEntriesNameTheNewPartition) {
  TempDir dir;
  const fs::path store = dir.path() / "vars";
  const std::string old_guid("\x4d\x3c\x2b\x1a\x01\x00\x02\x40\x80\x03\xaa\xbb\xcc\xdd\xee\xff", 16);
  const std::string new_guid("\x6c\x7d\x8e\x9f\x11\x11\x22\x42\x93\x33\x00\x01\x02\x03\x04\x05", 16);
  const std::vector<UuidChange> partition{{"partition 1 of disk 0", old_root, new_root}};
  write_file_durably(store, "head" + old_guid + "middle" + old_guid + "tail");
  EXPECT_EQ(renew_in_nvram(store, partition), 2U);
  EXPECT_EQ(read_file(store), "head" + new_guid + "middle" + new_guid + "tail");
  EXPECT_EQ(renew_in_nvram(store, partition), 0U);
  EXPECT_EQ(renew_in_nvram(store, {{"/dev/vda1 (ext4)", new_root, old_root}}), 0U) << "filesystems don't stand there";
  write_file_durably(store, "QFI\xfb");
  EXPECT_THROW(renew_in_nvram(store, partition), Error);
}

// --- what bears a UUID ---------------------------------------------------------------------------------------------

FoundDevice found(const std::string& kind, const std::string& name, const std::string& type, const std::string& uuid) {
  FoundDevice one;
  one.kind = kind;
  one.appliance = one.device.source_name = name;
  one.device.type = type;
  one.device.uuid = uuid;
  one.device.disk = kind == "disk" || kind == "part" ? 0 : -1;
  return one;
}

UuidSurvey lvm_survey() {
  UuidSurvey survey = parse_uuid_survey("@table /dev/sda 11111111-2222-4333-8444-555555555555\n@table /dev/sdb \n"
                                        "@pv aaaaaa-0000-0000-0000-0000-0000-aaaaaa /dev/sda2\n"
                                        "@vg bbbbbb-0000-0000-0000-0000-0000-bbbbbb vg0\n"
                                        "@lv cccccc-0000-0000-0000-0000-0000-cccccc vg0 root\n"
                                        "@lv dddddd-0000-0000-0000-0000-0000-dddddd vg0 [pool_tmeta]\n");
  FoundDevice disk = found("disk", "/dev/sda", "", ""), esp = found("part", "/dev/sda1", "vfat", "ABCD-12EF");
  disk.device.table = esp.device.table = "gpt";
  esp.device.partition = 1;
  esp.device.part_uuid = "22222222-2222-4333-8444-555555555555";
  survey.devices = {disk, esp, found("part", "/dev/sda2", "LVM2_member", "aaaaaa-0000-0000-0000-0000-0000-aaaaaa"),
                    found("lvm", "/dev/vg0/root", "ext4", old_root),
                    found("lvm", "/dev/vg0/root-real", "ext4", old_root)};
  return survey;
}

TEST(UuidHolders, AreTablesPartitionsVolumesAndFilesystems) {
  std::vector<std::string> what;
  for (const UuidHolder& holder : uuid_holders(lvm_survey(), "seed")) {
    what.push_back(holder.change.what);
    EXPECT_EQ(holder.change.after, derive_uuid(holder.change.before, "seed"));
  }
  EXPECT_THAT(what, ElementsAre("partition table of disk 0", "partition 1 of disk 0", "/dev/sda1 (vfat)",
                                "/dev/vg0/root (ext4)", "LVM on /dev/sda2", "volume group vg0",
                                "logical volume vg0/root", "logical volume vg0/pool_tmeta"));
}

TEST(UuidHolders, AreRefusedWhenTheyCantChange) {
  for (const char* type : {"ntfs", "linux_raid_member", "zfs_member", "jbd"}) {
    UuidSurvey survey = lvm_survey();
    survey.devices.push_back(found("part", "/dev/sda3", type, "0123456789ABCDEF"));
    try {
      uuid_holders(survey, "seed");
      FAIL() << type;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), "UUID_UNSUPPORTED");
      EXPECT_THAT(error.summary(), HasSubstr("/dev/sda3"));
    }
  }
}

TEST(UuidHolders, GroupsGetNewNames) {
  std::vector<std::string> warnings;
  const auto changed = group_changes(lvm_survey(), "seed", warnings);
  ASSERT_EQ(changed.size(), 1U);
  EXPECT_EQ(changed[0].before, "vg0");
  EXPECT_EQ(changed[0].after, derive_group_name("vg0", "seed", {"vg0"}));
  EXPECT_THAT(changed[0].volumes, ElementsAre("root", "pool_tmeta"));
  EXPECT_THROW(check_changed(lvm_survey(), {}, changed), Error);
  EXPECT_NO_THROW(check_changed(parse_uuid_survey("@vg x " + changed[0].after), {}, changed));
  EXPECT_THAT(warnings, IsEmpty());
  EXPECT_THAT(group_changes(parse_uuid_survey("@vg x _"), "seed", warnings), IsEmpty());
  EXPECT_THAT(warnings, ElementsAre(HasSubstr("volume group _")));
}

TEST(UuidHolders, AreCheckedAfterwards) {
  UuidSurvey survey;
  survey.devices = {found("part", "/dev/sda1", "ext4", old_root)};
  const auto holders = uuid_holders(survey, "seed");
  EXPECT_THROW(check_changed(survey, holders, {}), Error);
  survey.devices[0].device.uuid = holders[0].change.after;
  EXPECT_NO_THROW(check_changed(survey, holders, {}));
}

TEST(UuidHolders, StayWhenGrubHasThemBuiltIn) {
  const auto kept_with = [](const CloneTree& tree, const std::string& boot_device, int disk, Firmware firmware) {
    GuestInfo info;
    info.firmware = firmware;
    info.boot_loaders = {"grub2"};
    info.devices.resize(1);
    info.devices[0].source_name = boot_device;
    info.devices[0].disk = disk;
    info.mounts = {{"/", boot_device, "ext4", ""}};
    std::vector<std::string> warnings;
    const auto all = uuid_holders(lvm_survey(), "seed");
    const auto left = without_those_in_grub(all, info, tree.filesystem(), warnings);
    EXPECT_EQ(all.size() - left.size(), warnings.size());
    (void)without_those_in_grub(groups, info, tree.filesystem(), warnings);
    return warnings;
  };
  CloneTree tree;
  EXPECT_THAT(kept_with(tree, "/dev/vda1", 0, Firmware::bios), IsEmpty());
  EXPECT_THAT(kept_with(tree, "/dev/vg0/root", -1, Firmware::uefi), IsEmpty());
  EXPECT_THAT(kept_with(tree, "/dev/vg0/root", -1, Firmware::bios),
              ElementsAre(HasSubstr("volume group vg0 keeps its UUID"), HasSubstr("logical volume vg0/root"),
                          HasSubstr("volume group vg0 keeps its name")));
  EXPECT_THAT(kept_with(tree, "/dev/vg01/root", -1, Firmware::bios), IsEmpty());
  tree.file("/boot/grub/i386-pc/load.cfg", "search.fs_uuid 0 root lvm/deb--vg-root\n");
  EXPECT_THAT(kept_with(tree, "/dev/vda1", 0, Firmware::bios), ElementsAre(HasSubstr("deb-vg keeps its name")));
  tree.file("/boot/grub/i386-pc/load.cfg", std::string("search.fs_uuid ") + old_root + " root hd0,gpt2\n");
  EXPECT_THAT(kept_with(tree, "/dev/vda1", 0, Firmware::bios), ElementsAre(HasSubstr("/dev/vg0/root (ext4)")));
}

} // namespace
} // namespace kvmport::test
