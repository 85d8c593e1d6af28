// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"
#include "libconvert/guest/plan_labels.h"
#include "tests/guest/guest_tree.h"

#include <gmock/gmock.h>

namespace kvmport::test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

using Edit = std::function<void(Draft&)>;
Step step(const Edit& edit, const std::string& name = "test") {
  return {name, [edit](const GuestInfo&, Draft& draft) { edit(draft); }};
}

TEST(Draft, ReadsSeeEarlierChanges) {
  GuestTree tree;
  tree.file("/etc/a", "one\n").file("/etc/gone", "x").link("/etc", "/conf");
  const Plan plan = tree.run({}, {step([](Draft& draft) {
                                    draft.write("/conf/a", "two\n", "why a");
                                    draft.append("/etc/a", "three\n", "why more");
                                    draft.copy("/etc/a", "/etc/b", "why copy");
                                    draft.rename("/etc/gone", "/etc/kept", "why rename");
                                    draft.symlink("a", "/etc/l", "why link");
                                  }),
                                  step([](Draft& draft) {
                                    EXPECT_EQ(draft.try_read("/etc/b"), "two\nthree\n");
                                    EXPECT_EQ(draft.try_read("/etc/l"), "two\nthree\n");
                                    EXPECT_EQ(draft.try_read("/etc/kept"), "x");
                                    EXPECT_EQ(draft.try_read("/etc/gone"), std::nullopt);
                                    EXPECT_THAT(draft.list("/conf"), ElementsAre("a", "b", "kept", "l"));
                                    EXPECT_EQ(draft.lstat("/etc/b")->size, 10U);
                                    EXPECT_EQ(draft.readlink("/etc/l"), "a");
                                    draft.remove("/etc/l", "why not");
                                    EXPECT_FALSE(draft.exists("/etc/l"));
                                  })});
  ASSERT_THAT(plan.changes, SizeIs(6));
  EXPECT_EQ(plan.changes[0].path, "/etc/a");
  EXPECT_EQ(plan.changes[0].before, "one\n");
  EXPECT_EQ(plan.changes[0].reason, "why a");
  EXPECT_TRUE(plan.changes[0].existed);
  EXPECT_EQ(tree.read("/etc/a"), "two\nthree\n");
  EXPECT_EQ(tree.read("/etc/b"), "two\nthree\n");
  EXPECT_EQ(tree.read("/etc/kept"), "x");
  EXPECT_FALSE(tree.exists("/etc/gone"));
  EXPECT_FALSE(tree.exists("/etc/l"));
}

TEST(Draft, WritingWhatIsThereIsNoChange) {
  GuestTree tree;
  tree.file("/etc/a", "same").link("a", "/etc/l");
  const Plan plan = tree.plan({}, {step([](Draft& draft) {
                                draft.write("/etc/a", "same", "r");
                                draft.write("/etc/l", "same", "r");
                                draft.symlink("a", "/etc/l", "r");
                                draft.remove("/etc/none", "r");
                                draft.make_directories("/etc", "r");
                                draft.append("/etc/a", "", "r");
                              })});
  EXPECT_THAT(plan.changes, IsEmpty());
}

TEST(Draft, NothingIsAppliedBeforeApply) {
  GuestTree tree;
  tree.file("/etc/a", "old");
  (void)tree.plan({}, {step([](Draft& draft) { draft.write("/etc/a", "new", "r"); })});
  EXPECT_EQ(tree.read("/etc/a"), "old");
}

TEST(Draft, NewFilesGetTheirDirectoriesAndModes) {
  GuestTree tree;
  tree.file("/etc/a", "there");
  const Plan plan = tree.run({}, {step([](Draft& draft) { draft.write("/etc/x/y/z.conf", "1", "r", 0600); }, "net")});
  EXPECT_THAT(plan.changes, SizeIs(3));
  EXPECT_EQ(plan.changes[0].kind, Change::Kind::mkdir);
  EXPECT_EQ(plan.changes[2].step, "net");
  EXPECT_EQ(tree.filesystem().stat("/etc/x/y/z.conf")->mode, 0600U);
}

TEST(Draft, BinaryContentIsMarked) {
  GuestTree tree;
  const Plan plan = tree.plan({}, {step([](Draft& draft) {
                                draft.write("/a", std::string("x\0y", 3), "r");
                                draft.write("/b", "text", "r");
                              })});
  EXPECT_TRUE(plan.changes[0].binary);
  EXPECT_FALSE(plan.changes[1].binary);
}

TEST(Draft, AnEmptiedFileKeepsNoneOfItsContentInThePlan) {
  GuestTree tree;
  tree.file("/etc/key", "secret").link("key", "/etc/l").file("/etc/none", "");
  const Plan plan = tree.run({}, {step([](Draft& draft) {
                               draft.empty("/etc/l", "r");
                               draft.empty("/etc/none", "r");
                               EXPECT_EQ(draft.try_read("/etc/key"), "");
                               EXPECT_THROW(draft.empty("/etc", "r"), Error);
                               EXPECT_THROW(draft.empty("/etc/missing", "r"), Error);
                             })});
  ASSERT_THAT(plan.changes, SizeIs(1));
  EXPECT_EQ(to_string(plan.changes[0].kind), "empty");
  EXPECT_EQ(plan.changes[0].path, "/etc/key");
  EXPECT_EQ(plan.changes[0].before, "");
  EXPECT_EQ(tree.read("/etc/key"), "");
}

