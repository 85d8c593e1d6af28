// SPDX-License-Identifier: Apache-2.0
// Whole clones of a small guest on real files and file systems: what is in the copy, what is left when it fails, and
// what is refused.
#include "base/process.h"
#include "libconvert/clone/remaining_identity.h"
#include "tests/clone/clone_fixture.h"

#include <set>
#include <sys/mount.h>
#include <sys/stat.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

using State = CloneOutcome::State;

// --- one clone ----------------------------------------------------------------------------------------------------

struct Kind {
  const char *name, *format, *options;
};
class CloneOf : public Clone, public testing::WithParamInterface<Kind> {};

TEST_P(CloneOf, AFullOneIsItsOwnMachine) {
  describe(GetParam().format, GetParam().options);
  const CloneResult result = clone(options(), {{"web2"}});
  ASSERT_EQ(result.clones.at(0).state, State::done) << result.clones[0].error->what();
  const bool raw = std::string(GetParam().format) == "raw";
  const std::string file = raw ? "web2.img" : "web2.qcow2";
  EXPECT_EQ(names(out()), (std::vector<std::string>{file, "web2.report.json", "web2.xml"}));
  expect_own_machine(out(file), "web2");
  if (!raw) {
    EXPECT_THAT(must_run({"qemu-img", "check", out(file).string()}), testing::HasSubstr("No errors"));
  }
  const std::string xml = read_file(out("web2.xml"));
  EXPECT_THAT(xml, testing::HasSubstr("<!-- kept -->"));
  EXPECT_THAT(xml, testing::HasSubstr(out(file).string()));
  EXPECT_THAT(xml, testing::Not(testing::HasSubstr("11111111-2222")));
}
INSTANTIATE_TEST_SUITE_P(All, CloneOf,
                         testing::Values(Kind{"raw", "raw", ""}, Kind{"qcow2", "qcow2", "cluster_size=64k"},
                                         Kind{"version_2", "qcow2", "compat=0.10"},
                                         Kind{"zstd", "qcow2", "compression_type=zstd"},
                                         Kind{"subclusters", "qcow2", "extended_l2=on,cluster_size=128k"}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_F(Clone, ALinkedOneHoldsWhatChangedAndItsBaseIsProtected) {
  CloneOptions o = options();
  o.mode = CloneMode::linked;
  const CloneResult result = clone(o, {{"web2"}});
  ASSERT_EQ(result.clones.at(0).state, State::done);
  EXPECT_LT(fs::file_size(out("web2.qcow2")), 2U << 20);
  EXPECT_THAT(must_run({"qemu-img", "info", out("web2.qcow2").string()}),
              testing::HasSubstr("backing file: ../src/small.disk (actual path:"));
  expect_own_machine(out("web2.qcow2"), "web2");
  struct stat st {};
  ::stat(disk().c_str(), &st);
  EXPECT_EQ(st.st_mode & 0222U, 0U);
  EXPECT_THAT(result.notes, testing::Contains(testing::HasSubstr("read-only")));
}

TEST_F(Clone, ABaseWithAColonInItsNameIsNoProtocol) {
  const fs::path base = dir / "src/nbd:small.disk";
  fs::copy_file(disk(), base);
  write_file_durably(dir / "src/small.xml", domain("small", base.string(), "qcow2"));
  CloneOptions o = options();
  o.mode = CloneMode::linked;
  o.output_directory = dir / "src"; // the relative path is the name alone
  const CloneResult result = clone(o, {{"web2"}});
  ASSERT_EQ(result.clones.at(0).state, State::done) << result.clones[0].error->what();
  EXPECT_THAT(must_run({"qemu-img", "info", (dir / "src/web2.qcow2").string()}),
              testing::HasSubstr("backing file: ./nbd:small.disk (actual path:"));
  expect_own_machine(dir / "src/web2.qcow2", "web2");
}

TEST_F(Clone, AChainBecomesOneFile) {
  const fs::path top = dir / "src/top.qcow2";
  must_run({"qemu-img", "create", "-q", "-f", "qcow2", "-b", "small.disk", "-F", "qcow2", top.string()});
  write_file_durably(dir / "src/small.xml", domain("small", top.string(), "qcow2"));
  const CloneResult result = clone(options(), {{"web2"}});
  EXPECT_THAT(result.clones.at(0).disks, testing::ElementsAre("web2.qcow2: flatten"));
  EXPECT_THAT(must_run({"qemu-img", "info", out("web2.qcow2").string()}), testing::Not(testing::HasSubstr("backing")));
  expect_own_machine(out("web2.qcow2"), "web2");
}

TEST_F(Clone, SharedDisksStayShared) {
  make_pattern_file(dir / "src/iso", 1U << 20, 3);
  std::string xml = domain("small", disk().string(), "qcow2");
  xml.replace(xml.find("    <interface"), 0,
              "    <disk type='file' device='disk'><source file='" + (dir / "src/iso").string() +
                  "'/><target dev='vdb'/><driver name='qemu' type='raw'/><readonly/></disk>\n");
  write_file_durably(dir / "src/small.xml", xml);
  const CloneResult result = clone(options(), {{"web2"}});
  EXPECT_EQ(names(out()), (std::vector<std::string>{"web2-vda.qcow2", "web2.report.json", "web2.xml"}));
  EXPECT_THAT(read_file(out("web2.xml")), testing::HasSubstr((dir / "src/iso").string()));
  EXPECT_THAT(result.notes, testing::Contains(testing::HasSubstr("vdb")));
}

TEST_F(Clone, VariablesOfTheFirmwareAreCopied) {
  make_pattern_file(dir / "src/vars.fd", 540672, 4);
  describe("qcow2", "",
           "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader><nvram>" +
               (dir / "src/vars.fd").string() + "</nvram>");
  clone(options(), {{"web2"}});
  EXPECT_EQ(sha256_of(out("web2_VARS.fd")), sha256_of(dir / "src/vars.fd"));
  EXPECT_THAT(read_file(out("web2.xml")), testing::HasSubstr("<nvram>" + out("web2_VARS.fd").string()));
}

TEST_F(Clone, ABareDiskAndItsReport) {
  CloneOptions o = options();
  o.sources = {disk()};
  const CloneResult result = clone(o, {{"node"}});
  ASSERT_EQ(result.clones.at(0).state, State::done);
  EXPECT_EQ(names(out()), (std::vector<std::string>{"node.qcow2", "node.report.json"}));
  const auto rules = [](const std::vector<IdentityFinding>& found) {
    std::set<std::string> all;
    for (const auto& finding : found)
      all.insert(finding.rule);
    return all;
  };
  EXPECT_THAT(rules(remaining_identity(o, sink, stop)), testing::IsSupersetOf({"hostname", "machine-id"}));
  o.sources = {out("node.qcow2")};
  EXPECT_THAT(rules(remaining_identity(o, sink, stop)), testing::Not(testing::Contains("machine-id")));
}

TEST_F(Clone, ADryRunTouchesNothing) {
  CloneOptions o = options();
  o.dry_run = true;
  const CloneResult result = clone(o, {{"web2"}});
  EXPECT_EQ(result.clones.at(0).state, State::planned);
  EXPECT_THAT(result.clones[0].plan->changes, testing::Not(testing::IsEmpty()));
  EXPECT_FALSE(fs::exists(out()));
}

TEST_F(Clone, NamesFollowTheSource) {
  CloneOptions o = options();
  o.mode = CloneMode::linked;
  write_file_durably(dir / "src/small.xml", domain("foo-clone9", disk().string(), "qcow2"));
  const CloneResult result = clone(o, {{}, {}});
  EXPECT_EQ(result.clones.at(0).name, "foo-clone10");
  EXPECT_EQ(result.clones.at(1).name, "foo-clone11");
}

// --- file systems -------------------------------------------------------------------------------------------------

/// A file system in a file, mounted for the length of a test.
class Mounted {
 public:
  Mounted(const fs::path& directory, const std::vector<std::string>& mkfs, const std::string& size)
      : point_(directory / "mnt") {
    const fs::path file = directory / "fs.img";
    must_run({"truncate", "-s", size, file.string()});
    std::vector<std::string> argv = mkfs;
    argv.push_back(file.string());
    must_run(argv);
    fs::create_directory(point_);
    mounted_ =
        run_process({"mount", "-o", "loop", file.string(), point_.string()}, std::chrono::minutes(1)).exit_code == 0;
  }
  Mounted(const Mounted&) = delete;
  Mounted& operator=(const Mounted&) = delete;
  ~Mounted() {
    if (mounted_)
      run_process({"umount", point_.string()}, std::chrono::minutes(1));
  }
  bool mounted() const { return mounted_; }
  const fs::path& point() const { return point_; }

 private:
  fs::path point_;
  bool mounted_ = false;
};

class CloneOn : public Clone, public testing::WithParamInterface<std::vector<std::string>> {};

TEST_P(CloneOn, BlocksAreSharedUntilOneSideWrites) {
  const Mounted there(dir, GetParam(), "400M");
  if (!there.mounted())
    GTEST_SKIP() << "this host can't mount it";
  for (const std::string format : {"raw", "qcow2"}) {
    describe(format);
    const fs::path moved = there.point() / ("small." + format);
    fs::copy_file(disk(), moved);
    write_file_durably(there.point() / "small.xml", domain("small", moved.string(), format));
    CloneOptions o = options();
    o.sources = {there.point() / "small.xml"};
    o.output_directory = there.point() / ("out-" + format);
    const CloneResult result = clone(o, {{"web2"}});
    ASSERT_EQ(result.clones.at(0).state, State::done) << result.clones[0].error->what();
    EXPECT_THAT(result.clones[0].disks.at(0), testing::HasSubstr(": reflink"));
    expect_own_machine(o.output_directory / (format == "raw" ? "web2.img" : "web2.qcow2"), "web2");
    EXPECT_EQ(sha256_of(moved), source_digest);
  }
}
INSTANTIATE_TEST_SUITE_P(All, CloneOn,
                         testing::Values(std::vector<std::string>{"mkfs.xfs", "-q"},
                                         std::vector<std::string>{"mkfs.btrfs", "-q"}),
                         [](const auto& info) { return info.param[0].substr(5); });

TEST_F(Clone, AFullDiskIsSaidAndNothingIsLeft) {
  const Mounted there(dir, {"mke2fs", "-q", "-F", "-t", "ext4"}, "5M");
  if (!there.mounted())
    GTEST_SKIP() << "this host can't mount it";
  CloneOptions o = options();
  o.output_directory = there.point() / "out";
  const CloneResult result = clone(o, {{"web2"}});
  ASSERT_EQ(result.clones.at(0).state, State::failed);
  EXPECT_EQ(result.clones[0].error->code(), "DISK_FULL");
  EXPECT_EQ(names(o.output_directory), std::vector<std::string>{});
}

// --- refusals -----------------------------------------------------------------------------------------------------

TEST_F(Clone, WhatCannotBeClonedIsNamed) {
  EXPECT_EQ(code_of([&] { clone(options(), {{"a/b"}}); }), "NAME_INVALID");
  EXPECT_EQ(code_of([&] { clone(options(), {{"twice"}, {"twice"}}); }), "NAME_IN_USE");
  EXPECT_EQ(code_of([&] { clone(options(), {{"small"}}); }), "NAME_IN_USE");
  CloneOptions o = options();
  o.rules = "defaults,-no-such-rule";
  EXPECT_EQ(code_of([&] { clone(o, {{"web2"}}); }), "RULE_UNKNOWN");
  fs::create_directories(out());
  write_file_durably(out("web2.xml"), "mine");
  EXPECT_EQ(code_of([&] { clone(options(), {{"web2"}}); }), "FILE_EXISTS");
  EXPECT_EQ(read_file(out("web2.xml")), "mine");
  write_file_durably(out("other.xml"), domain("web3", "/x", "raw"));
  EXPECT_EQ(code_of([&] { clone(options(), {{"web3"}}); }), "NAME_IN_USE") << "another domain's name";
  EXPECT_EQ(names(out()), (std::vector<std::string>{"other.xml", "web2.xml"}));
}

TEST_F(Clone, ADamagedSourceIsAnError) {
  fs::resize_file(disk(), fs::file_size(disk()) - (1U << 20));
  EXPECT_NE(code_of([&] {
              const CloneResult result = clone(options(), {{"web2"}});
              if (result.clones.at(0).error)
                throw Error(*result.clones[0].error);
            }),
            "");
  EXPECT_FALSE(fs::exists(out("web2.qcow2")));
  EXPECT_FALSE(fs::exists(out("web2.xml")));
}

TEST_F(Clone, ForceReplaces) {
  clone(options(), {{"web2"}});
  const std::string before = read_file(out("web2.xml"));
  CloneOptions o = options();
  o.force = true;
  EXPECT_EQ(clone(o, {{"web2"}}).clones.at(0).state, State::done);
  EXPECT_NE(read_file(out("web2.xml")), before);
  expect_own_machine(out("web2.qcow2"), "web2");
}

TEST_F(Clone, ForceNeverMeansTheSource) {
  const fs::path source = dir / "src/web.qcow2";
  fs::copy_file(disk(), source);
  for (const CloneMode mode : {CloneMode::full, CloneMode::linked, CloneMode::flatten}) {
    CloneOptions o = options();
    o.sources = {source};
    o.output_directory = "";
    o.force = true;
    o.mode = mode;
    EXPECT_EQ(code_of([&] { clone(o, {{"web"}}); }), "FILE_EXISTS");
    EXPECT_EQ(sha256_of(source), source_digest);
  }
}

TEST_F(Clone, WhatIsAskedAnewIsMadeAnew) {
  CloneOptions o = options();
  o.mode = CloneMode::linked;
  clone(o, {{"a"}, {"b"}});
  EXPECT_EQ(clone(o, {{"a"}, {"b"}}).clones.at(0).state, State::before);
  EXPECT_EQ(code_of([&] { clone(o, {{"a", "other"}, {"b"}}); }), "FILE_EXISTS") << "another host name";
  fs::remove(out("b.qcow2"));
  EXPECT_EQ(code_of([&] { clone(o, {{"a"}, {"b"}}); }), "FILE_EXISTS") << "its disk is gone";
}

TEST_F(Clone, FilesAreAsPrivateAsTheSource) {
  const mode_t mask = ::umask(077); // as the command has it
  fs::permissions(disk(), fs::perms(0640));
  clone(options(), {{"web2"}});
  ::umask(mask);
  struct stat st {};
  ::stat(out("web2.qcow2").c_str(), &st);
  EXPECT_EQ(st.st_mode & 0777U, 0640U);
  ::stat(out("web2.xml").c_str(), &st);
  EXPECT_EQ(st.st_mode & 0777U, 0600U);
  ::stat(out().c_str(), &st);
  EXPECT_EQ(st.st_mode & 0777U, 0755U);
}

} // namespace
} // namespace kvmport::test
