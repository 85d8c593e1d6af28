// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/guest_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvmport::test {
namespace {

using testing::IsEmpty;

struct Golden {
  const char *path, *before, *after;
};

void expect_golden(const std::vector<Golden>& cases, void (*step)(const GuestInfo&, Draft&)) {
  for (const Golden& c : cases) {
    GuestTree tree;
    tree.file(c.path, c.before);
    GuestInfo info = one_disk_guest();
    info.esp_path = "/boot";
    tree.directory("/boot/EFI").run(info, step);
    EXPECT_EQ(tree.read(c.path), c.after) << c.path;
    EXPECT_THAT(tree.plan(info, {{"again", step}}).changes, IsEmpty()) << c.path;
  }
}

TEST(Instrument, EveryBootLoader) {
  expect_golden(
      {
          {"/boot/grub/grub.cfg",
           "set timeout_style=menu\nif [ \"${recordfail}\" = 1 ] ; then\n  set timeout=30\nelse\n  set timeout=5\nfi\n"
           "set timeout=0\nterminal_output gfxterm\nset kernelopts=\"root=UUID=1 ro quiet\"\n"
           "menuentry 'x' {\n\tlinux\t/vmlinuz root=UUID=1 ro  quiet splash vt.handoff=7\n\tinitrd\t/i\n}\n"
           "menuentry 'y' {\n\tlinux /vmlinuz\n}\n",
           "set timeout_style=menu\nif [ \"${recordfail}\" = 1 ] ; then\n  set timeout=1\nelse\n  set timeout=1\nfi\n"
           "set timeout=0\nterminal_output console\nset kernelopts=\"root=UUID=1 ro\"\n"
           "menuentry 'x' {\n\tlinux\t/vmlinuz root=UUID=1 ro console=tty0 console=ttyS0,115200n8\n\tinitrd\t/i\n}\n"
           "menuentry 'y' {\n\tlinux /vmlinuz console=tty0 console=ttyS0,115200n8\n}\n"},
          {"/boot/grub/menu.lst",
           "default 0\ntimeout 5\ntitle x\nkernel /vmlinuz ro root=LABEL=/ rhgb quiet console=ttyS0\ninitrd /i\n",
           "default 0\ntimeout 1\ntitle x\nkernel /vmlinuz ro root=LABEL=/ console=tty0 console=ttyS0,115200n8\ninitrd "
           "/i\n"},
          {"/boot/grub/grub.conf", "timeout=-1\ntitle x\nkernel /vmlinuz ro console=tty0\ninitrd /i\n",
           "timeout=1\ntitle x\nkernel /vmlinuz ro console=tty0 console=ttyS0,115200n8\ninitrd /i\n"},
          {"/boot/loader/entries/a.conf", "title a\nlinux /v\ninitrd /i\noptions root=UUID=1 ro $tuned_params\n",
           "title a\nlinux /v\ninitrd /i\noptions root=UUID=1 ro $tuned_params console=tty0 console=ttyS0,115200n8\n"},
          {"/boot/loader/entries/b.conf", "linux /v\noptions root=UUID=1\noptions rw quiet\n",
           "linux /v\noptions root=UUID=1\noptions rw console=tty0 console=ttyS0,115200n8\n"},
          {"/boot/loader/entries/c.conf", "title c\nlinux /v",
           "title c\nlinux /v\noptions console=tty0 console=ttyS0,115200n8\n"},
          {"/boot/loader/loader.conf", "default a\ntimeout menu-force\n", "default a\ntimeout 1\n"},
          {"/boot/extlinux.conf", "UI menu.c32\nLABEL l\n  LINUX /v\n  APPEND root=UUID=1 quiet\n",
           "TIMEOUT 10\nUI menu.c32\nLABEL l\n  LINUX /v\n  APPEND root=UUID=1 console=tty0 console=ttyS0,115200n8\n"},
          {"/boot/extlinux/extlinux.conf", "PROMPT 1\nTIMEOUT 0\nLABEL l\n  LINUX /v\n  APPEND root=UUID=1\n",
           "PROMPT 1\nTIMEOUT 10\nLABEL l\n  LINUX /v\n  APPEND root=UUID=1 console=tty0 console=ttyS0,115200n8\n"},
          {"/boot/refind_linux.conf", "\"Boot\" \"root=UUID=1 quiet\"\n",
           "\"Boot\" \"root=UUID=1 console=tty0 console=ttyS0,115200n8\"\n"},
      },
      linux_guest::instrument_step);
}

TEST(Instrument, GrubenvGetsLouderButItsEntriesTheConsole) {
  std::string env = "# GRUB Environment Block\nkernelopts=root=UUID=1 ro rhgb quiet\n";
  env.append(1024 - env.size(), '#');
  GuestTree tree;
  tree.file("/boot/grub2/grubenv", env)
      .file("/boot/grub2/grub.cfg", "blscfg\n")
      .file("/boot/loader/entries/a.conf", "linux /v\noptions $kernelopts\n");
  tree.run(one_disk_guest(), linux_guest::instrument_step);
  const std::string after = tree.read("/boot/grub2/grubenv");
  EXPECT_EQ(after.size(), 1024U);
  EXPECT_EQ(after.substr(0, after.find("\n#")), "# GRUB Environment Block\nkernelopts=root=UUID=1 ro");
  EXPECT_EQ(tree.read("/boot/loader/entries/a.conf"),
            "linux /v\noptions $kernelopts console=tty0 console=ttyS0,115200n8\n");
}

TEST(Instrument, OtherInits) {
  struct Case {
    const char *inittab, *after;
    bool systemd;
  };
  const Case cases[] = {
      {"id:2:initdefault:\n1:2345:respawn:/sbin/getty 38400 tty1\n#T0:23:respawn:/sbin/getty -L ttyS0 9600 vt100\n",
       "id:2:initdefault:\n1:2345:respawn:/sbin/getty 38400 tty1\n#T0:23:respawn:/sbin/getty -L ttyS0 9600 vt100\n"
       "S0:2345:respawn:/sbin/getty -L 115200 ttyS0 vt100\n",
       false},
      {"tty1::respawn:/sbin/getty 38400 tty1\n#ttyS0::respawn:/sbin/getty -L 115200 ttyS0 vt100\n",
       "tty1::respawn:/sbin/getty 38400 tty1\n#ttyS0::respawn:/sbin/getty -L 115200 ttyS0 vt100\n"
       "ttyS0::respawn:/sbin/getty -L 115200 ttyS0 vt100\n",
       false},
      {"ttyS0::respawn:/sbin/getty -L 9600 ttyS0 vt100\n", "ttyS0::respawn:/sbin/getty -L 9600 ttyS0 vt100\n", false},
      {"1:2345:respawn:/sbin/getty 38400 tty1\n", "1:2345:respawn:/sbin/getty 38400 tty1\n", true},
  };
  for (const Case& c : cases) {
    GuestTree tree;
    tree.file("/etc/inittab", c.inittab).file("/sbin/getty", "x").file("/boot/grub/grub.cfg", "\n");
    if (c.systemd)
      tree.file("/lib/systemd/systemd", "x");
    tree.run(one_disk_guest(), linux_guest::instrument_step);
    EXPECT_EQ(tree.read("/etc/inittab"), c.after);
    EXPECT_THAT(tree.plan(one_disk_guest(), {{"again", linux_guest::instrument_step}}).changes, IsEmpty());
  }
  GuestTree upstart;
  upstart.file("/etc/init/tty1.conf", "exec /sbin/getty tty1\n").file("/boot/grub/grub.cfg", "\n");
  upstart.run(one_disk_guest(), linux_guest::instrument_step);
  EXPECT_THAT(upstart.read("/etc/init/ttyS0.conf"), testing::HasSubstr("exec /sbin/getty -L 115200 ttyS0 vt100\n"));
}

TEST(SerialConsole, StaysQuietAndReachesTheGeneratorsFiles) {
  expect_golden(
      {
          {"/boot/grub/grub.cfg", "set timeout=5\nmenuentry 'x' {\n\tlinux /v root=UUID=1 ro  quiet\n\tinitrd /i\n}\n",
           "set timeout=5\nmenuentry 'x' {\n\tlinux /v root=UUID=1 ro  quiet console=tty0 "
           "console=ttyS0,115200n8\n\tinitrd /i\n}\n"},
          {"/etc/default/grub", "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\nGRUB_CMDLINE_LINUX=\"\"\n",
           "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\nGRUB_CMDLINE_LINUX=\"console=tty0 console=ttyS0,115200n8\"\n"},
          {"/etc/securetty", "console\ntty1\n", "console\ntty1\nttyS0\n"},
          {"/etc/kernel/cmdline", "root=UUID=1 ro\n", "root=UUID=1 ro console=tty0 console=ttyS0,115200n8\n"},
          {"/boot/grub/menu.lst", "title x\nkernel /v console=tty0 console=ttyS0,9600\ninitrd /i\n",
           "title x\nkernel /v console=tty0 console=ttyS0,9600\ninitrd /i\n"},
      },
      linux_guest::serial_console_step);
}

} // namespace
} // namespace kvmport::test
