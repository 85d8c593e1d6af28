// SPDX-License-Identifier: Apache-2.0
// kvm-p2v capture of each filesystem, unmounted and as a pulled plug leaves it, with free space full of what was there
// before: every file is the same afterwards.
#include "tests/cli/support.h"
#include "tests/copy/free_fixtures.h"

namespace kvmport::test {
namespace {

constexpr std::uint64_t disk_size = 320 * mib;

using Files = std::map<std::string, std::string>;

/// One that the kernel of this host mounts.
struct Kernel {
  const char *name, *mkfs;
};

ProcessResult capture(const fs::path& disk, const fs::path& out) {
  return run("kvm-p2v",
             {"capture", "--to", out.string(), "--disk", disk.string(), "--name", "m", "--no-convert", "--json"});
}

/// Captures; returns the copy. Prints what travelled.
fs::path captured(const fs::path& disk, const fs::path& out, const std::string& what, bool whole) {
  const ProcessResult done = capture(disk, out);
  EXPECT_EQ(done.exit_code, 3) << what << done.out << done.err;
  const auto event = last_event(done);
  const std::uint64_t total = event["total"], used = event["used"], payload = event["payload"];
  std::printf("%-16s %4llu MiB, used %4llu MiB, sent %4llu MiB\n", what.c_str(),
              static_cast<unsigned long long>(total >> 20), static_cast<unsigned long long>(used >> 20),
              static_cast<unsigned long long>(payload >> 20));
  EXPECT_LE(payload, used) << what;
  if (whole)
    EXPECT_EQ(used, total) << what;
  else
    EXPECT_LT(used, total / 2) << what;
  return out / "m-sda.img";
}

class KernelFilesystems : public testing::TestWithParam<Kernel> {};

TEST_P(KernelFilesystems, KeepAllFiles) {
  TempDir dir;
  const fs::path disk = dir.path() / "disk";
  fill_with_junk(disk, disk_size);
  auto mkfs = words(GetParam().mkfs);
  mkfs.push_back(disk.string());
  must_run(mkfs);
  Files clean, dirty;
  {
    Mounted mounted(disk, dir.path() / "mnt");
    if (!mounted)
      GTEST_SKIP() << "no loop mount here: " << mounted.why();
    use_filesystem(mounted.path());
    ::sync();
    for (const std::uint64_t size : {20 * mib, mib / 4}) {
      const fs::path file = mounted.path() / ("new" + std::to_string(size));
      make_pattern_file(file, size, 3);
      must_run({"sync", file.string()});
    }
    must_run({"cp", disk.string(), (dir.path() / "pulled").string()});
    dirty = files_below(mounted.path());
    make_pattern_file(mounted.path() / "last", 3 * mib, 4);
    clean = files_below(mounted.path());
  }
  const std::string name = GetParam().name;
  for (const bool pulled : {false, true}) {
    const fs::path copy = captured(dir.path() / (pulled ? "pulled" : "disk"), dir.path() / (pulled ? "out2" : "out1"),
                                   name + (pulled ? ", dirty" : ", clean"), pulled);
    Mounted again(copy, dir.path() / "again");
    ASSERT_TRUE(again) << again.why();
    EXPECT_EQ(files_below(again.path()), pulled ? dirty : clean) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, KernelFilesystems,
                         testing::Values(Kernel{"ext4", "mkfs.ext4 -q -F -E nodiscard"},
                                         Kernel{"xfs", "mkfs.xfs -q -K -f"}, Kernel{"btrfs", "mkfs.btrfs -q -K -f"}),
                         [](const auto& param) { return param.param.name; });

TEST(CapturedFilesystems, NtfsKeepsAllFiles) {
  TempDir dir;
  const fs::path disk = dir.path() / "disk", file = dir.path() / "file";
  fill_with_junk(disk, 64 * mib);
  must_run({"mkntfs", "-Q", "-F", "-q", disk.string()});
  Files wanted;
  for (unsigned i = 0; i < 6; i++) {
    fs::remove(file);
    make_pattern_file(file, 300 + i * i * 90000, i);
    must_run({"ntfscp", "-q", disk.string(), file.string(), "f" + std::to_string(i)});
    wanted["f" + std::to_string(i)] = sha256_of(file);
  }
  for (const bool dirty : {false, true}) {
    if (dirty) // marks it for chkdsk
      must_run({"ntfsfix", disk.string()});
    const fs::path copy =
        captured(disk, dir.path() / (dirty ? "out2" : "out1"), dirty ? "ntfs, dirty" : "ntfs, clean", dirty);
    for (const auto& [name, digest] : wanted) {
      write_file_durably(file, must_run({"ntfscat", "-f", "-q", copy.string(), name}));
      EXPECT_EQ(sha256_of(file), digest) << name;
    }
  }
}

/// FAT16 keeps "dirty" in its boot sector (byte 37, bit 0).
TEST(CapturedFilesystems, FatKeepsAllFiles) {
  TempDir dir;
  const fs::path disk = dir.path() / "disk", tree = dir.path() / "tree";
  fill_with_junk(disk, 64 * mib);
  must_run({"mkfs.vfat", "-F", "16", disk.string()});
  make_tree(tree);
  for (const char* name : {"a", "four", "last"})
    must_run({"mcopy", "-s", "-i", disk.string(), (tree / name).string(), "::/"});
  fs::remove(tree / "deleted");
  for (const bool dirty : {false, true}) {
    if (dirty)
      poke(disk, 37, 1);
    const fs::path copy =
        captured(disk, dir.path() / (dirty ? "out2" : "out1"), dirty ? "fat16, dirty" : "fat16, clean", dirty);
    const fs::path read = dir.path() / (dirty ? "read2" : "read1");
    fs::create_directories(read);
    must_run({"mcopy", "-s", "-n", "-i", copy.string(), "::/", read.string()});
    EXPECT_EQ(files_below(read), files_below(tree));
  }
}

} // namespace
} // namespace kvmport::test