TEST(Draft, OnlyEmptyDirectoriesAreRemoved) {
  GuestTree tree;
  tree.file("/var/d/sub/file", "x").link("d", "/var/l");
  const Plan plan = tree.run({}, {step([](Draft& draft) {
                               EXPECT_THROW(draft.remove_directory("/var/d/sub", "r"), Error);
                               EXPECT_THROW(draft.remove_directory("/var/l", "r"), Error);
                               EXPECT_THROW(draft.remove_directory("/var/d/sub/file", "r"), Error);
                               draft.remove_directory("/var/none", "r");
                               draft.remove("/var/d/sub/file", "r");
                               draft.remove_directory("/var/d/sub", "r");
                               EXPECT_FALSE(draft.exists("/var/d/sub"));
                               EXPECT_THAT(draft.list("/var/d"), IsEmpty());
                             })});
  EXPECT_THAT(plan.changes, SizeIs(2));
  EXPECT_FALSE(tree.exists("/var/d/sub"));
  EXPECT_TRUE(tree.exists("/var/d"));
}

TEST(Draft, ARemovedDirectoryIsMadeAgainForANewFile) {
  GuestTree tree;
  tree.directory("/var/d");
  tree.run({}, {step([](Draft& draft) {
             draft.remove_directory("/var/d", "r");
             draft.write("/var/d/new", "x", "r");
           })});
  EXPECT_EQ(tree.read("/var/d/new"), "x");
}

TEST(Draft, DirectoriesAreNotWrittenOrRemoved) {
  GuestTree tree;
  tree.directory("/etc/d");
  for (const Edit& edit :
       {Edit([](Draft& d) { d.write("/etc/d", "x", "r"); }), Edit([](Draft& d) { d.remove("/etc/d", "r"); }),
        Edit([](Draft& d) { d.rename("/etc/d", "/etc/e", "r"); }), Edit([](Draft& d) { d.append("/none", "x", "r"); })})
    EXPECT_THROW((void)tree.plan({}, {step(edit)}), Error);
}

/// A guest with a given amount of room.
class TightTree : public GuestFilesystem {
 public:
  TightTree(GuestFilesystem& inner, std::uint64_t room) : inner_(inner), room_(room) {}
  std::optional<FileStat> stat(const std::string& p) const override { return inner_.stat(p); }
  std::optional<FileStat> lstat(const std::string& p) const override { return inner_.lstat(p); }
  std::vector<std::string> list(const std::string& d) const override { return inner_.list(d); }
  std::string read(const std::string& p, std::uint64_t limit) const override { return inner_.read(p, limit); }
  std::string readlink(const std::string& p) const override { return inner_.readlink(p); }
  std::string realpath(const std::string& p) const override { return inner_.realpath(p); }
  std::optional<std::string> label(const std::string& p) const override { return inner_.label(p); }
  std::optional<FreeSpace> free_space(const std::string& p) const override {
    return p.starts_with("/boot/") ? FreeSpace{"/boot", room_} : FreeSpace{"/", 1ULL << 30};
  }
  void write(const std::string& p, std::string_view c, std::uint32_t m) override { inner_.write(p, c, m); }
  void append(const std::string& p, std::string_view c) override { inner_.append(p, c); }
  void remove(const std::string& p) override { inner_.remove(p); }
  void rename(const std::string& a, const std::string& b) override { inner_.rename(a, b); }
  void copy(const std::string& a, const std::string& b) override { inner_.copy(a, b); }
  void symlink(const std::string& t, const std::string& p) override { inner_.symlink(t, p); }
  void make_directories(const std::string& p) override { inner_.make_directories(p); }
  void set_label(const std::string& p, const std::string& l) override { inner_.set_label(p, l); }

 private:
  GuestFilesystem& inner_;
  std::uint64_t room_;
};

TEST(ApplyPlan, RefusesBeforeTheFirstWriteWhenThereIsNoRoom) {
  GuestTree tree;
  tree.file("/etc/a", "old").file("/boot/initrd", std::string(3U << 20, 'i'));
  TightTree tight(tree.filesystem(), 4U << 20);
  const Plan plan = make_plan({}, tight, {step([](Draft& draft) {
                                draft.write("/etc/a", "new", "r");
                                draft.copy("/boot/initrd", "/boot/initrd.old", "r");
                                draft.append("/boot/initrd", std::string(1000, 'x'), "r");
                              })});
  try {
    apply_plan(plan, tight);
    FAIL() << "applied";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "GUEST_NO_SPACE");
  }
  EXPECT_EQ(tree.read("/etc/a"), "old");
  EXPECT_FALSE(tree.exists("/boot/initrd.old"));
  TightTree roomy(tree.filesystem(), 5U << 20);
  apply_plan(plan, roomy);
  EXPECT_EQ(tree.read("/etc/a"), "new");
  EXPECT_EQ(tree.read("/boot/initrd").size(), (3U << 20) + 1000);
}

