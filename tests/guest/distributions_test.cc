// SPDX-License-Identifier: Apache-2.0
// Every configuration step over trees laid out as distributions lay them out: no name of the old hardware is left, the
// files that matter read as they should, and a second run finds nothing to do.
#include "base/error.h"
#include "tests/guest/guest_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <random>

namespace kvmport::test {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

const std::string mac = "00:0c:29:aa:aa:aa";
const std::string u1 = "UUID=" + fs_uuid(0, 1), u2 = "UUID=" + fs_uuid(0, 2), u3 = "UUID=" + fs_uuid(0, 3);

struct Distribution {
  const char* name;
  std::function<void(GuestTree&)> lay_out;
  std::function<GuestInfo()> info;
  std::function<void(const GuestTree&, const Plan&)> expect;
  std::vector<std::string> must_be_free; ///< files in which no /dev/sdX may be left
};

GuestInfo guest(const char* distro, const char* disk = "sda", Firmware firmware = Firmware::bios,
                const char* esp = "") {
  GuestInfo info = one_disk_guest(disk);
  info.distro = distro;
  info.firmware = firmware;
  info.esp_path = esp;
  MachineNic nic;
  nic.mac = mac;
  info.machine.nics.push_back(nic);
  return info;
}

void systemd(GuestTree& tree, const std::string& version) {
  tree.file("/usr/lib/systemd/libsystemd-shared-" + version + ".so", "x")
      .file("/usr/lib/systemd/systemd", "x")
      .file("/usr/lib/systemd/systemd-udevd", "x")
      .file("/usr/lib/udev/rules.d/80-net-setup-link.rules", "x\n");
}

void debian(GuestTree& tree) {
  tree.directory("/usr/lib").link("usr/lib", "/lib");
  systemd(tree, "252");
  tree.file("/boot/grub/grub.cfg", "set default=\"0\"\nmenuentry 'Debian GNU/Linux' {\n\tset root='hd0,msdos1'\n"
                                   "\tlinux\t/boot/vmlinuz-6.1.0 root=/dev/sda1 ro  quiet resume=/dev/sda2\n"
                                   "\tinitrd\t/boot/initrd.img-6.1.0\n}\n")
      .file("/boot/grub/device.map", "(hd0)\t/dev/disk/by-id/ata-VMware_Virtual_1\n")
      .file("/etc/default/grub",
            "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet resume=/dev/sda2\"\nGRUB_DISABLE_LINUX_UUID=true\n")
      .file("/etc/fstab", "/dev/sda1 /    ext4 errors=remount-ro 0 1\n/dev/sda2 none swap sw                0 0\n")
      .file("/etc/initramfs-tools/conf.d/resume", "RESUME=/dev/sda2\n")
      .file("/etc/network/interfaces", "allow-hotplug ens192\niface ens192 inet static\n  address 10.0.0.2/24\n")
      .link("/lib/systemd/system/open-vm-tools.service",
            "/etc/systemd/system/multi-user.target.wants/open-vm-tools.service");
}

void ubuntu(GuestTree& tree) {
  tree.directory("/usr/lib").link("usr/lib", "/lib");
  systemd(tree, "249");
  tree.file("/boot/grub/grub.cfg", "linux /vmlinuz-5.15 root=/dev/mapper/ubuntu--vg-root ro\ninitrd /initrd.img-5.15\n")
      .file("/boot/efi/EFI/ubuntu/grub.cfg", "search.fs_uuid 1 root hd0,gpt2\nconfigfile $prefix/grub.cfg\n")
      .file("/boot/efi/EFI/ubuntu/shimx64.efi", "SHIM")
      .file("/boot/efi/EFI/ubuntu/grubx64.efi", "GRUB")
      .file("/boot/efi/EFI/ubuntu/mmx64.efi", "MOK")
      .file("/etc/fstab", "/dev/disk/by-id/dm-uuid-LVM-abc / ext4 defaults 0 1\n"
                          "/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:0:0-part1 /boot ext4 defaults 0 1\n")
      .file("/etc/crypttab", "dm_crypt-0 /dev/sda3 none luks\n")
      .file("/etc/netplan/00-installer-config.yaml",
            "network:\n  ethernets:\n    ens160:\n      dhcp4: true\n  version: 2\n");
}

void rhel9(GuestTree& tree) {
  systemd(tree, "252-18.el9");
  std::string env = "# GRUB Environment Block\nsaved_entry=abc-5.14\nkernelopts=root=/dev/sda1 ro resume=/dev/sda2\n";
  env.append(1024 - env.size(), '#');
  tree.file("/boot/grub2/grub.cfg", "set timeout=5\ninsmod blscfg\nblscfg\n")
      .file("/boot/grub2/grubenv", env)
      .file("/boot/efi/EFI/redhat/grub.cfg", "search --fs-uuid 1\nconfigfile $prefix/grub.cfg\n")
      .file("/boot/efi/EFI/BOOT/BOOTX64.EFI", "SHIM")
      .file("/boot/loader/entries/abc-5.14.conf",
            "title RHEL\nversion 5.14\nlinux /vmlinuz-5.14\ninitrd /initramfs-5.14.img\n"
            "options root=/dev/sda1 ro resume=/dev/sda2 rhgb quiet\ngrub_class rhel\n")
      .file("/etc/default/grub", "GRUB_CMDLINE_LINUX=\"resume=/dev/sda2 rhgb quiet\"\nGRUB_ENABLE_BLSCFG=true\n")
      .link("../default/grub", "/etc/sysconfig/grub")
      .file("/etc/kernel/cmdline", "root=/dev/sda1 ro resume=/dev/sda2\n")
      .file("/etc/lvm/devices/system.devices", "IDTYPE=sys_wwid IDNAME=x DEVNAME=/dev/sda4 PVID=y PART=4\n")
      .file("/etc/fstab", "/dev/sda1 / ext4 defaults 0 0\n")
      .file("/etc/NetworkManager/system-connections/ens192.nmconnection",
            "[connection]\nid=ens192\ntype=ethernet\ninterface-name=ens192\n")
      .link("/usr/lib/systemd/system/vmtoolsd.service", "/etc/systemd/system/multi-user.target.wants/vmtoolsd.service");
}

void suse(GuestTree& tree) {
  systemd(tree, "234");
  tree.file("/boot/grub2/grub.cfg",
            "menuentry 'SLES' {\n  linuxefi /boot/vmlinuz root=/dev/sda1 splash=silent resume=/dev/sda2\n"
            "  initrdefi /boot/initrd\n}\n")
      .file("/etc/default/grub", "GRUB_CMDLINE_LINUX_DEFAULT=\"splash=silent resume=/dev/sda2\"\n")
      .file("/etc/default/grub_installdevice", "(hd0)\nactivate\n")
      .file("/etc/fstab", "/dev/sda1  /  auto  defaults  0  0\n/dev/sda1  /var  auto  subvol=/@/var  0  0\n")
      .file("/etc/sysconfig/network/ifcfg-eth0", "BOOTPROTO='static'\nIPADDR='10.0.0.2/24'\nSTARTMODE='auto'\n")
      .file("/etc/udev/rules.d/70-persistent-net.rules",
            "SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", KERNELS==\"0000:0b:00.0\", ATTR{type}==\"1\", "
            "KERNEL==\"eth*\", NAME=\"eth0\"\n")
      .file("/etc/sysconfig/kernel", "INITRD_MODULES=\"ata_piix vmw_pvscsi\"\n");
}

void arch(GuestTree& tree) {
  systemd(tree, "255.4-2-arch");
  tree.file("/boot/EFI/systemd/systemd-bootx64.efi", "SDBOOT")
      .file("/boot/loader/loader.conf", "default arch.conf\ntimeout 3\n")
      .file("/boot/loader/entries/arch.conf", "title Arch\nlinux /vmlinuz-linux\ninitrd /initramfs-linux.img\n"
                                              "options cryptdevice=/dev/sda3:root root=/dev/mapper/root rw\n")
      .file("/etc/fstab", "/dev/mapper/root / ext4 rw 0 1\n/dev/sda1 /boot auto rw 0 2\n")
      .file("/etc/systemd/network/20-wired.network", "[Match]\nName=enp0s3\n\n[Network]\nAddress=10.0.0.2/24\n")
      .link("/usr/lib/systemd/system/vboxservice.service",
            "/etc/systemd/system/multi-user.target.wants/vboxservice.service")
      .file("/etc/modules-load.d/virtualbox.conf", "vboxguest\nvboxsf\nvboxvideo\n");
}

void alpine(GuestTree& tree) {
  tree.file("/boot/extlinux.conf",
            "DEFAULT menu.c32\nPROMPT 0\nLABEL lts\n  LINUX vmlinuz-lts\n  INITRD initramfs-lts\n"
            "  APPEND root=/dev/sda1 modules=sd-mod,usb-storage,ext4 quiet rootfstype=ext4\n")
      .file("/etc/update-extlinux.conf", "root=/dev/sda1\nmodules=sd-mod,usb-storage,ext4\n")
      .file("/etc/fstab", "/dev/sda1\t/\text4\trw,relatime 0 1\n/dev/sda2\tswap\tswap\tdefaults\t0 0\n"
                          "/dev/cdrom\t/media/cdrom\tiso9660\tnoauto,ro 0 0\n")
      .file("/etc/network/interfaces", "auto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet dhcp\n")
      .link("/etc/init.d/open-vm-tools", "/etc/runlevels/default/open-vm-tools")
      .file("/etc/inittab", "::sysinit:/sbin/openrc sysinit\ntty1::respawn:/sbin/getty 38400 tty1\n");
}

void amazon(GuestTree& tree) {
  tree.file("/boot/grub/grub.conf", "default=0\ntimeout=0\nhiddenmenu\ntitle Amazon Linux\nroot (hd0)\n"
                                    "kernel /boot/vmlinuz-4.14 root=/dev/xvda1 console=hvc0 selinux=0\n"
                                    "initrd /boot/initramfs-4.14.img\n")
      .link("./grub.conf", "/boot/grub/menu.lst")
      .file("/etc/fstab",
            "#\nLABEL=/     /           ext4    defaults,noatime  1   1\n/dev/xvda2 swap swap defaults 0 0\n")
      .file("/etc/sysconfig/network-scripts/ifcfg-eth0", "DEVICE=eth0\nBOOTPROTO=dhcp\nONBOOT=yes\n")
      .file("/sbin/udevd", "x")
      .link("../init.d/amazon-ssm-agent", "/etc/rc3.d/S99amazon-ssm-agent");
}

std::vector<Distribution> distributions() {
  const auto link_of = [](const std::string& name) { return "/etc/systemd/network/10-kvmport-" + name + ".link"; };
  return {
      {"Debian",
       debian,
       [] { return guest("debian"); },
       [=](const GuestTree& t, const Plan&) {
         EXPECT_THAT(t.read("/boot/grub/grub.cfg"), HasSubstr("root=" + u1 + " ro  quiet resume=" + u2));
         EXPECT_EQ(t.read("/etc/default/grub"),
                   "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet resume=" + u2 + "\"\n#GRUB_DISABLE_LINUX_UUID=true\n");
         EXPECT_EQ(t.read("/etc/initramfs-tools/conf.d/resume"), "RESUME=" + u2 + "\n");
         EXPECT_THAT(t.read(link_of("ens192")), HasSubstr("MACAddress=" + mac));
         EXPECT_FALSE(t.exists("/etc/systemd/system/multi-user.target.wants/open-vm-tools.service"));
         EXPECT_FALSE(t.exists("/boot/grub/device.map"));
       },
       {"/boot/grub/grub.cfg", "/etc/fstab", "/etc/default/grub"}},
      {"Ubuntu",
       ubuntu,
       [] { return guest("ubuntu", "sda", Firmware::uefi, "/boot/efi"); },
       [=](const GuestTree& t, const Plan&) {
         EXPECT_EQ(t.read("/boot/efi/EFI/BOOT/BOOTX64.EFI"), "SHIM");
         EXPECT_EQ(t.read("/boot/efi/EFI/BOOT/grubx64.efi"), "GRUB");
         EXPECT_EQ(t.read("/boot/efi/EFI/BOOT/grub.cfg"), t.read("/boot/efi/EFI/ubuntu/grub.cfg"));
         EXPECT_EQ(t.read("/etc/fstab"),
                   "/dev/disk/by-id/dm-uuid-LVM-abc / ext4 defaults 0 1\n" + u1 + " /boot ext4 defaults 0 1\n");
         EXPECT_EQ(t.read("/etc/crypttab"), "dm_crypt-0 " + u3 + " none luks\n");
         EXPECT_TRUE(t.exists(link_of("ens160")));
       },
       {"/etc/crypttab", "/etc/fstab"}},
      {"RHEL 9",
       rhel9,
       [] { return guest("rhel", "sda", Firmware::uefi, "/boot/efi"); },
       [=](const GuestTree& t, const Plan&) {
         EXPECT_THAT(t.read("/boot/loader/entries/abc-5.14.conf"),
                     HasSubstr("options root=" + u1 + " ro resume=" + u2 + " rhgb quiet\n"));
         EXPECT_EQ(t.read("/boot/grub2/grubenv").size(), 1024U);
         EXPECT_EQ(t.read("/etc/kernel/cmdline"), "root=" + u1 + " ro resume=" + u2 + "\n");
         EXPECT_FALSE(t.exists("/etc/lvm/devices/system.devices"));
         EXPECT_EQ(t.read("/boot/efi/EFI/BOOT/BOOTX64.EFI"), "SHIM");
         EXPECT_TRUE(t.exists(link_of("ens192")));
         EXPECT_EQ(t.readlink("/etc/sysconfig/grub"), "../default/grub");
       },
       {"/boot/loader/entries/abc-5.14.conf", "/boot/grub2/grubenv", "/etc/default/grub", "/etc/fstab"}},
      {"SUSE",
       suse,
       [] { return guest("sles"); },
       [=](const GuestTree& t, const Plan&) {
         EXPECT_THAT(t.read("/boot/grub2/grub.cfg"), HasSubstr("root=" + u1 + " splash=silent resume=" + u2));
         EXPECT_THAT(t.read("/etc/udev/rules.d/70-persistent-net.rules"), testing::StartsWith("# "));
         EXPECT_THAT(t.read("/etc/udev/rules.d/70-kvmport-net.rules"),
                     HasSubstr("ATTR{address}==\"" + mac + "\", ATTR{type}==\"1\", NAME=\"eth0\""));
         EXPECT_EQ(t.read("/etc/fstab"), u1 + " /  auto  defaults  0  0\n" + u1 + " /var  auto  subvol=/@/var  0  0\n");
       },
       {"/boot/grub2/grub.cfg", "/etc/default/grub", "/etc/fstab"}},
      {"Arch",
       arch,
       [] { return guest("arch", "sda", Firmware::uefi, "/boot"); },
       [=](const GuestTree& t, const Plan&) {
         EXPECT_THAT(t.read("/boot/loader/entries/arch.conf"),
                     HasSubstr("options cryptdevice=" + u3 + ":root root=/dev/mapper/root rw\n"));
         EXPECT_EQ(t.read("/boot/EFI/BOOT/BOOTX64.EFI"), "SDBOOT");
         EXPECT_TRUE(t.exists(link_of("enp0s3")));
         EXPECT_EQ(t.read("/etc/modules-load.d/virtualbox.conf"), "# vboxguest\n# vboxsf\n# vboxvideo\n");
       },
       {"/boot/loader/entries/arch.conf", "/etc/fstab"}},
      {"Alpine",
       alpine,
       [] { return guest("alpine"); },
       [=](const GuestTree& t, const Plan&) {
         EXPECT_THAT(t.read("/boot/extlinux.conf"), HasSubstr("APPEND root=" + u1 + " modules=sd-mod"));
         EXPECT_EQ(t.read("/etc/update-extlinux.conf"), "root=" + u1 + "\nmodules=sd-mod,usb-storage,ext4\n");
         EXPECT_FALSE(t.exists("/etc/runlevels/default/open-vm-tools"));
         EXPECT_FALSE(t.exists("/etc/systemd"));
       },
       {"/boot/extlinux.conf", "/etc/fstab", "/etc/update-extlinux.conf"}},
      {"Amazon",
       amazon,
       [] { return guest("amzn", "xvda"); },
       [=](const GuestTree& t, const Plan&) {
         EXPECT_THAT(t.read("/boot/grub/grub.conf"),
                     HasSubstr("root=" + u1 + " console=tty0 console=ttyS0,115200 selinux=0\n"));
         EXPECT_EQ(t.readlink("/boot/grub/menu.lst"), "./grub.conf");
         EXPECT_THAT(t.read("/etc/fstab"), HasSubstr(u2 + " swap swap defaults 0 0\n"));
       },
       {"/boot/grub/grub.conf", "/etc/fstab"}},
  };
}

TEST(Distributions, ConvertedOnceAndForAll) {
  for (const Distribution& d : distributions()) {
    SCOPED_TRACE(d.name);
    GuestTree tree;
    d.lay_out(tree);
    const GuestInfo info = d.info();
    const Plan plan = tree.run(info, configuration_steps());
    EXPECT_EQ(warnings_of(plan), "");
    d.expect(tree, plan);
    for (const std::string& path : d.must_be_free) {
      EXPECT_THAT(tree.read(path), Not(HasSubstr("/dev/sd"))) << path;
      EXPECT_THAT(tree.read(path), Not(HasSubstr("/dev/xvd"))) << path;
      EXPECT_THAT(tree.read(path), Not(HasSubstr("by-path"))) << path;
    }
    for (const Change& change : plan.changes) {
      EXPECT_FALSE(change.reason.empty()) << change.path;
      EXPECT_FALSE(change.step.empty()) << change.path;
    }
    const Plan again = tree.plan(info, configuration_steps());
    for (const Change& change : again.changes)
      ADD_FAILURE() << "a second run still wants " << change.step << ": " << change.path;
    EXPECT_EQ(warnings_of(again), "");
  }
}

TEST(Distributions, InstrumentedOnceAndForAll) {
  for (const Distribution& d : distributions()) {
    SCOPED_TRACE(d.name);
    GuestTree tree;
    d.lay_out(tree);
    const GuestInfo info = d.info();
    tree.run(info, configuration_steps());
    tree.run(info, instrument_steps());
    for (const std::string& path : d.must_be_free)
      if (path.starts_with("/boot") && !path.ends_with("grubenv")) {
        EXPECT_THAT(tree.read(path), HasSubstr("console=tty0 console=ttyS0,115200")) << path;
        EXPECT_THAT(tree.read(path), Not(HasSubstr("quiet"))) << path;
      }
    EXPECT_THAT(tree.plan(info, instrument_steps()).changes, IsEmpty());
    EXPECT_THAT(tree.plan(info, configuration_steps()).changes, IsEmpty());
  }
}

/// Every file's text, damaged in ways that real and hostile disks show.
std::string damaged(std::string text, std::mt19937& random) {
  static const std::string junk[] = {"\"", "=",  "/dev/",  "/dev/sd", "[", "\n\n", "{", std::string(1, '\0'),
                                     "\\", "# ", "options"};
  for (int i = 0; i < 3; i++) {
    const std::size_t at = text.empty() ? 0 : random() % text.size();
    switch (random() % 3) {
    case 0:
      text.resize(at);
      break;
    case 1:
      text.insert(at, junk[random() % std::size(junk)]);
      break;
    default:
      text.erase(at, random() % 8);
    }
  }
  return text;
}

TEST(Distributions, DamagedFilesAreNoReasonToCrash) {
  std::mt19937 random(20);
  for (const Distribution& d : distributions()) {
    SCOPED_TRACE(d.name);
    std::vector<std::string> files;
    {
      GuestTree tree;
      d.lay_out(tree);
      files = tree.files();
    }
    for (int round = 0; round < 8; round++) {
      GuestTree tree;
      d.lay_out(tree);
      for (const std::string& path : files)
        tree.file(path, damaged(tree.read(path), random));
      try {
        tree.run(d.info(), configuration_steps());
        tree.run(d.info(), instrument_steps());
      } catch (const Error& e) { // a refusal is fine, when it is one
        EXPECT_THAT(e.code(), testing::StartsWith("GUEST_")) << e.what();
      }
    }
  }
}

} // namespace
} // namespace kvmport::test
