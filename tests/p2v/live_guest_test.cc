// SPDX-License-Identifier: Apache-2.0
// Tracking, maps and reading on Debian's kernel with disks that this host may not have: in a guest.
#include "libconvert/p2v/change_tracker.h"
#include "libconvert/p2v/direct_disk.h"
#include "libconvert/p2v/dirty_map.h"
#include "libconvert/p2v/freezer.h"
#include "libconvert/p2v/live_map.h"
#include "tests/p2v/live_guest.h"
#include "tests/p2v/live_writer.h"
#include "tests/p2v/loop_disk.h"

#include <gtest/gtest.h>

namespace kvmport::test {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t mib = 1U << 20;

/// Bytes of several disks, whole.
std::vector<Bytes> read_all(const std::vector<std::unique_ptr<DirectDisk>>& disks) {
  std::vector<Bytes> all;
  for (const auto& disk : disks) {
    all.emplace_back(disk->size());
    disk->read(0, all.back());
  }
  return all;
}

/// Whatever lies between a filesystem and its disks: each block that differs afterwards was tracked.
void expect_all_tracked(const std::string& what, const std::vector<std::string>& paths, const fs::path& device) {
  std::vector<std::unique_ptr<DirectDisk>> images;
  std::vector<TrackedDisk> tracked;
  for (const std::string& path : paths) {
    images.push_back(std::make_unique<DirectDisk>(path));
    tracked.push_back({device_of(path), images.back()->size()});
  }
  must_run({"mkfs.ext4", "-q", "-F", device.string()});
  const Mounted mounted(device, "/mnt", "discard");
  ASSERT_TRUE(mounted) << mounted.why();
  constexpr std::uint64_t piece = 4096;
  ChangeTracker tracker(tracked, {.granularity = piece});
  tracker.start();
  const auto before = read_all(images);
  tracker.take();
  LiveWriter writer("/mnt");
  writer.run_until(100);
  writer.stop();
  Changes changes;
  {
    const Freeze freeze(filesystems_on({}, std::vector<dev_t>{tracked.front().device}));
    EXPECT_EQ(freeze.frozen().size(), 1U);
    changes = tracker.take();
  }
  const auto after = read_all(images);
  // md writes its own state when it likes, frozen or not: what was changed before it was read is seen now.
  const Changes more = tracker.take();
  EXPECT_FALSE(changes.overrun || more.overrun);
  for (std::size_t i = 0; i < images.size(); i++)
    changes.disks[i] = united(std::move(changes.disks[i]), more.disks[i]);
  for (std::size_t i = 0; i < images.size(); i++) {
    DirtyMap differs(before[i].size(), piece);
    for (std::uint64_t at = 0; at < before[i].size(); at += piece)
      if (std::memcmp(before[i].data() + at, after[i].data() + at, piece) != 0)
        differs.mark({at, piece});
    const auto list = differs.take();
    const std::uint64_t missed = bytes_of(subtracted(list, changes.disks[i]));
    std::cout << what << " " << paths[i] << ": " << (bytes_of(list) >> 10) << " KiB differ, "
              << (bytes_of(changes.disks[i]) >> 10) << " KiB tracked, " << (missed >> 10) << " KiB missed\n";
    EXPECT_GT(bytes_of(list), mib / 2) << what;
    EXPECT_EQ(missed, 0U) << what << " " << paths[i];
    EXPECT_LT(bytes_of(changes.disks[i]), before[i].size() / 2) << what;
  }
}

TEST(LiveInGuest, StackedDevicesAreTrackedAtTheBottom) {
  ONLY_IN_GUEST();
  const std::vector<std::string> disks{"/dev/vdd", "/dev/vde"};
  expect_all_tracked("bare", {disks[0]}, disks[0]);
  must_run({"mdadm", "--create", "/dev/md0", "--run", "--assume-clean", "--level=0", "--raid-devices=2", disks[0],
            disks[1]});
  expect_all_tracked("raid0", disks, "/dev/md0");
  must_run({"mdadm", "--stop", "/dev/md0"});
  must_run({"mdadm", "--create", "/dev/md1", "--run", "--assume-clean", "--level=1", "--raid-devices=2",
            "--bitmap=internal", disks[0], disks[1]});
  expect_all_tracked("raid1", disks, "/dev/md1");
  must_run({"mdadm", "--stop", "/dev/md1"});
  must_run({"dmsetup", "create", "--noudevsync", "--table", "0 100000 linear /dev/vdd 2048", "line"});
  must_run({"dmsetup", "mknodes"});
  expect_all_tracked("linear", {disks[0]}, "/dev/mapper/line");
  must_run({"dmsetup", "remove", "--noudevsync", "line"});
}

/// XFS on a logical volume stands still as one on a partition does; swap on another is left out and no reason for
/// doubt.
TEST(LiveInGuest, LogicalVolumesAreMapped) {
  ONLY_IN_GUEST();
  const std::string alone = "activation{udev_sync=0 udev_rules=0}";
  for (const std::vector<std::string>& command : {
           std::vector<std::string>{"pvcreate", "/dev/vdg"},
           {"vgcreate", "my-vg", "/dev/vdg"},
           {"lvcreate", "-Zn", "-Wn", "-L", "320M", "-n", "da-ta", "my-vg"},
           {"lvcreate", "-Zn", "-Wn", "-L", "32M", "-n", "swap", "my-vg"},
       }) {
    std::vector<std::string> argv = command;
    argv.insert(argv.begin(), "lvm");
    argv.insert(argv.begin() + 2, {"--config", alone});
    must_run(argv);
  }
  must_run({"dmsetup", "mknodes"});
  must_run({"mkfs.xfs", "-q", "/dev/mapper/my--vg-da--ta"});
  must_run({"mkswap", "/dev/mapper/my--vg-swap"});
  must_run({"swapon", "/dev/mapper/my--vg-swap"});
  const Mounted mounted("/dev/mapper/my--vg-da--ta", "/mnt", "rw");
  ASSERT_TRUE(mounted) << mounted.why();
  make_pattern_file("/mnt/file", 5 * mib, 1);
  const std::vector<dev_t> disks{device_of("/dev/vdg")};
  const DirectDisk image("/dev/vdg");
  const auto filesystems = filesystems_on({}, disks);
  ASSERT_EQ(filesystems.size(), 1U);
  LiveMap map;
  {
    const Freeze freeze(filesystems);
    map = read_live_map({}, disks.front(), image, {&filesystems.front()});
  }
  std::string notes;
  for (const std::string& note : map.notes)
    notes += note + "\n";
  std::cout << notes;
  EXPECT_NE(notes.find("my-vg/da-ta: clean xfs"), std::string::npos);
  EXPECT_EQ(notes.find("in use"), std::string::npos);
  EXPECT_GT(bytes_of(map.free), 290 * mib);
  EXPECT_LT(bytes_of(map.free), image.size() - 60 * mib);
  EXPECT_GT(bytes_of(map.swap), 31 * mib);
  must_run({"swapoff", "/dev/mapper/my--vg-swap"});
  // Without the freeze nothing of it is believed.
  const LiveMap moving = read_live_map({}, disks.front(), image, {});
  EXPECT_LT(bytes_of(moving.free), 100 * mib);
}

/// /dev/vdf has bad sectors, as QEMU makes them.
TEST(LiveInGuest, BadSectorsAreReadAround) {
  ONLY_IN_GUEST();
  DirectOptions options;
  options.pause = 1ms;
  const DirectDisk strict("/dev/vdf", options);
  Bytes all(strict.size());
  try {
    strict.read(0, all);
    ADD_FAILURE() << "no bad sectors";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "DISK_READ_ERROR");
    EXPECT_NE(error.why().find("sectors 4096 "), std::string::npos) << error.why();
  }
  options.rescue = true;
  const DirectDisk rescued("/dev/vdf", options);
  rescued.read(0, all);
  EXPECT_EQ(rescued.bad_ranges(), (std::vector<Range>{{2 * mib, 512}, {3 * mib + 512, 1024}}));
  for (std::uint64_t at = 0; at < all.size(); at += 512) {
    const bool bad = at == 2 * mib || at == 3 * mib + 512 || at == 3 * mib + 1024;
    ASSERT_EQ(all[at], bad ? std::byte{0} : std::byte{0x5a}) << at;
  }
}

