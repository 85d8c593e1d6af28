// SPDX-License-Identifier: Apache-2.0
// Ports of a hub, in real directories.
#include "base/hub.h"

#include <cstdlib>
#include <gmock/gmock.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

using testing::StartsWith;

Bytes frame(std::size_t size, char content) {
  return Bytes(size, static_cast<std::byte>(content));
}

/// The next frame; an empty one when none comes for a long time.
Bytes next(HubPort& port) {
  pollfd polled{port.fd(), POLLIN, 0};
  ::poll(&polled, 1, 30000);
  return port.receive().value_or(Bytes());
}

std::string code_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  return "";
}

class Hub : public testing::Test {
 protected:
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& entry : fs::directory_iterator(hub_))
      all.push_back(entry.path().filename());
    return all;
  }
  sockaddr_un address(const std::string& name) const {
    sockaddr_un at{};
    at.sun_family = AF_UNIX;
    (hub_ / name).string().copy(at.sun_path, sizeof at.sun_path - 1);
    return at;
  }
  /// The frames of a sender keep their order, so what it sent before was dropped when the mark comes first.
  void expect_nothing_before_mark(HubPort& from, HubPort& at) {
    const Bytes mark = frame(60, '!');
    from.send(mark);
    EXPECT_EQ(next(at), mark);
  }

  TempDir temp_;
  fs::path hub_ = temp_.path() / "hub";
};

TEST_F(Hub, FrameReachesAllOthersAndNotItsSender) {
  HubPort a(hub_), b(hub_), c(hub_);
  a.send(frame(64, 'a'));
  EXPECT_EQ(next(b), frame(64, 'a'));
  EXPECT_EQ(next(c), frame(64, 'a'));
  b.send(frame(max_frame, 'b'));
  EXPECT_EQ(next(a), frame(max_frame, 'b'));
  EXPECT_EQ(next(c), frame(max_frame, 'b'));
  c.send(frame(min_frame, 'c'));
  EXPECT_EQ(next(a), frame(min_frame, 'c')) << "its own did not come back";
  EXPECT_EQ(next(b), frame(min_frame, 'c'));
}

TEST_F(Hub, FramesOfWrongSizeAreDropped) {
  HubPort a(hub_), b(hub_);
  a.send(frame(max_frame + 1, 'x'));
  a.send(frame(60000, 'x'));
  a.send(frame(min_frame - 1, 'x'));
  a.send({});
  expect_nothing_before_mark(a, b);
}

TEST_F(Hub, WhatAnotherProcessPutsIntoThePortIsCheckedToo) {
  HubPort a(hub_), b(hub_);
  const UniqueFd foreign(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  for (const std::string& name : names()) {
    const sockaddr_un to = address(name);
    for (const std::size_t size : {max_frame + 1, min_frame - 1}) {
      const Bytes wrong = frame(size, 'x');
      EXPECT_GT(
          ::sendto(foreign.get(), wrong.data(), wrong.size(), 0, reinterpret_cast<const sockaddr*>(&to), sizeof to), 0);
    }
  }
  expect_nothing_before_mark(a, b);
  expect_nothing_before_mark(b, a);
}

TEST_F(Hub, SlowPortLosesFramesAndHoldsUpNobody) {
  HubPort a(hub_), slow(hub_), b(hub_);
  constexpr int sent = 5000;
  for (int i = 0; i < sent; i++)
    a.send(frame(1500, 's'));
  expect_nothing_before_mark(b, a);
  int kept = 0;
  EXPECT_FALSE(next(slow).empty());
  while (slow.receive())
    kept++;
  EXPECT_LT(kept, sent);
}

TEST_F(Hub, PortOfADeadProcessIsRemoved) {
  HubPort a(hub_), b(hub_);
  {
    const UniqueFd dead(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)); // closed, and its name stays
    const sockaddr_un at = address("port-dead");
    ASSERT_EQ(::bind(dead.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at), 0);
  }
  ASSERT_TRUE(fs::exists(hub_ / "port-dead"));
  a.send(frame(60, 'x'));
  EXPECT_EQ(next(b), frame(60, 'x'));
  a.send(frame(60, 'y')); // the first was through when this one arrives
  EXPECT_EQ(next(b), frame(60, 'y'));
  EXPECT_FALSE(fs::exists(hub_ / "port-dead"));
  EXPECT_EQ(names().size(), 2U);
}

TEST_F(Hub, LastPortRemovesTheDirectoryAndTheNextMakesItAnew) {
  {
    HubPort a(hub_);
    EXPECT_EQ(fs::status(hub_).permissions(), fs::perms::owner_all);
    { HubPort b(hub_); }
    EXPECT_EQ(names().size(), 1U);
  }
  EXPECT_FALSE(fs::exists(hub_));
  std::vector<std::thread> threads; // they come and go at the same time
  for (int i = 0; i < 4; i++)
    threads.emplace_back([&] {
      for (int n = 0; n < 50; n++)
        HubPort port(hub_);
    });
  for (std::thread& thread : threads)
    thread.join();
  EXPECT_FALSE(fs::exists(hub_));
}

