// SPDX-License-Identifier: Apache-2.0
// UUIDs and names of volume groups in texts and paths, in every notation, and how the new ones are made.
#include "base/file.h"
#include "base/process.h"
#include "tests/clone/uuid_support.h"

#include <gmock/gmock.h>
#include <map>
#include <set>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

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

} // namespace
} // namespace kvmport::test
