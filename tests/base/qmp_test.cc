// SPDX-License-Identifier: Apache-2.0
// A QEMU that says what it is told to.
#include "base/qmp.h"

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

namespace kvmport {
namespace {

using nlohmann::json;
using namespace std::chrono_literals;

class QmpTest : public testing::Test {
 protected:
  void say(const std::string& text) { ASSERT_EQ(::write(qemu_.get(), text.data(), text.size()), ssize_t(text.size())); }
  std::string hear() {
    std::string text(4096, '\0');
    text.resize(static_cast<std::size_t>(std::max<ssize_t>(0, ::read(qemu_.get(), text.data(), text.size()))));
    return text;
  }
  void hang_up() { qemu_.reset(); }
  std::string code_of(const std::function<void()>& call) {
    try {
      call();
    } catch (const Error& e) {
      return e.code();
    }
    return {};
  }

 private:
  std::pair<UniqueFd, UniqueFd> ends_ = socket_pair(SOCK_STREAM);
  UniqueFd qemu_ = std::move(ends_.second);

 protected:
  Qmp qmp_{std::move(ends_.first)};
};

TEST_F(QmpTest, CommandsHaveTheirAnswersAndEventsAreKept) {
  say("{\"QMP\": {}}\n");
  std::thread qemu([this] {
    EXPECT_THAT(hear(), testing::HasSubstr("qmp_capabilities"));
    say("{\"return\": {}, \"id\": 0}\n");
  });
  qmp_.greet(5s);
  qemu.join();
  say("{\"event\": \"RESET\", \"data\": {\"guest\": true}}\r\nno JSON\n{\"return\": 1, \"id\": 99}\n{\"return\": "
      "{\"a\": ");
  say("7}, \"id\": 1}\n{\"event\": \"STOP\"}\n");
  EXPECT_EQ(qmp_.execute("query", json::object(), 5s), json({{"a", 7}})) << "cut in two, after a late answer";
  const auto events = qmp_.take_events();
  ASSERT_EQ(events.size(), 2U);
  EXPECT_EQ(events[0].name, "RESET");
  EXPECT_TRUE(events[0].by_guest);
  EXPECT_EQ(events[1].name, "STOP");
  EXPECT_FALSE(events[1].by_guest);
  EXPECT_TRUE(qmp_.take_events().empty());
}

TEST_F(QmpTest, RefusalsSilenceAndHangingUpAreToldApart) {
  say("{\"error\": {\"desc\": \"no such thing\"}, \"id\": 0}\n");
  EXPECT_EQ(code_of([&] { qmp_.execute("a", json::object(), 5s); }), "QMP_REFUSED");
  EXPECT_EQ(code_of([&] { qmp_.execute("b", json::object(), 10ms); }), "ENGINE_FAILED");
  EXPECT_FALSE(qmp_.closed());
  hang_up();
  EXPECT_EQ(code_of([&] { qmp_.execute("c", json::object(), 5s); }), "ENGINE_FAILED");
  qmp_.take_events();
  EXPECT_TRUE(qmp_.closed());
}

} // namespace
} // namespace kvmport
