// SPDX-License-Identifier: Apache-2.0
// Filesystems are made by mke2fs(8); what a guest would do to them is done by debugfs(8) to a copy, and the blocks that
// differ are written into the overlay as a guest writes them.
#include "base/process.h"
#include "formats/readers.h"
#include "kvmboot/disk_evidence.h"
#include "tests/support/tempdir.h"

#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <random>
#include <sstream>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

constexpr std::uint64_t no_cap = std::uint64_t{1} << 40, partition_at = 1U << 20, size = 12U << 20;
constexpr std::size_t block = 1024;

void put(const fs::path& path, std::string_view content) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << content;
}

Bytes bytes_of(const fs::path& path) {
  const std::string text = read_file(path, 64U << 20);
  const ByteSpan all = as_bytes(text);
  return {all.begin(), all.end()};
}

/// One record of wtmp.
std::string record(std::uint16_t type, std::uint32_t pid = 1) {
  Bytes bytes(384);
  store_le<std::uint16_t>(bytes, 0, type);
  store_le<std::uint32_t>(bytes, 4, pid);
  return std::string(as_text(bytes));
}

/// A disk with one ext4 in a partition, and a guest that uses it.
class Guest {
 public:
  /// `init` in the tree: what /sbin/init is.
  explicit Guest(const std::string& init = "usr/lib/systemd/systemd", const std::vector<std::string>& options = {}) {
    const fs::path tree = temp_.path() / "tree";
    // Room before the programs, so that they don't lie where a partition's signatures are looked for.
    put(tree / "a", std::string(2U << 20, 'a'));
    put(tree / init, std::string(200U << 10, 'i'));
    fs::create_directories(tree / "usr/sbin");
    fs::create_symlink("usr/sbin", tree / "sbin");
    fs::create_symlink("/" + init, tree / "usr/sbin/init");
    put(tree / "usr/sbin/agetty", std::string(30U << 10, 'g'));
    fs::create_symlink("/usr/lib", tree / "lib");
    put(tree / "etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    put(tree / "var/log/wtmp", record(2) + record(6));
    put(tree / "var/log/journal/0123456789abcdef0123456789abcdef/system.journal", "LPKSHHRH");
    put(tree / "var/lib/systemd/random-seed", std::string(512, 'r'));
    std::vector<std::string> argv{"mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-d", tree.string()};
    argv.insert(argv.end(), options.begin(), options.end());
    argv.insert(argv.end(), {image().string(), std::to_string(size >> 10) + "K"});
    must_run(argv);
    start();
  }

  fs::path image() const { return temp_.path() / "fs.img"; }
  const fs::path& dir() const { return temp_.path(); }

  /// Power-on, with the disk as it is in the file now.
  void start() {
    evidence.reset();
    overlay_.reset();
    now_ = bytes_of(image());
    Bytes& disk = disk_bytes_;
    disk.assign(partition_at, std::byte{0});
    store_le<std::uint16_t>(disk, 510, 0xaa55);
    disk[446 + 4] = std::byte{0x83};
    store_le<std::uint32_t>(disk, 446 + 8, partition_at / 512);
    store_le<std::uint32_t>(disk, 446 + 12, size / 512);
    disk.insert(disk.end(), now_.begin(), now_.end());
    disk_ = open_raw(SourceFile::from_memory(disk, "memory"), OpenContext{});
    overlay_ = std::make_unique<Overlay>(*disk_, dir(), no_cap);
    BootDisk one;
    one.overlay = overlay_.get();
    evidence = std::make_unique<DiskEvidence>(std::vector<BootDisk>{one}, dir());
  }

  std::string debugfs(const std::string& commands) const {
    put(dir() / "commands", commands);
    return must_run({"debugfs", "-w", "-f", (dir() / "commands").string(), image().string()}, dir());
  }
  /// The guest writes what these commands of debugfs change.
  void change(const std::string& commands) {
    debugfs(commands);
    const Bytes next = bytes_of(image());
    for (std::size_t at = 0; at < next.size(); at += block)
      if (std::memcmp(next.data() + at, now_.data() + at, block) != 0) {
        overlay_->write(partition_at + at, ByteSpan(next).subspan(at, block));
        evidence->written(0, {partition_at + at, block});
      }
    now_ = next;
  }
  void mount() { change("feature needs_recovery\nssv mtime 20260102030405\n"); }
  /// Commands that replace a file.
  std::string replacing(const std::string& path, const std::string& content) const {
    put(dir() / "new", content);
    return "rm " + path + "\nwrite new " + path + "\nsif " + path + " mtime 20260102030406\n";
  }
  void change_file(const std::string& path, const std::string& content) { change(replacing(path, content)); }
  /// The guest reads the first `most` bytes of a file.
  void read(const std::string& path, std::size_t most = 1U << 20) const {
    std::istringstream list(must_run({"debugfs", "-R", "blocks " + path, image().string()}));
    std::uint64_t number = 0;
    for (std::size_t done = 0; done < most && list >> number; done += block)
      evidence->read(0, {partition_at + number * block, block});
  }

  std::unique_ptr<DiskEvidence> evidence;

 private:
  TempDir temp_;
  Bytes disk_bytes_;
  std::unique_ptr<Image> disk_;
  std::unique_ptr<Overlay> overlay_;
  Bytes now_;
};

constexpr const char* init_file = "/usr/lib/systemd/systemd";

TEST(DiskEvidence, ABootShowsItsMilestonesInOrder) {
  Guest guest;
  EXPECT_THAT(guest.evidence->take(), IsEmpty());
  guest.mount();
  EXPECT_THAT(guest.evidence->take(), ElementsAre(StartsWith("root: partition 1 of disk 1 was mounted")));
  guest.read(init_file);
  EXPECT_THAT(guest.evidence->take(), ElementsAre(StartsWith("init: /sbin/init was read")));
  guest.read("/usr/sbin/agetty", 4096);
  EXPECT_THAT(guest.evidence->take(), ElementsAre(StartsWith("login: /sbin/agetty was read")));
  guest.read("/usr/sbin/agetty");
  EXPECT_THAT(guest.evidence->take(), IsEmpty()) << "each is told once";
}

TEST(DiskEvidence, ARootMountedForReadingIsShownWhenItIsMountedForWriting) {
  Guest guest;
  guest.read(init_file);
  EXPECT_THAT(guest.evidence->take(), IsEmpty());
  guest.mount();
  EXPECT_THAT(guest.evidence->take(), ElementsAre(StartsWith("root: "), StartsWith("init: ")));
}

TEST(DiskEvidence, WhatABootLoaderTouchesBesideItsFilesIsNoInit) {
  Guest guest;
  guest.read(init_file, 60U << 10);
  guest.read("/usr/sbin/agetty");
  guest.mount();
  EXPECT_THAT(guest.evidence->take(), ElementsAre(StartsWith("root: ")));
}

struct NoMount {
  const char *name, *commands;
};
class NotMounted : public testing::TestWithParam<NoMount> {};

TEST_P(NotMounted, IsNoRoot) {
  Guest guest;
  guest.change(GetParam().commands);
  guest.read(init_file);
  guest.read("/usr/sbin/agetty");
  EXPECT_THAT(guest.evidence->take(), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(All, NotMounted,
                         testing::Values(NoMount{"fsck", "ssv lastcheck 20260102030405\nssv mnt_count 0\n"},
                                         NoMount{"fsck_mends_the_time", "ssv mtime 20260102030405\n"},
                                         NoMount{"flag_alone", "feature needs_recovery\n"},
                                         NoMount{"file_alone", "mkdir /etc/x\n"}),
                         [](const auto& param_info) { return param_info.param.name; });

TEST(DiskEvidence, AFilesystemThatWasInUseAtPowerOnIsMountedAnew) {
  Guest guest;
  guest.mount();
  guest.start();
  guest.change("ssv mnt_count 3\n"); // rewritten, still the old mount
  EXPECT_THAT(guest.evidence->take(), IsEmpty());
  guest.change("ssv mtime 20260202030405\n");
  EXPECT_THAT(guest.evidence->take(), ElementsAre(StartsWith("root: ")));
}

TEST(DiskEvidence, WithoutAJournalTheCleanMarkTells) {
  Guest guest("usr/lib/systemd/systemd", {"-O", "^has_journal"});
  guest.change("ssv mtime 20260102030405\n");
  EXPECT_THAT(guest.evidence->take(), IsEmpty());
  guest.change("ssv state 0\n");
  EXPECT_THAT(guest.evidence->take(), ElementsAre(StartsWith("root: ")));
}

TEST(DiskEvidence, AGettyThatIsInitItselfIsNoLogin) {
  Guest guest;
  guest.debugfs("rm /usr/sbin/agetty\nln /usr/lib/systemd/systemd /usr/sbin/agetty\n");
  guest.start();
  guest.mount();
  guest.read(init_file);
  EXPECT_THAT(guest.evidence->take(), ElementsAre(StartsWith("root: "), StartsWith("init: ")));
}

TEST(DiskEvidence, ASmallInitCountsOnceTheRootIsMounted) {
  Guest guest("usr/sbin/start");
  guest.change_file("/usr/sbin/start", "#!/bin/sh\n" + std::string(5000, '#'));
  guest.start();
  guest.read("/usr/sbin/start");
  guest.mount();
  EXPECT_THAT(guest.evidence->take(), ElementsAre(StartsWith("root: ")));
  guest.read("/usr/sbin/start");
  EXPECT_THAT(guest.evidence->take(), ElementsAre(StartsWith("init: ")));
}

struct Change {
  const char *name, *init, *path;
  std::string content;
  const char* shows; ///< null: nothing
};
class ChangedFiles : public testing::TestWithParam<Change> {};

const std::string old_wtmp = record(2) + record(6);

TEST_P(ChangedFiles, AreRead) {
  Guest guest(GetParam().init);
  guest.mount();
  guest.change_file(GetParam().path, GetParam().content);
  const auto shown = guest.evidence->take();
  EXPECT_THAT(shown, Contains(StartsWith("root: ")));
  EXPECT_EQ(shown.size(), GetParam().shows != nullptr ? 2U : 1U);
  if (GetParam().shows != nullptr) {
    EXPECT_THAT(shown, Contains(StartsWith(GetParam().shows)));
  }
}

/// The same, but the change is only in the journal: the guest has not yet written it to its place.
TEST_P(ChangedFiles, AreReadThroughTheJournal) {
  Guest guest(GetParam().init);
  // The transaction, made on a copy of the filesystem.
  fs::copy_file(guest.image(), guest.dir() / "before.img");
  guest.debugfs(guest.replacing(GetParam().path, GetParam().content));
  const Bytes before = bytes_of(guest.dir() / "before.img"), after = bytes_of(guest.image());
  std::string numbers;
  Bytes data;
  for (std::size_t at = 2 * block; at < after.size(); at += block)
    if (std::memcmp(before.data() + at, after.data() + at, block) != 0) {
      numbers += (numbers.empty() ? "" : ",") + std::to_string(at / block);
      data.insert(data.end(), after.begin() + static_cast<std::ptrdiff_t>(at),
                  after.begin() + static_cast<std::ptrdiff_t>(at + block));
    }
  put(guest.dir() / "data", as_text(data));
  fs::copy_file(guest.dir() / "before.img", guest.image(), fs::copy_options::overwrite_existing);

  guest.change("ssv mtime 20260102030405\njo\njw -b " + numbers + " data\njc\n");
  const auto shown = guest.evidence->take();
  EXPECT_EQ(shown.size(), GetParam().shows != nullptr ? 2U : 1U);
  if (GetParam().shows != nullptr) {
    EXPECT_THAT(shown, Contains(StartsWith(GetParam().shows)));
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, ChangedFiles,
    testing::Values(
        Change{"machine_id", "usr/sbin/start", "/etc/machine-id", "fedcba9876543210fedcba9876543210\n",
               "init: /etc/machine-id"},
        Change{"random_seed", "usr/sbin/start", "/var/lib/systemd/random-seed", std::string(512, 's'),
               "init: /var/lib/systemd/random-seed"},
        Change{"system_journal", "usr/sbin/start", "/var/log/journal/0123456789abcdef0123456789abcdef/system.journal",
               "LPKSHHRH more", "init: /var/log/journal"},
        Change{"login", "usr/sbin/start", "/var/log/wtmp", old_wtmp + record(2) + record(6), "login: /var/log/wtmp"},
        Change{"user", "usr/sbin/start", "/var/log/wtmp", old_wtmp + record(7), "login: /var/log/wtmp"},
        Change{"run_level_of_systemd", "usr/lib/systemd/systemd", "/var/log/wtmp", old_wtmp + record(1, '5' | 'N' << 8),
               "login: /var/log/wtmp says that run level 5"},
        Change{"rescue_of_systemd", "usr/lib/systemd/systemd", "/var/log/wtmp", old_wtmp + record(1, '1'),
               "init: /var/log/wtmp"},
        Change{"run_level_of_sysvinit", "usr/sbin/start", "/var/log/wtmp", old_wtmp + record(1, '2'),
               "init: /var/log/wtmp"},
        Change{"other_file", "usr/sbin/start", "/etc/motd", "hello", nullptr}),
    [](const auto& param_info) { return param_info.param.name; });

TEST(DiskEvidence, OldRecordsOfWtmpShowNothing) {
  Guest guest;
  guest.mount();
  guest.change("sif /var/log/wtmp mtime 20260102030405\nmkdir /new\n");
  EXPECT_THAT(guest.evidence->take(), ElementsAre(StartsWith("root: ")));
}

TEST(DiskEvidence, AfterARestartAllIsShownAnew) {
  Guest guest;
  guest.mount();
  guest.read(init_file);
  guest.read("/usr/sbin/agetty");
  guest.change_file("/etc/machine-id", "fedcba9876543210fedcba9876543210\n");
  EXPECT_EQ(guest.evidence->take().size(), 3U);
  guest.evidence->restart();
  guest.change("ssv mnt_count 9\n");
  EXPECT_THAT(guest.evidence->take(), IsEmpty()) << "the mount before it counts no more";
  guest.change("ssv mtime 20270102030405\n");
  EXPECT_THAT(guest.evidence->take(), ElementsAre(StartsWith("root: ")));
}

TEST(DiskEvidence, ADiskWithoutASystemIsNoEvidence) {
  Guest guest;
  guest.debugfs("rm /usr/sbin/init\n");
  guest.start();
  guest.mount();
  guest.read(init_file);
  guest.read("/usr/sbin/agetty");
  guest.change_file("/var/log/wtmp", record(6));
  EXPECT_THAT(guest.evidence->take(), IsEmpty());
}

TEST(DiskEvidence, OtherDisksAndPlacesAreNotMistaken) {
  Guest guest;
  guest.mount();
  (void)guest.evidence->take();
  guest.evidence->read(1, {0, partition_at + size});
  guest.evidence->read(0, {0, partition_at});
  guest.evidence->written(1, {0, partition_at + size});
  EXPECT_THAT(guest.evidence->take(), IsEmpty());
  guest.evidence->read(0, {0, partition_at + size});
  EXPECT_EQ(guest.evidence->take().size(), 2U) << "a request may be larger than the filesystem";
}

/// Damage of every kind: perhaps no evidence, never more than that.
TEST(DiskEvidence, DamagedFilesystemsAreBorne) {
  Guest guest;
  guest.mount();
  const Bytes good = bytes_of(guest.image());
  std::mt19937 random(3);
  for (int i = 0; i < 40; i++) {
    Bytes bad = good;
    // Superblock and descriptors; then the tables of inodes and the first directories.
    const std::size_t from = i % 2 == 0 ? 1024 : 100 * block, length = i % 2 == 0 ? 3 * block : 1000 * block;
    for (int flips = 0; flips < 1 + i * 4; flips++)
      bad[from + random() % length] = static_cast<std::byte>(random());
    put(guest.image(), as_text(bad));
    guest.start();
    guest.evidence->written(0, {partition_at, size});
    guest.evidence->read(0, {partition_at, size});
    for (const std::string& text : guest.evidence->take())
      EXPECT_THAT(text, HasSubstr(": "));
    guest.evidence->restart();
  }
}

} // namespace
} // namespace kvmport::test