TEST_F(Hub, LongPathsAreNoObstacle) {
  const fs::path deep = temp_.path() / std::string(200, 'd');
  fs::create_directory(deep);
  HubPort a(deep / "hub"), b(deep / "hub");
  a.send(frame(60, 'l'));
  EXPECT_EQ(next(b), frame(60, 'l'));
}

TEST_F(Hub, DirectoryThatOthersCanUseIsRefused) {
  const auto code = [this] { return code_of([this] { HubPort port(hub_); }); };
  fs::create_directory(hub_);
  for (const mode_t mode : {0770, 0707, 0710, 0701}) {
    ASSERT_EQ(::chmod(hub_.c_str(), mode), 0);
    EXPECT_EQ(code(), "HUB_NOT_PRIVATE") << mode;
  }
  ASSERT_EQ(::chmod(hub_.c_str(), 0700), 0);
  EXPECT_EQ(code(), "");
  fs::create_directory(temp_.path() / "elsewhere");
  fs::create_directory_symlink(temp_.path() / "elsewhere", hub_);
  EXPECT_EQ(code(), "HUB_NOT_PRIVATE") << "a link";
  fs::remove(hub_);
  write_file_durably(hub_, "");
  EXPECT_EQ(code(), "HUB_NOT_PRIVATE") << "a file";
  EXPECT_TRUE(fs::is_empty(temp_.path() / "elsewhere"));
}

TEST_F(Hub, DirectoryOfAnotherUserIsRefused) {
  fs::create_directory(hub_);
  ASSERT_EQ(::chmod(hub_.c_str(), 0700), 0);
  if (::chown(hub_.c_str(), 12345, 12345) != 0)
    GTEST_SKIP() << "a directory of another user was not tested: only root can make one";
  EXPECT_EQ(code_of([this] { HubPort port(hub_); }), "HUB_NOT_PRIVATE");
}

class HubNames : public Hub {
 protected:
  HubNames() {
    if (const char* old = std::getenv("XDG_RUNTIME_DIR"))
      old_ = old;
    ::setenv("XDG_RUNTIME_DIR", temp_.path().c_str(), 1);
  }
  ~HubNames() override {
    if (old_.empty())
      ::unsetenv("XDG_RUNTIME_DIR");
    else
      ::setenv("XDG_RUNTIME_DIR", old_.c_str(), 1);
  }
  std::string old_;
};

TEST_F(HubNames, LeadIntoAPrivateDirectory) {
  const fs::path directory = hub_directory("five-clones_2.0");
  EXPECT_EQ(directory.filename(), "five-clones_2.0");
  EXPECT_EQ(directory.parent_path().parent_path(), temp_.path());
  EXPECT_EQ(fs::status(directory.parent_path()).permissions(), fs::perms::owner_all);
  EXPECT_EQ(hub_directory("five-clones_2.0"), directory);
  ASSERT_EQ(::chmod(directory.parent_path().c_str(), 0777), 0);
  EXPECT_EQ(code_of([] { hub_directory("a"); }), "HUB_NOT_PRIVATE");
}

TEST_F(HubNames, RuntimeDirectoryMustBeTheUsers) {
  for (const char* foreign : {"", "relative", "/nonexistent", "/dev/null"}) {
    ::setenv("XDG_RUNTIME_DIR", foreign, 1);
    EXPECT_THAT(hub_directory("a").string(), StartsWith("/tmp/kvmport-hub-")) << foreign;
  }
  ::rmdir(hub_directory("a").parent_path().c_str());
}

TEST_F(HubNames, PathTricksAreRefused) {
  for (const std::string& name :
       {std::string(), std::string("../x"), std::string(".."), std::string("."), std::string(".hidden"),
        std::string("a/b"), std::string("/tmp"), std::string("a b"), std::string("a\0b", 3), std::string("a\n"),
        std::string("\xc3\xa4"), std::string(65, 'a')})
    EXPECT_EQ(code_of([&] { hub_directory(name); }), "USAGE") << name;
  EXPECT_EQ(code_of([&] { hub_directory(std::string(64, 'a')); }), "");
}

TEST(HubMac, DiffersBetweenGuestsAndHubs) {
  const std::string mac = hub_mac("/run/a", "1 disk");
  EXPECT_THAT(mac, testing::MatchesRegex("52:54:00(:[0-9a-f][0-9a-f]){3}"));
  EXPECT_EQ(hub_mac("/run/a", "1 disk"), mac);
  EXPECT_NE(hub_mac("/run/a", "2 disk"), mac);
  EXPECT_NE(hub_mac("/run/b", "1 disk"), mac);
}

} // namespace
} // namespace kvmport
