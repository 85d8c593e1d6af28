// SPDX-License-Identifier: Apache-2.0
// Clones of a guest that only the libguestfs appliance can open: it is launched once for all clones of a thread, and
// each has its own changes and none of another's.
#include "base/process.h"
#include "libconvert/clone/clone_list.h"
#include "tests/clone/clone_fixture.h"
#include "tests/support/guests.h"

#include <atomic>
#include <set>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

using State = CloneOutcome::State;

class Launches : public Silent {
 public:
  void message(Level, std::string_view, std::string_view text) override {
    count += text.starts_with("the appliance runs");
  }
  std::atomic<int> count{0};
};

/// `what` with the image's root mounted, read-only or not.
void with_mounted(const fs::path& image, const fs::path& point, const std::string& options,
                  const std::function<void()>& what) {
  fs::create_directories(point);
  must_run({"mount", "-o", options, image.string(), point.string()});
  what();
  must_run({"umount", point.string()});
}

class CloneInAppliance : public Clone, public testing::WithParamInterface<std::string> {
 protected:
  void SetUp() override {
    Clone::SetUp();
    if (GetParam() != "xfs")
      KVMPORT_ONLY_SLOW();
    const fs::path raw = dir / "src/disk";
    fs::remove(raw);
    must_run({"truncate", "-s", "400M", raw.string()});
    must_run(GetParam() == "ext4" ? std::vector<std::string>{"mkfs.ext4", "-q", raw.string()}
                                  : std::vector<std::string>{"mkfs." + GetParam(), "-q", raw.string()});
    if (run_process({"mount", "-o", "loop", raw.string(), "/mnt"}, std::chrono::minutes(1)).exit_code != 0)
      GTEST_SKIP() << "this host can't mount it";
    must_run({"umount", "/mnt"});
    with_mounted(raw, dir / "mnt", "loop", [&] {
      const fs::path tree = dir / "mnt";
      small_system(tree);
      write_file_durably(tree / "etc/hostname", "old\n");
      write_file_durably(tree / "etc/machine-id", "0123456789abcdef0123456789abcdef\n");
      fs::create_directories(tree / "etc/iscsi");
      write_file_durably(tree / "etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.1993-08.org.debian:01:abcdef\n");
      make_pattern_file(tree / "data", 5U << 20, 1);
      data_digest = sha256_of(tree / "data");
    });
    describe("qcow2");
  }
  std::string data_digest;
};

TEST_P(CloneInAppliance, OneLaunchServesAllOfAThread) {
  CloneOptions o = options();
  o.mode = CloneMode::linked;
  o.access = AccessWish::appliance;
  o.workers = 1;
  Launches launches;
  const CloneResult result = clone_guest(o, numbered_clones("web-{}", 4, 1), launches, stop);
  EXPECT_EQ(launches.count, 1);
  std::set<std::string> initiators;
  for (const CloneOutcome& one : result.clones) {
    ASSERT_EQ(one.state, State::done) << one.error->what();
    const fs::path raw = dir / "look.raw";
    must_run({"qemu-img", "convert", "-O", "raw", out(one.name + ".qcow2").string(), raw.string()});
    if (GetParam() == "xfs") {
      const ProcessResult check = run_process({"xfs_repair", "-n", raw.string()}, std::chrono::minutes(2));
      EXPECT_EQ(check.exit_code, 0) << check.err;
    }
    with_mounted(raw, dir / "mnt", "loop,ro", [&] {
      EXPECT_EQ(read_file(dir / "mnt/etc/hostname"), one.name + "\n");
      EXPECT_FALSE(fs::exists(dir / "mnt/etc/machine-id") && !read_file(dir / "mnt/etc/machine-id").empty());
      EXPECT_EQ(sha256_of(dir / "mnt/data"), data_digest);
      initiators.insert(read_file(dir / "mnt/etc/iscsi/initiatorname.iscsi"));
    });
  }
  EXPECT_EQ(initiators.size(), 4U);
  EXPECT_EQ(sha256_of(disk()), source_digest);
}
INSTANTIATE_TEST_SUITE_P(All, CloneInAppliance, testing::Values("xfs", "btrfs", "ext4"),
                         [](const auto& info) { return info.param; });

} // namespace
} // namespace kvmport::test
