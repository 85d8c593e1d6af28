// SPDX-License-Identifier: Apache-2.0
// What a person sees of a capture, from the lines that it prints.
#include "libconvert/p2v/capture_progress.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace kvmport::test {
namespace {

using namespace std::chrono_literals;

class Progress : public testing::Test {
 protected:
  void progress(std::uint64_t done, std::chrono::seconds at) {
    p_.take(fmt::format(R"({{"event":"progress","stage":"copy","done":{},"total":10737418240}})", done), start_ + at);
  }
  const CaptureProgress::Time start_ = std::chrono::steady_clock::now();
  CaptureProgress p_;
};

TEST_F(Progress, RateIsThatOfTheLastHalfMinute) {
  EXPECT_EQ(p_.text(), "");
  p_.take(R"({"event":"stage","stage":"copy","text":"2 disks"})", start_);
  EXPECT_EQ(p_.stage(), "copy: 2 disks");
  progress(0, 0s);
  EXPECT_EQ(p_.text(), "0.0 B of 10.0 GiB");
  for (int i = 1; i <= 60; ++i) // slow, then fast
    progress(i <= 30 ? i * 1048576ULL : 30 * 1048576ULL + (i - 30) * 104857600ULL, std::chrono::seconds(i));
  EXPECT_NEAR(p_.rate(), 104857600, 4e6);
  EXPECT_EQ(p_.text(), "3.0 GiB of 10.0 GiB, 100.0 MiB/s, 72 s left");
}

TEST_F(Progress, APauseDoesNotCount) {
  progress(0, 0s);
  progress(104857600, 1s);
  p_.paused();
  progress(104857600, 3600s);
  EXPECT_EQ(p_.rate(), 0);
  progress(209715200, 3601s);
  EXPECT_NEAR(p_.rate(), 104857600, 1);
}

TEST_F(Progress, LinesThatAreNoEventsDoNoHarm) {
  for (const char* line : {"", "{", "[]", "null", "{\"event\":7}", R"({"event":"progress","done":-1,"total":"x"})",
                           R"({"event":"progress","done":1e400,"total":1})"})
    p_.take(line, start_);
  EXPECT_EQ(p_.text(), "");
  p_.take("ssh: connection \x1b[31mrefused", start_);
  EXPECT_EQ(p_.message().find('\x1b'), std::string::npos);
  EXPECT_NE(p_.message().find("refused"), std::string::npos);
}

TEST_F(Progress, KeepsErrorAndResult) {
  EXPECT_EQ(p_.error(), "");
  p_.take(R"({"event":"error","code":"CONNECTION_LOST","summary":"no way","why":"ssh says no","hint":""})", start_);
  EXPECT_EQ(p_.error(), "CONNECTION_LOST: no way\nssh says no");
  p_.take(R"({"event":"result","proven":true})", start_);
  ASSERT_TRUE(p_.result());
  EXPECT_TRUE(p_.result()->at("proven").get<bool>());
}

TEST(HumanTime, IsShort) {
  EXPECT_EQ(human_time(45s), "45 s");
  EXPECT_EQ(human_time(11min), "11 min");
  EXPECT_EQ(human_time(3h + 5min), "3 h 05 min");
}

} // namespace
} // namespace kvmport::test
