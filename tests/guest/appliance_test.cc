// SPDX-License-Identifier: Apache-2.0
// One real appliance over small disks: what it finds, what its filesystem reads and writes, and that everything lies in
// the overlay afterwards while the source stays as it was. One launch for all, because it takes long without KVM.
#include "base/error.h"
#include "formats/nbd_server.h"
#include "formats/overlay.h"
#include "libconvert/guest/appliance.h"
#include "libconvert/guest/plan.h"
#include "tests/support/tempdir.h"

#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::Field;

/// A disk image: an MBR with one Linux partition from 1 MiB to the end, made of the files in `tree`.
void make_disk(const fs::path& path, const fs::path& tree, const char* uuid) {
  constexpr std::uint64_t start = 1U << 20, size = 64U << 20;
  std::ofstream(path, std::ios::binary).close();
  fs::resize_file(path, size);
  must_run({"mke2fs", "-q", "-t", "ext4", "-d", tree.string(), "-U", uuid, "-E", "offset=" + std::to_string(start),
            path.string(), std::to_string((size - start) / 1024) + "k"});
  std::string table(66, '\0');
  table[4] = '\x83'; // type
  const auto put = [&](std::size_t at, std::uint64_t value) {
    for (std::size_t i = 0; i < 4; i++)
      table[at + i] = static_cast<char>(value >> (8 * i));
  };
  put(8, start / 512);
  put(12, (size - start) / 512);
  table[64] = '\x55';
  table[65] = '\xaa';
  std::fstream disk(path, std::ios::binary | std::ios::in | std::ios::out);
  disk.seekp(446);
  disk.write(table.data(), static_cast<std::streamsize>(table.size()));
}

constexpr const char* root_uuid = "11111111-2222-4333-8444-555555555555";
constexpr const char* data_uuid = "11111111-2222-4333-8444-666666666666";

std::string read_of(const Image& image) {
  Bytes all(image.size());
  image.read(0, all);
  return std::string(as_text(all));
}