constexpr const char* policy = "/etc/selinux/targeted/contexts/files/file_contexts";

GuestTree& with_selinux(GuestTree& tree, const std::string& state = "enforcing") {
  return tree.file("/etc/selinux/config", "# x\nSELINUX=" + state + "\nSELINUXTYPE=targeted\n")
      .file(policy, "/.*\tsystem_u:object_r:default_t:s0\n"
                    "/etc/.*\tsystem_u:object_r:etc_t:s0\n"
                    "/etc/systemd(/.*)?\tsystem_u:object_r:systemd_conf_t:s0\n"
                    "/etc/fstab\\.d\t-d\tsystem_u:object_r:dir_t:s0\n"
                    "/etc/exact\t--\tsystem_u:object_r:exact_t:s0\n"
                    "/etc/ex.*\tsystem_u:object_r:broad_t:s0\n"
                    "/mnt/.*\t<<none>>\n");
}

struct Label {
  const char* path;
  FileType type;
  const char* label; ///< nullptr: unknown
};
class Labels : public testing::TestWithParam<Label> {};
TEST_P(Labels, AreThoseOfThePolicy) {
  GuestTree tree;
  const LabelPolicy labels(with_selinux(tree).filesystem());
  ASSERT_TRUE(labels.active());
  const auto label = labels.label_for(GetParam().path, GetParam().type);
  EXPECT_EQ(label.value_or("none"),
            GetParam().label ? "system_u:object_r:" + std::string(GetParam().label) + ":s0" : "none");
}
INSTANTIATE_TEST_SUITE_P(Paths, Labels,
                         testing::Values(Label{"/etc/hosts", FileType::regular, "etc_t"},
                                         Label{"/x", FileType::regular, "default_t"},
                                         Label{"/etc/systemd/network/a.link", FileType::regular, "systemd_conf_t"},
                                         Label{"/etc/systemd", FileType::directory, "systemd_conf_t"},
                                         Label{"/etc/fstab.d", FileType::directory, "dir_t"},
                                         Label{"/etc/fstab.d", FileType::regular, "etc_t"},
                                         Label{"/etc/exact", FileType::regular, "exact_t"},
                                         Label{"/etc/exact", FileType::directory, "broad_t"},
                                         Label{"/mnt/x", FileType::regular, nullptr}));

TEST(Labels, AreOffWithoutSelinux) {
  GuestTree none, off;
  EXPECT_FALSE(LabelPolicy(none.filesystem()).active());
  EXPECT_FALSE(LabelPolicy(with_selinux(off, "disabled").filesystem()).active());
}

class ApplyWithSelinux : public testing::Test {
 protected:
  void SetUp() override {
    with_selinux(tree).file("/etc/old", "1");
    try {
      tree.filesystem().set_label("/etc/old", "system_u:object_r:kept_t:s0");
    } catch (const Error& error) {
      GTEST_SKIP() << "SELinux labels cannot be written here (needs root): " << error.what();
    }
  }
  GuestTree tree;
};

TEST_F(ApplyWithSelinux, EditedFilesKeepAndNewFilesGetLabels) {
  tree.run({}, {step([](Draft& draft) {
             draft.write("/etc/old", "2", "r");
             draft.copy("/etc/old", "/etc/copied", "r");
             draft.write("/etc/systemd/network/n.link", "3", "r");
             draft.symlink("old", "/etc/l", "r");
           })});
  const auto& guest = tree.filesystem();
  EXPECT_EQ(guest.label("/etc/old"), "system_u:object_r:kept_t:s0");
  EXPECT_EQ(guest.label("/etc/copied"), "system_u:object_r:kept_t:s0");
  EXPECT_EQ(guest.label("/etc/systemd/network/n.link"), "system_u:object_r:systemd_conf_t:s0");
  EXPECT_EQ(guest.label("/etc/systemd/network"), "system_u:object_r:systemd_conf_t:s0");
  EXPECT_FALSE(tree.exists("/.autorelabel"));
}

TEST_F(ApplyWithSelinux, UnknownLabelsAreTakenFromANeighbourOrRelabelled) {
  tree.file("/mnt/a.conf", "1");
  tree.filesystem().set_label("/mnt/a.conf", "system_u:object_r:mnt_t:s0");
  tree.run({}, {step([](Draft& draft) { draft.write("/mnt/b.conf", "2", "r"); })});
  EXPECT_EQ(tree.filesystem().label("/mnt/b.conf"), "system_u:object_r:mnt_t:s0");
  EXPECT_FALSE(tree.exists("/.autorelabel"));
  tree.run({}, {step([](Draft& draft) { draft.write("/mnt/c.other", "2", "r"); })});
  EXPECT_TRUE(tree.exists("/.autorelabel"));
}

} // namespace
} // namespace kvmport::test
