// SPDX-License-Identifier: Apache-2.0
// New UUIDs and names of volume groups without an appliance: texts in every notation, guests' trees, initramfs images,
// sectors and LVM's labels, NVRAM, and what the survey of the disks makes of an answer.
#include "base/error.h"
#include "base/file.h"
#include "base/process.h"
#include "formats/partitions.h"
#include "libconvert/clone/new_uuids.h"
#include "libconvert/clone/uuid_disks.h"
#include "libconvert/clone/uuid_files.h"
#include "libconvert/guest/linux/initramfs_image.h"
#include "tests/clone/clone_tree.h"

#include <gmock/gmock.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

const std::vector<UuidChange> changes{
    {"/dev/vda2 (ext4)", "1a2b3c4d-0001-4002-8003-aabbccddeeff", "9f8e7d6c-1111-4222-9333-000102030405"},
    {"/dev/vda3 (swap)", "5ac81070-7957-5beb-983a-c73dacaaa0d3", "d758a155-df03-4512-8cc1-2a0cb829ed74"},
    {"/dev/vda1 (vfat)", "ABCD-12EF", "9E8D-7C6B"},
    {"partition 1 of disk 0", "612e9c80-01", "f1d8a2cf-01"},
    {"partition table of disk 0", "612e9c80", "f1d8a2cf"},
    {"volume group vg0", "oO8Nsr-aB1c-dE2f-gH3i-jK4l-mN5o-pQ6rSt", "Zz9Yx8-Ww7V-Uu6T-Ss5R-Qq4P-Oo3N-Mm2LkJ"},
    {"logical volume vg0/root", "vhyyIW-0001-0002-0003-0004-0005-abcdef", "kLmNoP-1111-2222-3333-4444-5555-qwerty"}};

const std::vector<GroupChange> groups{{"vg0", "7k3", {"root", "swap", "a-b", "home"}}, {"deb-vg", "d4b-2m", {"root"}}};
const Renaming renaming{changes, groups};

struct TextCase {
  const char *name, *before, *after;
};
void PrintTo(const TextCase& c, std::ostream* out) {
  *out << c.name;
}

class UuidText : public testing::TestWithParam<TextCase> {};

TEST_P(UuidText, IsReplacedAtItsLength) {
  const std::string after = replace_uuids(GetParam().before, changes);
  EXPECT_EQ(after, GetParam().after);
  EXPECT_EQ(after.size(), std::string(GetParam().before).size());
}

