// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"
#include "libconvert/guest/filesystem_paths.h"
#include "tests/guest/guest_tree.h"

#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

struct Cleaned {
  const char *path, *clean, *parent, *name;
};
class GuestPath : public testing::TestWithParam<Cleaned> {};
TEST_P(GuestPath, IsCleaned) {
  EXPECT_EQ(guest_path::clean(GetParam().path), GetParam().clean);
  EXPECT_EQ(guest_path::parent(GetParam().path), GetParam().parent);
  EXPECT_EQ(guest_path::name(GetParam().path), GetParam().name);
}
INSTANTIATE_TEST_SUITE_P(Paths, GuestPath,
                         testing::Values(Cleaned{"/", "/", "/", ""}, Cleaned{"", "/", "/", ""},
                                         Cleaned{"/a", "/a", "/", "a"}, Cleaned{"//a/./b/", "/a/b", "/a", "b"},
                                         Cleaned{"/a/../../b", "/b", "/", "b"}, Cleaned{"a/b", "/a/b", "/a", "b"}));

TEST(GuestPath, BelowMeansWholeParts) {
  EXPECT_TRUE(guest_path::below("/boot/efi", "/boot"));
  EXPECT_TRUE(guest_path::below("/boot", "/boot"));
  EXPECT_TRUE(guest_path::below("/x", "/"));
  EXPECT_FALSE(guest_path::below("/bootx", "/boot"));
  EXPECT_FALSE(guest_path::below("/", "/boot"));
}

std::string code_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  return "no error";
}

class Directory : public testing::Test {
 protected:
  Directory() : root(outer.path() / "root") {
    fs::create_directory(root);
    std::ofstream(outer.path() / "secret") << "host";
    fs::create_directories(root / "etc");
    std::ofstream(root / "etc/passwd") << "guest";
    guest = open_directory_filesystem(root);
  }
  TempDir outer;
  fs::path root;
  std::unique_ptr<GuestFilesystem> guest;
};

TEST_F(Directory, NoLinkLeadsOut) {
  fs::create_symlink("/etc/passwd", root / "absolute");
  fs::create_symlink("../../secret", root / "etc/up");
  fs::create_symlink("../../../../../..", root / "etc/top");
  fs::create_symlink(outer.path() / "secret", root / "outside");
  EXPECT_EQ(guest->read("/absolute"), "guest");
  EXPECT_FALSE(guest->exists("/etc/up"));
  EXPECT_FALSE(guest->exists("/outside"));
  EXPECT_FALSE(guest->exists("/../secret"));
  EXPECT_EQ(guest->read("/etc/top/etc/passwd"), "guest");
  EXPECT_EQ(guest->realpath("/etc/top/etc/passwd"), "/etc/passwd");
  EXPECT_EQ(code_of([&] { guest->write("/outside", "x"); }), "GUEST_WRITE_FAILED");
  EXPECT_EQ(read_file(outer.path() / "secret"), "host");
}

TEST_F(Directory, LinksThatGoRound) {
  fs::create_symlink("b", root / "a");
  fs::create_symlink("a", root / "b");
  EXPECT_EQ(code_of([&] { (void)guest->stat("/a"); }), "GUEST_READ_FAILED");
  EXPECT_EQ(guest->lstat("/a")->type, FileType::symlink);
  EXPECT_EQ(guest->readlink("/a"), "b");
}

TEST_F(Directory, ListsSortedAndMissingIsEmpty) {
  std::ofstream(root / "etc/b") << "";
  std::ofstream(root / "etc/a") << "";
  EXPECT_THAT(guest->list("/etc"), ElementsAre("a", "b", "passwd"));
  EXPECT_THAT(guest->list("/none"), IsEmpty());
  EXPECT_THAT(guest->list("/etc/passwd"), IsEmpty());
}

TEST_F(Directory, WritingKeepsModeAndOwner) {
  ASSERT_EQ(::chmod((root / "etc/passwd").c_str(), 0640), 0);
  guest->write("/etc/passwd", "new", 0777);
  EXPECT_EQ(guest->read("/etc/passwd"), "new");
  EXPECT_EQ(guest->stat("/etc/passwd")->mode, 0640U);
  guest->write("/etc/fresh", "x", 0600);
  EXPECT_EQ(guest->stat("/etc/fresh")->mode, 0600U);
  guest->append("/etc/fresh", "y");
  EXPECT_EQ(guest->read("/etc/fresh"), "xy");
  EXPECT_EQ(code_of([&] { guest->append("/etc/missing", "y"); }), "GUEST_WRITE_FAILED");
}

TEST_F(Directory, CopyKeepsModeAndRenameReplaces) {
  ASSERT_EQ(::chmod((root / "etc/passwd").c_str(), 0604), 0);
  guest->copy("/etc/passwd", "/etc/copy");
  EXPECT_EQ(guest->stat("/etc/copy")->mode, 0604U);
  guest->write("/etc/copy", "other");
  guest->rename("/etc/copy", "/etc/passwd");
  EXPECT_EQ(guest->read("/etc/passwd"), "other");
  EXPECT_FALSE(guest->exists("/etc/copy"));
}

TEST_F(Directory, LimitsAndMissingFilesAreNamed) {
  EXPECT_EQ(code_of([&] { (void)guest->read("/etc/passwd", 4); }), "GUEST_FILE_TOO_LARGE");
  EXPECT_EQ(code_of([&] { (void)guest->read("/etc/none"); }), "GUEST_FILE_MISSING");
  EXPECT_EQ(code_of([&] { (void)guest->read("/etc"); }), "GUEST_FILE_MISSING");
  EXPECT_EQ(guest->try_read("/etc"), std::nullopt);
  EXPECT_EQ(guest->read_head("/etc/passwd", 2), "gu");
  EXPECT_GT(guest->free_space("/etc/not/there/yet")->bytes, 0U);
}

} // namespace
} // namespace kvmport::test