TEST(Appliance, FindsMountsReadsAndWrites) {
  TempDir work;
  const fs::path tree = work.path() / "tree", data = work.path() / "data";
  for (const char* directory : {"etc", "boot", "usr/bin", "usr/lib", "sbin", "home", "usr/lib/modules/6.1.0-x"})
    fs::create_directories(tree / directory);
  fs::create_directory_symlink("usr/lib", tree / "lib");
  fs::create_directories(data / "lost");
  std::ofstream(tree / "usr/lib/os-release") << "ID=testos\nVERSION_ID=7\nPRETTY_NAME=\"Test OS 7\"\n";
  fs::create_symlink("../usr/lib/os-release", tree / "etc/os-release");
  fs::create_symlink("/etc/fstab", tree / "etc/absolute");
  std::ofstream(tree / "etc/fstab") << "/dev/hda1 / ext4 defaults 0 1\n/dev/hdb1 /home ext4 defaults 0 2\n";
  std::ofstream(tree / "boot/vmlinuz-6.1.0-x") << "k";
  std::ofstream(tree / "boot/initrd.img-6.1.0-x") << std::string(5U << 20, 'i');
  std::ofstream(tree / "sbin/init") << "x";
  make_disk(work.path() / "a.raw", tree, root_uuid);
  make_disk(work.path() / "b.raw", data, data_uuid);
  const std::string before = sha256_of(work.path() / "a.raw");

  const auto image_a = open_image(work.path() / "a.raw"), image_b = open_image(work.path() / "b.raw");
  Overlay a(*image_a, work.path(), 1ULL << 30), b(*image_b, work.path(), 1ULL << 30);
  NbdServer server_a(a, work.path() / "sa"), server_b(b, work.path() / "sb");
  Machine machine;
  machine.disks.resize(2);
  machine.disks[0].source_name = "hda";
  machine.disks[1].source_name = "hdb";
  NullSink sink;
  const StopToken stop;
  Appliance appliance(machine, {&server_a, &server_b}, sink, stop);
  const GuestInfo info = appliance.inspect({});

  EXPECT_EQ(info.root_device, "/dev/hda1");
  EXPECT_EQ(info.pretty_name, "Test OS 7");
  EXPECT_EQ(info.firmware, Firmware::bios);
  EXPECT_THAT(info.mounts, ElementsAre(Field(&Mount::path, "/"))); // data filesystems are left alone
  EXPECT_THAT(info.devices,
              Contains(testing::AllOf(Field(&BlockDevice::source_name, "/dev/hdb1"),
                                      Field(&BlockDevice::uuid, data_uuid), Field(&BlockDevice::type, "ext4"))));
  ASSERT_EQ(info.kernels.size(), 1U);
  EXPECT_EQ(info.kernels[0].modules_dir, "/usr/lib/modules/6.1.0-x");

  GuestFilesystem& guest = appliance.filesystem();
  EXPECT_EQ(guest.read("/etc/absolute").substr(0, 9), "/dev/hda1");
  EXPECT_EQ(guest.realpath("/etc/absolute"), "/etc/fstab");
  EXPECT_FALSE(guest.exists("/etc/none/below"));
  EXPECT_EQ(guest.read("/boot/initrd.img-6.1.0-x"), std::string(5U << 20, 'i'));
  EXPECT_THAT(guest.list("/etc"), ElementsAre("absolute", "fstab", "os-release"));
  EXPECT_GT(guest.free_space("/boot/new")->bytes, 10U << 20);
  EXPECT_EQ(guest.label("/etc/fstab"), std::nullopt);

  guest.write("/etc/new", "new\n", 0640);
  EXPECT_EQ(guest.stat("/etc/new")->mode, 0640U);
  EXPECT_TRUE(guest.exists("/etc/new"));
  const std::string large(3U << 20, 'L');
  guest.write("/boot/large", large);
  guest.append("/boot/initrd.img-6.1.0-x", "tail");
  EXPECT_EQ(guest.read("/boot/initrd.img-6.1.0-x"), std::string(5U << 20, 'i') + "tail");
  guest.copy("/etc/new", "/etc/copy");
  EXPECT_EQ(guest.stat("/etc/copy")->mode, 0640U);
  guest.rename("/etc/copy", "/etc/moved");
  EXPECT_FALSE(guest.exists("/etc/copy"));
  EXPECT_EQ(guest.read("/etc/moved"), "new\n");
  guest.symlink("moved", "/etc/link");
  EXPECT_EQ(guest.read("/etc/link"), "new\n");
  guest.make_directories("/etc/x/y");
  EXPECT_TRUE(guest.is_directory("/etc/x/y"));
  guest.set_label("/etc/new", "system_u:object_r:etc_t:s0");
  EXPECT_EQ(guest.label("/etc/new"), "system_u:object_r:etc_t:s0");
  guest.remove("/etc/moved");
  EXPECT_FALSE(guest.exists("/etc/moved"));
  EXPECT_THROW(guest.write("/no/such/dir/file", "x"), Error);

  appliance.unmount();
  const std::string converted = read_of(a);
  // What comes now goes to another layer.
  Overlay over(a, work.path(), 1ULL << 30);
  server_a.switch_to(over);
  appliance.remount();
  EXPECT_EQ(guest.read("/boot/large"), large);
  guest.write("/etc/new", "only above\n");
  appliance.shutdown();
  EXPECT_EQ(server_a.failure(), "");
  EXPECT_EQ(read_of(a), converted);
  EXPECT_NE(read_of(over), converted);
  EXPECT_EQ(b.used(), 0U) << "a filesystem that isn't needed was written to";
  EXPECT_EQ(sha256_of(work.path() / "a.raw"), before);

  // The result is sound, and holds what was written, for another reader.
  std::ofstream(work.path() / "out.raw", std::ios::binary) << converted;
  const std::string part = (work.path() / "out.raw").string() + "?offset=1048576";
  must_run({"e2fsck", "-fn", part});
  EXPECT_EQ(must_run({"debugfs", "-R", "cat /etc/new", part}), "new\n");
}

} // namespace
} // namespace kvmport::test