INSTANTIATE_TEST_SUITE_P(
    All, UuidText,
    testing::Values(
        TextCase{"plain", "UUID=1a2b3c4d-0001-4002-8003-aabbccddeeff /", "UUID=9f8e7d6c-1111-4222-9333-000102030405 /"},
        TextCase{"upper_case", "1A2B3C4D-0001-4002-8003-AABBCCDDEEFF", "9F8E7D6C-1111-4222-9333-000102030405"},
        TextCase{"unit_name", R"(dev-disk-by\x2duuid-1a2b3c4d\x2d0001\x2d4002\x2d8003\x2daabbccddeeff.device)",
                 R"(dev-disk-by\x2duuid-9f8e7d6c\x2d1111\x2d4222\x2d9333\x2d000102030405.device)"},
        TextCase{"dracut_hook", R"(devexists-\x2fdev\x2fdisk\x2fby-uuid\x2f1a2b3c4d-0001-4002-8003-aabbccddeeff.sh)",
                 R"(devexists-\x2fdev\x2fdisk\x2fby-uuid\x2f9f8e7d6c-1111-4222-9333-000102030405.sh)"},
        TextCase{"luks_name", "rd.luks.uuid=luks-1a2b3c4d-0001-4002-8003-aabbccddeeff",
                 "rd.luks.uuid=luks-9f8e7d6c-1111-4222-9333-000102030405"},
        TextCase{"grub_cryptodisk", "set root='cryptouuid/1a2b3c4d000140028003aabbccddeeff'",
                 "set root='cryptouuid/9f8e7d6c111142229333000102030405'"},
        TextCase{"mdadm", "UUID=1a2b3c4d:00014002:8003aabb:ccddeeff", "UUID=9f8e7d6c:11114222:93330001:02030405"},
        TextCase{"fat", "UUID=ABCD-12EF /boot/efi", "UUID=9E8D-7C6B /boot/efi"},
        TextCase{"fat_lower", "search --fs-uuid abcd-12ef", "search --fs-uuid 9e8d-7c6b"},
        TextCase{"fat_unit", R"(dev-disk-by\x2duuid-ABCD\x2d12EF.device)",
                 R"(dev-disk-by\x2duuid-9E8D\x2d7C6B.device)"},
        TextCase{"fat_inside_a_uuid", "00000000-abcd-12ef-0000-000000000000", "00000000-abcd-12ef-0000-000000000000"},
        TextCase{"mbr", "root=PARTUUID=612e9c80-01 ro", "root=PARTUUID=f1d8a2cf-01 ro"},
        TextCase{"mbr_offset", "root=PARTUUID=612e9c80-01/PARTNROFF=1", "root=PARTUUID=f1d8a2cf-01/PARTNROFF=1"},
        TextCase{"mbr_unit", R"(dev-disk-by\x2dpartuuid-612e9c80\x2d01.swap)",
                 R"(dev-disk-by\x2dpartuuid-f1d8a2cf\x2d01.swap)"},
        TextCase{"mbr_signature", "label-id: 0x612e9c80", "label-id: 0xf1d8a2cf"},
        TextCase{"mbr_longer_number", "612e9c80-012 x612e9c80-01", "612e9c80-012 x612e9c80-01"},
        TextCase{"lvm", "lvmid/oO8Nsr-aB1c-dE2f-gH3i-jK4l-mN5o-pQ6rSt/vhyyIW-0001-0002-0003-0004-0005-abcdef",
                 "lvmid/Zz9Yx8-Ww7V-Uu6T-Ss5R-Qq4P-Oo3N-Mm2LkJ/kLmNoP-1111-2222-3333-4444-5555-qwerty"},
        TextCase{"lvm_mapper", "LVM-oO8NsraB1cdE2fgH3ijK4lmN5opQ6rStvhyyIW00010002000300040005abcdef",
                 "LVM-Zz9Yx8Ww7VUu6TSs5RQq4POo3NMm2LkJkLmNoP11112222333344445555qwerty"},
        TextCase{"lvm_other_case", "OO8NSR-aB1c-dE2f-gH3i-jK4l-mN5o-pQ6rSt", "OO8NSR-aB1c-dE2f-gH3i-jK4l-mN5o-pQ6rSt"},
        TextCase{"another", "UUID=00000000-0001-4002-8003-aabbccddeeff", "UUID=00000000-0001-4002-8003-aabbccddeeff"}),
    [](const auto& info) { return std::string(info.param.name); });

class GroupText : public testing::TestWithParam<TextCase> {};

TEST_P(GroupText, IsRenamedWhereItMeansAGroup) {
  EXPECT_EQ(renamed_text("/etc/file", GetParam().before, renaming), GetParam().after);
  EXPECT_EQ(renamed_text("/etc/file", GetParam().after, renaming), GetParam().after);
}