class LiveGuest : public LiveGuestBase {
 protected:
  void SetUp() override {
    KVMPORT_ONLY_SLOW();
    make();
    for (const auto& [name, size] :
         {std::pair("vdb", "8M"), std::pair("vdd", "96M"), std::pair("vde", "96M"), std::pair("vdg", "448M")})
      make_disk(name, size);
    std::ofstream(file("vdf.raw")) << std::string(4 * mib, '\x5a');
    std::ofstream(file("bad.conf")) << "[inject-error]\nevent = \"read_aio\"\nsector = \"4096\"\n"
                                       "[inject-error]\nevent = \"read_aio\"\nsector = \"6145\"\n"
                                       "[inject-error]\nevent = \"read_aio\"\nsector = \"6146\"\n";
  }
  std::vector<std::string> more_disks() const {
    return {"-drive",
            disk("vdd"),
            "-drive",
            disk("vde"),
            "-drive",
            "if=virtio,format=raw,file.driver=blkdebug,file.config=" + file("bad.conf").string() +
                ",file.image.driver=file,file.image.filename=" + file("vdf.raw").string(),
            "-drive",
            disk("vdg")};
  }
};

TEST_F(LiveGuest, TracksAndReadsOnDebiansKernel) {
  const std::string said = boot(std::string("uname -r\n") + program +
                                    "'LiveInGuest.Stacked*:LiveInGuest.Bad*:LiveInGuest.Logical*:ChangeTracker*'\n",
                                more_disks());
  std::cout << said;
  EXPECT_NE(said.find("[  PASSED  ]"), std::string::npos);
  EXPECT_EQ(said.find("FAILED"), std::string::npos);
}

} // namespace
} // namespace kvmport::test
