// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/guest_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvmport::test {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

GuestInfo uefi_guest(const std::string& distro) {
  GuestInfo info = one_disk_guest();
  info.firmware = Firmware::uefi;
  info.esp_path = "/boot/efi";
  info.distro = distro;
  return info;
}

const std::string esp = "/boot/efi/EFI/";

TEST(UefiFallback, ShimBringsItsSecondStageAndConfiguration) {
  GuestTree tree;
  tree.file(esp + "debian/shimx64.efi", "SHIM")
      .file(esp + "debian/grubx64.efi", "GRUB")
      .file(esp + "debian/mmx64.efi", "MOK")
      .file(esp + "debian/fbx64.efi", "FALLBACK")
      .file(esp + "debian/grub.cfg", "configfile $prefix/grub.cfg\n");
  const Plan plan = tree.run(uefi_guest("debian"), linux_guest::uefi_fallback_step);
  EXPECT_EQ(tree.read(esp + "BOOT/BOOTX64.EFI"), "SHIM");
  EXPECT_EQ(tree.read(esp + "BOOT/grubx64.efi"), "GRUB");
  EXPECT_EQ(tree.read(esp + "BOOT/mmx64.efi"), "MOK");
  EXPECT_EQ(tree.read(esp + "BOOT/grub.cfg"), "configfile $prefix/grub.cfg\n");
  EXPECT_FALSE(tree.exists(esp + "BOOT/fbx64.efi")); // would write boot entries and reset
  EXPECT_THAT(plan.warnings, IsEmpty());
  EXPECT_THAT(plan.changes.at(1).reason, HasSubstr("a copy of shim"));
  EXPECT_THAT(tree.plan(uefi_guest("debian"), {{"again", linux_guest::uefi_fallback_step}}).changes, IsEmpty());
}

TEST(UefiFallback, OneThatIsThereStays) {
  GuestTree tree;
  tree.file(esp + "debian/grubx64.efi", "GRUB").file(esp + "boot/bootx64.efi", "OWN");
  EXPECT_THAT(tree.run(uefi_guest("debian"), linux_guest::uefi_fallback_step).changes, IsEmpty());
}

TEST(UefiFallback, LoadersOfEveryKind) {
  struct Case {
    const char *file, *distro, *arch, *made;
  };
  const Case cases[] = {
      {"arch/grubx64.efi", "arch", "x86_64", "BOOT/BOOTX64.EFI"},
      {"systemd/systemd-bootx64.efi", "arch", "x86_64", "BOOT/BOOTX64.EFI"},
      {"refind/refind_x64.efi", "arch", "x86_64", "BOOT/BOOTX64.EFI"},
      {"fedora/grubaa64.efi", "fedora", "aarch64", "BOOT/BOOTAA64.EFI"},
      {"FEDORA/GRUBX64.EFI", "fedora", "x86_64", "BOOT/BOOTX64.EFI"},
  };
  for (const Case& c : cases) {
    GuestTree tree;
    GuestInfo info = uefi_guest(c.distro);
    info.arch = c.arch;
    tree.file(esp + c.file, c.file);
    tree.run(info, linux_guest::uefi_fallback_step);
    EXPECT_EQ(tree.read(esp + c.made), c.file);
  }
}

TEST(UefiFallback, TheSystemsOwnVendorDirectoryWins) {
  GuestTree tree;
  tree.file(esp + "centos/grubx64.efi", "CENTOS").file(esp + "redhat/grubx64.efi", "REDHAT");
  const Plan plan = tree.run(uefi_guest("rhel"), linux_guest::uefi_fallback_step);
  EXPECT_EQ(tree.read(esp + "BOOT/BOOTX64.EFI"), "REDHAT");
  EXPECT_THAT(plan.warnings, IsEmpty());
}

TEST(UefiFallback, AmongStrangersTheOneWithConfigurationIsTakenWithAWarning) {
  GuestTree tree;
  tree.file(esp + "alpha/grubx64.efi", "OLD")
      .file(esp + "beta/grubx64.efi", "USED")
      .file(esp + "beta/grub.cfg", "x\n")
      .file(esp + "Microsoft/bootmgfw.efi", "WIN");
  const Plan plan = tree.run(uefi_guest("void"), linux_guest::uefi_fallback_step);
  EXPECT_EQ(tree.read(esp + "BOOT/BOOTX64.EFI"), "USED");
  EXPECT_THAT(warnings_of(plan), HasSubstr("several boot loaders"));
}

TEST(UefiFallback, NothingToMakeItOfIsAWarningAndBiosIsLeftAlone) {
  GuestTree tree;
  tree.file(esp + "vendor/diag.efi", "x");
  const Plan plan = tree.run(uefi_guest("debian"), linux_guest::uefi_fallback_step);
  EXPECT_THAT(plan.changes, IsEmpty());
  EXPECT_THAT(warnings_of(plan), HasSubstr("no BOOTX64.EFI"));
  GuestTree bios;
  bios.file(esp + "debian/grubx64.efi", "GRUB");
  EXPECT_THAT(bios.run(one_disk_guest(), linux_guest::uefi_fallback_step).changes, IsEmpty());
}

} // namespace
} // namespace kvmport::test
