// SPDX-License-Identifier: Apache-2.0
// Trees of /sys and /proc as machines show them: partitions, LVM on md, btrfs on two disks, containers.
#include "libconvert/p2v/live_map.h"
#include "libconvert/p2v/mounts.h"
#include "tests/support/tempdir.h"

#include <fstream>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

namespace kvmport::test {
namespace {

namespace fs = std::filesystem;

/// A recorded machine.
class Host {
 public:
  Host() {
    fs::create_directories(roots.proc / "self");
    fs::create_directories(roots.sys / "dev" / "block");
  }
  /// `place`: below /sys/devices, "pci/sda" or, of a partition, "pci/sda/sda1".
  void device(const std::string& place, const std::string& number, std::uint64_t start = 0, std::uint64_t size = 0) {
    const fs::path directory = roots.sys / "devices" / place;
    fs::create_directories(directory / "slaves");
    fs::create_directories(directory / "holders");
    write(directory / "dev", number + "\n");
    if (size != 0) {
      write(directory / "partition", "1\n");
      write(directory / "start", std::to_string(start) + "\n");
      write(directory / "size", std::to_string(size) + "\n");
    }
    fs::create_directory_symlink(fs::path("../../devices") / place, roots.sys / "dev" / "block" / number);
  }
  void on(const std::string& upper, const std::string& lower) {
    const fs::path devices = roots.sys / "devices";
    fs::create_directory_symlink(devices / lower, devices / upper / "slaves" / fs::path(lower).filename());
    fs::create_directory_symlink(devices / upper, devices / lower / "holders" / fs::path(upper).filename());
  }
  void mounts(const std::string& text, const std::string& process = "self") const {
    fs::create_directories(roots.proc / process);
    write(roots.proc / process / "mountinfo", text);
  }
  static void write(const fs::path& path, const std::string& text) {
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }

  const TempDir dir;
  HostRoots roots{dir.path() / "sys", dir.path() / "proc"};
};

dev_t dev(unsigned major, unsigned minor) {
  return ::makedev(major, minor);
}

/// Two disks with three partitions each: ESP, /boot on md0, LVM on md1.
class Server : public Host {
 public:
  Server() {
    for (const auto& [disk, minor] : {std::pair("sda", 0), std::pair("sdb", 16)}) {
      const std::string place = std::string("pci/") + disk;
      device(place, "8:" + std::to_string(minor));
      device(place + "/" + disk + "1", "8:" + std::to_string(minor + 1), 2048, 1048576);
      device(place + "/" + disk + "2", "8:" + std::to_string(minor + 2), 1050624, 2097152);
      device(place + "/" + disk + "3", "8:" + std::to_string(minor + 3), 3147776, 60000000);
      write(roots.sys / "devices" / place / "mq" / "0" / "cpu_list", "0\n");
    }
    device("virtual/md0", "9:0");
    device("virtual/md1", "9:1");
    for (const std::string lower : {"sda", "sdb"}) {
      on("virtual/md0", "pci/" + lower + "/" + lower + "2");
      on("virtual/md1", "pci/" + lower + "/" + lower + "3");
    }
    device("virtual/dm-0", "254:0");
    device("virtual/dm-1", "254:1");
    on("virtual/dm-0", "virtual/md1");
    on("virtual/dm-1", "virtual/md1");
    write(roots.sys / "devices/virtual/dm-0/dm/uuid", "LVM-abc\n");
    write(roots.sys / "devices/virtual/dm-0/dm/name", "my--group-root\n");
    device("usb/sdc", "8:32");
    device("usb/sdc/sdc1", "8:33", 63, 1000);
    mounts("22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/mapper/my--group-root rw,errors=remount-ro\n"
           "23 22 0:21 / /sys rw,nosuid shared:2 - sysfs sysfs rw\n"
           "24 22 254:1 / /srv/with\\040space rw shared:3 - xfs /dev/mapper/vg-srv rw,attr2\n"
           "25 22 9:0 / /boot rw shared:4 - ext4 /dev/md0 rw\n"
           "26 25 8:1 / /boot/efi rw shared:5 - vfat /dev/sda1 rw,fmask=0077\n"
           "27 24 8:33 / /srv/with\\040space/usb rw - ext4 /dev/sdc1 rw\n"
           "28 22 254:0 /var/lib/x /srv/with\\040space/bind rw - ext4 /dev/mapper/my--group-root rw\n"
           "29 22 8:17 / /mnt ro - vfat /dev/sdb1 ro\n");
  }
};

std::vector<std::string> sources(const std::vector<MountedFilesystem>& list) {
  std::vector<std::string> names;
  for (const MountedFilesystem& one : list)
    names.push_back(one.source);
  return names;
}

TEST(Mountinfo, IsRead) {
  const auto list = parse_mountinfo("36 35 98:0 /mnt1 /mnt\\0402\\134 ro,noatime master:1 shared:2 - ext3 /dev/root "
                                    "rw,errors=continue\n"
                                    "broken\n1 2 3 / /x rw - ext4 /dev/x rw\n\n"
                                    "37 36 0:5 / /r rw - btrfs /dev/sda1 ro,space_cache");
  ASSERT_EQ(list.size(), 2U);
  EXPECT_EQ(list[0].id, 36U);
  EXPECT_EQ(list[0].parent, 35U);
  EXPECT_EQ(list[0].device, dev(98, 0));
  EXPECT_EQ(list[0].path, "/mnt 2\\");
  EXPECT_EQ(list[0].type, "ext3");
  EXPECT_EQ(list[0].source, "/dev/root");
  EXPECT_FALSE(list[0].read_only);
  EXPECT_TRUE(list[1].read_only);
}

TEST(Devices, StacksAreResolved) {
  const Server server;
  const std::vector<dev_t> both{dev(8, 0), dev(8, 16)};
  EXPECT_EQ(bottom_disks(server.roots, dev(254, 0)), both);
  EXPECT_EQ(bottom_disks(server.roots, dev(9, 0)), both);
  EXPECT_EQ(bottom_disks(server.roots, dev(8, 17)), std::vector<dev_t>{dev(8, 16)});
  EXPECT_EQ(bottom_disks(server.roots, dev(8, 0)), std::vector<dev_t>{dev(8, 0)});
  EXPECT_TRUE(bottom_disks(server.roots, dev(8, 99)).empty());
  const auto partitions = partitions_of(server.roots, dev(8, 0));
  ASSERT_EQ(partitions.size(), 3U);
  EXPECT_EQ(partitions[1].device, dev(8, 2));
  EXPECT_EQ(partitions[1].range, (Range{1050624 * 512, std::uint64_t{2097152} * 512}));
  EXPECT_TRUE(takes_requests(server.roots, dev(8, 0)));
  EXPECT_FALSE(takes_requests(server.roots, dev(8, 32)));
  EXPECT_EQ(kernel_name(server.roots, dev(254, 1)), "dm-1");
}

TEST(Devices, ALoopOfDevicesEnds) {
  Host host;
  host.device("virtual/dm-0", "254:0");
  host.device("virtual/dm-1", "254:1");
  host.on("virtual/dm-0", "virtual/dm-1");
  host.on("virtual/dm-1", "virtual/dm-0");
  EXPECT_TRUE(bottom_disks(host.roots, dev(254, 0)).empty());
}

TEST(Devices, NumbersAreRead) {
  EXPECT_EQ(parse_device("8:17"), dev(8, 17));
  EXPECT_EQ(parse_device("259:1048575"), dev(259, 1048575));
  for (const char* text : {"", "8", "8:", ":1", "8:1048576", "4096:0", "a:b"})
    EXPECT_FALSE(parse_device(text)) << text;
}

TEST(Filesystems, TheRootIsFrozenLast) {
  const Server server;
  const std::vector<dev_t> disks{dev(8, 0), dev(8, 16)};
  const auto list = filesystems_on(server.roots, disks);
  EXPECT_EQ(sources(list),
            (std::vector<std::string>{"/dev/sda1", "/dev/md0", "/dev/mapper/vg-srv", "/dev/mapper/my--group-root"}));
  EXPECT_EQ(list.back().depth, 0U);
  EXPECT_EQ(list.back().places.size(), 2U); // the bind mount, too
  EXPECT_EQ(list.back().disks, disks);
  const std::vector<dev_t> first{dev(8, 0)}, stick{dev(8, 32)};
  EXPECT_EQ(filesystems_on(server.roots, first).size(), 4U);
  EXPECT_EQ(sources(filesystems_on(server.roots, stick)), std::vector<std::string>{"/dev/sdc1"});
}

TEST(Filesystems, OneThatOnlyProcess1SeesIsRefused) {
  const Server server;
  server.mounts("22 1 8:33 / / rw - ext4 /dev/sdc1 rw\n", "1");
  const std::vector<dev_t> stick{dev(8, 32)}, disk{dev(8, 0)};
  EXPECT_EQ(filesystems_on(server.roots, stick).size(), 1U);
  server.mounts("22 1 8:2 / / rw - ext4 /dev/sda2 rw\n", "1");
  try {
    filesystems_on(server.roots, disk);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "LIVE_NOT_POSSIBLE");
  }
}

TEST(VolumeNames, AreTakenApart) {
  for (const auto& [text, name] : {std::pair("vg-root", "vg/root"), std::pair("my--group-a--b", "my-group/a-b"),
                                   std::pair("vg-root-real", ""), std::pair("luks", ""), std::pair("", "")})
    EXPECT_EQ(group_and_volume(text), name) << text;
}

} // namespace
} // namespace kvmport::test