INSTANTIATE_TEST_SUITE_P(
    All, GroupText,
    testing::Values(
        TextCase{"path", "/dev/vg0/root / ext4", "/dev/7k3/root / ext4"},
        TextCase{"path_with_dash", "/dev/deb-vg/root", "/dev/d4b-2m/root"},
        TextCase{"path_below_sysroot", "mount /sysroot/dev/vg0/swap;", "mount /sysroot/dev/7k3/swap;"},
        TextCase{"path_of_no_volume", "/dev/vg0/other", "/dev/vg0/other"},
        TextCase{"path_that_ends_with_it", "/dev/my/vg0/root", "/dev/my/vg0/root"},
        TextCase{"mapper", "root=/dev/mapper/vg0-root ro", "root=/dev/mapper/7k3-root ro"},
        TextCase{"mapper_doubled", "/dev/mapper/vg0-a--b /dev/mapper/deb--vg-root",
                 "/dev/mapper/7k3-a--b /dev/mapper/d4b--2m-root"},
        TextCase{"mapper_of_crypt", "/dev/mapper/vg0-home_crypt", "/dev/mapper/vg0-home_crypt"},
        TextCase{"mapper_of_another_group", "/dev/mapper/vg0--root-root", "/dev/mapper/vg0--root-root"},
        TextCase{"by_id", "/dev/disk/by-id/dm-name-vg0-swap", "/dev/disk/by-id/dm-name-7k3-swap"},
        TextCase{"grub", "set root='lvm/vg0-root'", "set root='lvm/7k3-root'"},
        TextCase{"grub_prefix", "(lvm/deb--vg-root)/boot/grub", "(lvm/d4b--2m-root)/boot/grub"},
        TextCase{"grub_hints", "--hint='lvm/vg0-root'  1a2b", "--hint='lvm/7k3-root'  1a2b"},
        TextCase{"dracut", "rd.lvm.lv=vg0/root rd.lvm.lv=deb-vg/root rd.lvm.vg=vg0",
                 "rd.lvm.lv=7k3/root rd.lvm.lv=d4b-2m/root rd.lvm.vg=7k3"},
        TextCase{"dracut_old", "rd_LVM_LV=vg0/root rd_LVM_VG=vg0", "rd_LVM_LV=7k3/root rd_LVM_VG=7k3"},
        TextCase{"dracut_other_group", "rd.lvm.vg=vg01 rd.lvm.lv=vg01/root", "rd.lvm.vg=vg01 rd.lvm.lv=vg01/root"},
        TextCase{"dracut_hook", R"(devexists-\x2fdev\x2fmapper\x2fvg0-root.sh devexists-\x2fdev\x2fvg0\x2froot.sh)",
                 R"(devexists-\x2fdev\x2fmapper\x2f7k3-root.sh devexists-\x2fdev\x2f7k3\x2froot.sh)"},
        TextCase{"resume", "RESUME=/dev/mapper/vg0-swap\n", "RESUME=/dev/mapper/7k3-swap\n"},
        TextCase{"unit", R"(dev-mapper-vg0\x2droot.device dev-mapper-deb\x2d\x2dvg\x2droot.device)",
                 R"(dev-mapper-7k3\x2droot.device dev-mapper-d4b\x2d\x2d2m\x2droot.device)"},
        TextCase{"unit_of_volume_with_dash", R"(dev-mapper-vg0\x2da\x2d\x2db.swap)",
                 R"(dev-mapper-7k3\x2da\x2d\x2db.swap)"},
        TextCase{"unit_of_crypt", R"(dev-mapper-vg0\x2droot\x2dx.device)", R"(dev-mapper-vg0\x2droot\x2dx.device)"},
        TextCase{"unit_of_path", R"(systemd-fsck@dev-vg0-root.service dev-deb\x2dvg-root.device)",
                 R"(systemd-fsck@dev-7k3-root.service dev-d4b\x2d2m-root.device)"},
        TextCase{"unit_of_id", R"(dev-disk-by\x2did-dm\x2dname\x2dvg0\x2dswap.swap)",
                 R"(dev-disk-by\x2did-dm\x2dname\x2d7k3\x2dswap.swap)"},
        TextCase{"cryptroot", "target=r,source=/dev/mapper/vg0-root,lvm=vg0-root", // Debian's before buster
                 "target=r,source=/dev/mapper/7k3-root,lvm=7k3-root"},
        TextCase{"udev", R"(ENV{DM_VG_NAME}=="vg0", ENV{DM_NAME}=="vg0-root")",
                 R"(ENV{DM_VG_NAME}=="7k3", ENV{DM_NAME}=="7k3-root")"},
        TextCase{"uuid_beside_it", "LVM2 oO8Nsr-aB1c-dE2f-gH3i-jK4l-mN5o-pQ6rSt /dev/vg0/root",
                 "LVM2 Zz9Yx8-Ww7V-Uu6T-Ss5R-Qq4P-Oo3N-Mm2LkJ /dev/7k3/root"},
        TextCase{"bare_word", "host vg0 and vg0/root and vg0-root in /srv/vg0/root",
                 "host vg0 and vg0/root and vg0-root in /srv/vg0/root"},
        TextCase{"list_elsewhere", R"(volume_list = [ "vg0" ])", R"(volume_list = [ "vg0" ])"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_P(GroupText, IsFoundBeforeAndNotAfter) {
  std::vector<std::string> grep{"grep", "-cE"};
  for (const GroupChange& group : groups)
    for (const GroupNotation& notation : group_notations(group))
      grep.insert(grep.end(), {"-e", old_name_pattern(notation)});
  TempDir dir;
  const fs::path file = dir.path() / "file";
  grep.push_back(file);
  const auto [name, before, after] = GetParam();
  write_file_durably(file, before);
  EXPECT_EQ(run_process(grep, std::chrono::seconds(10)).exit_code, std::string(before) == after ? 1 : 0);
  write_file_durably(file, after);
  EXPECT_EQ(run_process(grep, std::chrono::seconds(10)).exit_code, 1);
}

TEST(GroupFile, OfLvmNamesGroupsBySyntax) {
  const std::string conf = "# volume_list = [ \"vg0\" ]\nactivation {\n\tauto_activation_volume_list = [ \"vg0\",\n\t"
                           "\"vg0/root\", \"vg01\", \"@vg0\" ]\n\tvolume_list=\"deb-vg\"\n\tmode = \"vg0\"\n}\n";
  EXPECT_EQ(renamed_text("etc/lvm/lvm.conf", conf, renaming),
            "# volume_list = [ \"vg0\" ]\nactivation {\n\tauto_activation_volume_list = [ \"7k3\",\n\t"
            "\"7k3/root\", \"vg01\", \"@vg0\" ]\n\tvolume_list=\"d4b-2m\"\n\tmode = \"vg0\"\n}\n");
  for (const char* odd : {"volume_list", "volume_list = ", "volume_list = [", "volume_list = [ \"vg0"})
    EXPECT_EQ(renamed_text("/etc/lvm/lvm.conf", odd, renaming), odd);

  const std::string backup = "# vg0 {\ncontents = \"Text Format Volume Group\"\ndescription = \"vg0 { \\\" vg0 {\"\n"
                             "vg0 {\n\tphysical_volumes {\n\t\tvg0 {\n\t\t\tdevice = \"/dev/vg0/root\"\n}}}\n";
  EXPECT_EQ(renamed_text("/etc/lvm/backup/vg0", backup, renaming),
            "# vg0 {\ncontents = \"Text Format Volume Group\"\ndescription = \"vg0 { \\\" vg0 {\"\n"
            "7k3 {\n\tphysical_volumes {\n\t\tvg0 {\n\t\t\tdevice = \"/dev/7k3/root\"\n}}}\n");
}

TEST(GroupPath, IsRenamedInUnitsAndBackups) {
  for (const auto& [before, after] : std::map<std::string, std::string>{
           {"/etc/lvm/backup/vg0", "/etc/lvm/backup/7k3"},
           {"/etc/lvm/backup/vg01", "/etc/lvm/backup/vg01"},
           {"/etc/lvm/archive/vg0_00012-123.vg", "/etc/lvm/archive/7k3_00012-123.vg"},
           {"/etc/lvm/archive/vg0_1_00012-123.vg", "/etc/lvm/archive/vg0_1_00012-123.vg"},
           {"/srv/backup/vg0", "/srv/backup/vg0"},
           {"vg0", "vg0"},
           {"/dev/mapper/vg0-root", "/dev/mapper/7k3-root"},
           {R"(/etc/systemd/system/dev-mapper-vg0\x2dswap.swap)",
            R"(/etc/systemd/system/dev-mapper-7k3\x2dswap.swap)"}})
    EXPECT_EQ(renamed_path(before, renaming), after);
}

TEST(DeriveGroupName, KeepsTheFormAndIsNobodyElses) {
  const auto derive = [](const std::string& name, const std::set<std::string>& taken = {}) {
    return derive_group_name(name, "seed", taken);
  };
  for (const std::string name : {"vg0", "debian-vg", "VolGroup00", "a", "x+y.z", "-a-"}) {
    const std::string derived = derive(name);
    ASSERT_EQ(derived.size(), name.size());
    EXPECT_NE(derived, name);
    EXPECT_EQ(derived, derive(name));
    EXPECT_TRUE(name.size() < 3 || derived != derive_group_name(name, "another seed", {}));
    for (std::size_t i = 0; i < name.size(); i++)
      EXPECT_EQ(std::isalnum(name[i]) != 0, std::isalnum(derived[i]) != 0 && derived[i] != '-') << derived;
    EXPECT_NE(derive(name, {derived}), derived);
  }
  EXPECT_TRUE(derive("VolGroup00").starts_with("VolGr"));
  EXPECT_EQ(derive("_._"), "");
  EXPECT_EQ(derive("a", {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}), "");
}

TEST(DeriveUuid, KeepsTheFormAndFollowsFromOldAndSeed) {
  for (const UuidChange& change : changes) {
    const std::string derived = derive_uuid(change.before, "seed");
    EXPECT_EQ(derived.size(), change.before.size());
    EXPECT_NE(derived, change.before);
    EXPECT_EQ(derived, derive_uuid(change.before, "seed"));
    EXPECT_NE(derived, derive_uuid(change.before, "another seed"));
  }
  EXPECT_EQ(derive_uuid("612e9c80-02", "seed"), derive_uuid("612e9c80", "seed") + "-02");
  EXPECT_EQ(derive_uuid("ABCD-12EF", "seed")[4], '-');
}

// --- trees -------------------------------------------------------------------------------------------------------

std::string grubenv(const std::string& lines) {
  std::string block = "# GRUB Environment Block\n" + lines;
  block.resize(1024, '#');
  return block;
}

Plan renew(CloneTree& tree, const GuestInfo& info = {}) {
  const Step step{"new-uuids", [](const GuestInfo& i, Draft& draft) { renew_uuids_in_files(i, renaming, draft); }};
  Plan plan = make_plan(info, tree.filesystem(), {step});
  apply_plan(plan, tree.filesystem());
  return plan;
}

constexpr const char* old_root = "1a2b3c4d-0001-4002-8003-aabbccddeeff";
constexpr const char* new_root = "9f8e7d6c-1111-4222-9333-000102030405";
constexpr const char* old_swap = "5ac81070-7957-5beb-983a-c73dacaaa0d3";
constexpr const char* new_swap = "d758a155-df03-4512-8cc1-2a0cb829ed74";

std::string cpio(const std::map<std::string, std::string>& files) {
  linux_guest::CpioWriter writer;
  for (const auto& [name, content] : files)
    writer.file(name, content);
  return writer.finish();
}

std::string efi_program(const std::string& text, bool is_signed) {
  std::string image(0x400, '\0');
  image.replace(0, 2, "MZ");
  image[0x3c] = '\x40';
  image.replace(0x40, 2, "PE");
  image[0x58] = '\x0b'; // PE32+
  image[0x59] = '\x02';
  image[0x58 + 108] = 16;
  image[0x58 + 112 + 4 * 8 + 4] = is_signed ? 8 : 0;
  return image + text + std::string(64, '\0');
}

TEST(UuidTree, DebianWithGrub) {
  CloneTree tree;
  tree.file("/etc/fstab", std::string("UUID=") + old_root + " / ext4 defaults 0 1\nUUID=ABCD-12EF /boot/efi vfat\n")
      .file("/etc/crypttab", std::string("data UUID=") + old_swap + " none luks\n", 0600)
      .file("/etc/default/grub", std::string("GRUB_CMDLINE_LINUX=\"resume=UUID=") + old_swap + "\"\n")
      .file("/etc/initramfs-tools/conf.d/resume", std::string("RESUME=UUID=") + old_swap + "\n")
      .file("/etc/lvm/backup/vg0", "id = \"oO8Nsr-aB1c-dE2f-gH3i-jK4l-mN5o-pQ6rSt\"\n", 0600)
      .file("/boot/grub/grub.cfg", std::string("search --fs-uuid --set=root ") + old_root + "\n")
      .file("/boot/efi/EFI/debian/grub.cfg", std::string("search.fs_uuid ") + old_root + " root\n")
      .file("/etc/hostname", "db1\n");
  const Plan plan = renew(tree);
  EXPECT_EQ(tree.read("/etc/fstab"),
            std::string("UUID=") + new_root + " / ext4 defaults 0 1\nUUID=9E8D-7C6B /boot/efi vfat\n");
  EXPECT_THAT(tree.read("/etc/crypttab"), HasSubstr(new_swap));
  EXPECT_THAT(tree.read("/etc/default/grub"), HasSubstr(new_swap));
  EXPECT_THAT(tree.read("/etc/initramfs-tools/conf.d/resume"), HasSubstr(new_swap));
  EXPECT_THAT(tree.read("/etc/lvm/backup/7k3"), HasSubstr("Zz9Yx8-"));
  EXPECT_THAT(tree.read("/boot/grub/grub.cfg"), HasSubstr(new_root));
  EXPECT_THAT(tree.read("/boot/efi/EFI/debian/grub.cfg"), HasSubstr(new_root));
  EXPECT_EQ(plan.changes.size(), 8U);
  EXPECT_THAT(plan.warnings, IsEmpty());
  for (const Change& change : plan.changes)
    EXPECT_EQ(change.binary, change.kind == Change::Kind::write &&
                                 (change.path == "/etc/crypttab" || change.path == "/etc/lvm/backup/vg0"))
        << change.path;
}

TEST(UuidTree, VolumeGroupsByName) {
  const std::string unit = R"(/etc/systemd/system/dev-mapper-vg0\x2dswap.swap)",
                    renamed = R"(/etc/systemd/system/dev-mapper-7k3\x2dswap.swap)";
  const std::string metadata = "vg0 {\nid = \"x\"\n}\ncontents = \"Text Format Volume Group\"\n";
  CloneTree tree;
  tree.file("/etc/fstab", "/dev/mapper/vg0-root / ext4\n/dev/vg0/swap none swap\n")
      .file("/etc/crypttab", "vg0-home_crypt /dev/vg0/home none luks\n", 0600)
      .file("/etc/default/grub", "GRUB_CMDLINE_LINUX=\"resume=/dev/mapper/vg0-swap rd.lvm.lv=vg0/root\"\n")
      .file("/etc/lvm/backup/vg0", metadata, 0600)
      .file("/etc/lvm/archive/vg0_00000-1.vg", metadata, 0600)
      .file("/etc/hosts", "10.0.0.1 vg0\n")
      .file(unit, "[Swap]\nWhat=/dev/mapper/vg0-swap\n")
      .link("../dev-mapper-vg0\\x2dswap.swap", "/etc/systemd/system/swap.target.wants/dev-mapper-vg0\\x2dswap.swap")
      .file("/boot/grub/grub.cfg", "set root='lvm/vg0-root'\nlinux /vmlinuz root=/dev/mapper/vg0-root ro\n")
      .file("/boot/grub/grubenv", grubenv("kernelopts=root=/dev/mapper/vg0-root ro\n"))
      .file("/boot/loader/entries/a.conf", "options root=/dev/mapper/vg0-root\n")
      .file("/boot/efi/EFI/debian/grub.cfg", "set prefix=(lvm/vg0-root)/boot/grub\n")
      .file("/boot/efi/EFI/debian/grubx64.efi", efi_program("(lvm/vg0-root)/boot/grub", false))
      .file("/boot/initrd.img-6.1.0", cpio({{"conf/conf.d/resume", "RESUME=/dev/mapper/vg0-swap\n"},
                                            {"cryptroot/crypttab", "r /dev/mapper/vg0-root none luks\n"},
                                            {"etc/lvm/lvm.conf", "volume_list = [\"vg0\"]\n"}}));
  const Plan plan = renew(tree);
  EXPECT_EQ(tree.read("/etc/fstab"), "/dev/mapper/7k3-root / ext4\n/dev/7k3/swap none swap\n");
  EXPECT_EQ(tree.read("/etc/crypttab"), "vg0-home_crypt /dev/7k3/home none luks\n");
  EXPECT_EQ(tree.read("/etc/default/grub"), "GRUB_CMDLINE_LINUX=\"resume=/dev/mapper/7k3-swap rd.lvm.lv=7k3/root\"\n");
  EXPECT_EQ(tree.read("/etc/lvm/backup/7k3").substr(0, 5), "7k3 {");
  EXPECT_EQ(tree.read("/etc/lvm/archive/7k3_00000-1.vg").substr(0, 5), "7k3 {");
  EXPECT_FALSE(tree.exists("/etc/lvm/backup/vg0"));
  EXPECT_EQ(tree.read("/etc/hosts"), "10.0.0.1 vg0\n");
  EXPECT_EQ(tree.read(renamed), "[Swap]\nWhat=/dev/mapper/7k3-swap\n");
  EXPECT_EQ(tree.read("/etc/systemd/system/swap.target.wants/dev-mapper-7k3\\x2dswap.swap"), tree.read(renamed));
  EXPECT_EQ(tree.read("/boot/grub/grub.cfg"), "set root='lvm/7k3-root'\nlinux /vmlinuz root=/dev/mapper/7k3-root ro\n");
  EXPECT_EQ(tree.read("/boot/grub/grubenv"), grubenv("kernelopts=root=/dev/mapper/7k3-root ro\n"));
  EXPECT_EQ(tree.read("/boot/loader/entries/a.conf"), "options root=/dev/mapper/7k3-root\n");
  EXPECT_EQ(tree.read("/boot/efi/EFI/debian/grub.cfg"), "set prefix=(lvm/7k3-root)/boot/grub\n");
  EXPECT_EQ(tree.read("/boot/efi/EFI/debian/grubx64.efi"), efi_program("(lvm/7k3-root)/boot/grub", false));
  const linux_guest::InitramfsTree initramfs(tree.read("/boot/initrd.img-6.1.0"),
                                             [](const std::string&) { return true; });
  EXPECT_EQ(*initramfs.content("conf/conf.d/resume"), "RESUME=/dev/mapper/7k3-swap\n");
  EXPECT_EQ(*initramfs.content("cryptroot/crypttab"), "r /dev/mapper/7k3-root none luks\n");
  EXPECT_EQ(*initramfs.content("etc/lvm/lvm.conf"), "volume_list = [\"7k3\"]\n");
  EXPECT_THAT(plan.warnings, IsEmpty());
}

TEST(UuidTree, DracutWithLoaderEntriesAndUnitsCalledAfterDevices) {
  const std::string old_unit =
                        R"(/etc/systemd/system/dev-disk-by\x2duuid-5ac81070\x2d7957\x2d5beb\x2d983a\x2dc73dacaaa0d3)",
                    new_unit =
                        R"(/etc/systemd/system/dev-disk-by\x2duuid-d758a155\x2ddf03\x2d4512\x2d8cc1\x2d2a0cb829ed74)";
  const std::string name(fs::path(old_unit).filename());
  CloneTree tree;
  tree.file("/boot/grub2/grubenv", grubenv(std::string("kernelopts=root=UUID=") + old_root + " ro\n"))
      .file("/boot/loader/entries/a.conf", std::string("options root=UUID=") + old_root + " ro\n")
      .file("/etc/kernel/cmdline", std::string("root=UUID=") + old_root + "\n")
      .file("/etc/dracut.conf.d/r.conf", std::string("add_device+=\" /dev/disk/by-uuid/") + old_swap + " \"\n")
      .file("/etc/lvm/devices/system.devices",
            "IDTYPE=devname IDNAME=/dev/vda3 PVID=oO8NsraB1cdE2fgH3ijK4lmN5opQ6rSt\n")
      .file(old_unit + ".swap", std::string("[Swap]\nWhat=/dev/disk/by-uuid/") + old_swap + "\n")
      .file(old_unit + ".device.d/timeout.conf", "[Unit]\nJobTimeoutSec=3000\n")
      .link("../" + name + ".swap", "/etc/systemd/system/swap.target.wants/" + name + ".swap");
  const Plan plan = renew(tree);
  EXPECT_EQ(tree.read("/boot/grub2/grubenv"), grubenv(std::string("kernelopts=root=UUID=") + new_root + " ro\n"));
  EXPECT_THAT(tree.read("/boot/loader/entries/a.conf"), HasSubstr(new_root));
  EXPECT_THAT(tree.read("/etc/kernel/cmdline"), HasSubstr(new_root));
  EXPECT_THAT(tree.read("/etc/dracut.conf.d/r.conf"), HasSubstr(new_swap));
  EXPECT_THAT(tree.read("/etc/lvm/devices/system.devices"), HasSubstr("PVID=Zz9Yx8Ww7VUu6TSs5RQq4POo3NMm2LkJ"));
  EXPECT_THAT(tree.read(new_unit + ".swap"), HasSubstr(new_swap));
  EXPECT_TRUE(tree.exists(new_unit + ".device.d/timeout.conf"));
  EXPECT_FALSE(tree.exists(old_unit + ".swap"));
  EXPECT_FALSE(tree.exists(old_unit + ".device.d"));
  const std::string wanted =
      "/etc/systemd/system/swap.target.wants/" + std::string(fs::path(new_unit).filename()) + ".swap";
  EXPECT_THAT(tree.read(wanted), HasSubstr(new_swap));
  EXPECT_THAT(plan.warnings, IsEmpty());
}

TEST(UuidTree, SystemdBootAndProgramsOnTheEsp) {
  CloneTree tree;
  const std::string built_in = std::string("search.fs_uuid ") + old_root + " root ";
  GuestInfo info;
  info.esp_path = "/efi";
  info.kernels = {{"6.1.0", "/efi/id/6.1.0/linux", "/efi/id/6.1.0/initrd", ""}};
  tree.file("/efi/loader/entries/id.conf", std::string("options root=PARTUUID=612e9c80-01 resume=UUID=") + old_swap)
      .file("/efi/EFI/arch/grubx64.efi", efi_program(built_in, false))
      .file("/efi/EFI/debian/shimx64.efi", efi_program("nothing", true))
      .file("/efi/EFI/refind/refind.conf", std::string("volume ") + old_root + "\n")
      .file("/efi/id/6.1.0/initrd", cpio({{"conf/conf.d/resume", std::string("RESUME=UUID=") + old_swap}}));
  const Plan plan = renew(tree, info);
  EXPECT_EQ(tree.read("/efi/loader/entries/id.conf"),
            std::string("options root=PARTUUID=f1d8a2cf-01 resume=UUID=") + new_swap);
  EXPECT_EQ(tree.read("/efi/EFI/arch/grubx64.efi"),
            efi_program(std::string("search.fs_uuid ") + new_root + " root ", false));
  EXPECT_THAT(tree.read("/efi/EFI/refind/refind.conf"), HasSubstr(new_root));
  const linux_guest::InitramfsTree initramfs(tree.read("/efi/id/6.1.0/initrd"),
                                             [](const std::string&) { return true; });
  EXPECT_EQ(*initramfs.content("conf/conf.d/resume"), std::string("RESUME=UUID=") + new_swap);
  EXPECT_EQ(plan.changes.size(), 4U);
  EXPECT_THAT(plan.warnings, IsEmpty());
}

TEST(UuidTree, ASignedProgramThatNamesOneIsRefused) {
  CloneTree tree;
  tree.file("/boot/efi/EFI/Linux/a.efi", efi_program(std::string("root=UUID=") + old_root, true));
  try {
    renew(tree);
    FAIL() << "not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "UUID_UNSUPPORTED");
  }
}

TEST(UuidTree, WhatIsNoTextStaysWithAWarning) {
  CloneTree tree;
  const std::string binary = std::string("a\0b", 3) + old_root;
  tree.file("/etc/state.db", binary);
  const Plan plan = renew(tree);
  EXPECT_EQ(tree.read("/etc/state.db"), binary);
  EXPECT_THAT(plan.warnings, ElementsAre(HasSubstr("/etc/state.db")));
}

TEST(UuidTree, AGuestThatNamesNoneIsLeftAlone) {
  CloneTree tree;
  tree.file("/etc/fstab", "LABEL=root / ext4 defaults 0 1\n")
      .file("/boot/initrd.img-6.1.0", cpio({{"etc/fstab", "LABEL=root / ext4\n"}}))
      .link("nowhere", "/etc/dangling");
  EXPECT_THAT(renew(tree).changes, IsEmpty());
}

// --- initramfs ---------------------------------------------------------------------------------------------------

TEST(UuidInitramfs, OfDracutWaitsForTheNewDevice) {
  const std::string hooks = "usr/lib/dracut/hooks/initqueue/finished/devexists-\\x2fdev\\x2fdisk\\x2fby-uuid\\x2f";
  const std::string wants = "etc/systemd/system/initrd.target.wants/dev-disk-by\\x2duuid-";
  const std::string old_escaped = "1a2b3c4d\\x2d0001\\x2d4002\\x2d8003\\x2daabbccddeeff.device",
                    new_escaped = "9f8e7d6c\\x2d1111\\x2d4222\\x2d9333\\x2d000102030405.device";
  linux_guest::CpioWriter writer;
  writer.directory("etc");
  writer.file("etc/cmdline.d/95resume.conf", std::string(" resume=UUID=") + old_swap);
  writer.file("usr/bin/tool", std::string("\x7f\0ELF", 5) + old_root);
  writer.file(hooks + old_root + ".sh", std::string("[ -e /dev/disk/by-uuid/") + old_root + " ]", 0755);
  writer.symlink(wants + old_escaped, "../dev-disk-by\\x2duuid-" + old_escaped);
  const std::string before = writer.finish();

  CloneTree tree;
  tree.file("/boot/initramfs-6.1.0.img", before);
  const Plan plan = renew(tree);
  ASSERT_EQ(plan.changes.size(), 1U);
  EXPECT_EQ(plan.changes[0].kind, Change::Kind::append);
  const std::string image = tree.read("/boot/initramfs-6.1.0.img");
  EXPECT_TRUE(image.starts_with(before));
  const linux_guest::InitramfsTree after(image, [](const std::string&) { return true; });
  EXPECT_EQ(*after.content("etc/cmdline.d/95resume.conf"), std::string(" resume=UUID=") + new_swap);
  EXPECT_EQ(*after.content(hooks + old_root + ".sh"), "");
  EXPECT_EQ(*after.content(hooks + new_root + ".sh"), std::string("[ -e /dev/disk/by-uuid/") + new_root + " ]");
  EXPECT_EQ(after.entries().at(hooks + new_root + ".sh").mode & 0777U, 0755U);
  EXPECT_TRUE(after.entries().at(wants + old_escaped).is_file()) << "an empty unit masks what the link asked for";
  EXPECT_EQ(*after.content(wants + new_escaped), "../dev-disk-by\\x2duuid-" + new_escaped);
  EXPECT_THAT(*after.content("usr/bin/tool"), HasSubstr(old_root));
  EXPECT_THAT(renew(tree).changes, IsEmpty()) << "once is enough";
}

TEST(UuidInitramfs, ThatIsNoneStaysWithAWarning) {
  CloneTree tree;
  tree.file("/boot/initrd.img-1", "no archive");
  const Plan plan = renew(tree);
  EXPECT_THAT(plan.changes, IsEmpty());
  EXPECT_THAT(plan.warnings, ElementsAre(HasSubstr("/boot/initrd.img-1")));
}

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
