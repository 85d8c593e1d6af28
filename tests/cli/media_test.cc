// SPDX-License-Identifier: Apache-2.0
// kvm-p2v media, accept and dialog as a user meets them: refusals, an enrolment over a real socket, the windows on a
// terminal.
#include "libconvert/p2v/enrol.h"
#include "tests/cli/support.h"
#include "tests/support/guests.h"
#include "tests/support/tempdir.h"

#include <csignal>
#include <cstdlib>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

constexpr const char* fingerprint = "SHA256:QK1mFLo2m/6pTkTaDVZEMDSgzbyYYjLdKX1D2zVvR+k";

TEST(MediaCommand, RefusesWithReasons) {
  const TempDir dir;
  write_file_durably(dir.path() / "old.iso", "old");
  const std::string image = dir.path() / "new.iso";
  struct Case {
    std::vector<std::string> arguments;
    int exit_code;
    const char* words;
  };
  for (const Case& c : std::initializer_list<Case>{
           {{"media"}, 1, "nothing to build"},
           {{"media", "-o", dir.path() / "old.iso"}, 2, "FILE_EXISTS"},
           {{"media", "-o", image, "--server", "kvm1:/srv"}, 2, "SETTING_INVALID"},
           {{"media", "-o", image, "--server", "ssh://h/srv p2v.post=shell"}, 1, "blank"},
           {{"media", "-o", image, "--kernel-args", "p2v.sever=x"}, 2, "there is no such setting"},
           {{"media", "-o", image, "--enrol", "--identity", "k"}, 1, "excludes"},
           {{"media", "-o", image, "--kernel", "/boot/vmlinuz"}, 1, "--modules"},
           {{"media", "-o", image, "--kernel-deb", dir.path() / "old.iso"}, 2, "KERNEL_MISSING"},
           {{"accept", "--dir", dir.path()}, 1, "nobody can be asked here"},
           {{"accept", "--dir", dir.path(), "--code", "ABC"}, 1, "ten characters"},
           {{"accept", "--dir", dir.path() / "none", "--code", "ABCDE-FGHIJ"}, 2, "is no directory"},
           {{"dialog"}, 2, "TERMINAL_UNUSABLE"}}) {
    const ProcessResult r = run("kvm-p2v", c.arguments);
    EXPECT_EQ(r.exit_code, c.exit_code) << c.arguments.back() << r.err;
    EXPECT_THAT(r.err + r.out, HasSubstr(c.words)) << c.arguments.back();
  }
  EXPECT_EQ(names_in(dir.path()), std::vector<std::string>{"old.iso"}) << "nothing half-made is left";
}

class Accept : public testing::Test {
 protected:
  void SetUp() override {
    must_run({"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir_.path() / "key"});
    key_ = parse_public_key(read_file(dir_.path() / "key.pub"));
    port_ = EnrolListener("127.0.0.1", 0).port(); // free a moment ago
    arguments_ = {"accept",
                  "--json",
                  "--dir",
                  dir_.path().string(),
                  "--listen",
                  fmt::format("127.0.0.1:{}", port_),
                  "--timeout",
                  "20",
                  "--host-key",
                  fingerprint,
                  "--authorized-keys",
                  dir_.path() / "authorized_keys",
                  "--code"};
  }
  /// What the medium does; the answer.
  std::string ask(const std::string& key) const {
    for (int i = 0; i < 100; ++i) {
      try {
        const UniqueFd socket = connect_tcp("127.0.0.1", port_, 5s);
        send_message(socket.get(), encode_request({key, "db1"}));
        return receive_message(socket.get(), 20s, StopToken());
      } catch (const Error& e) {
        if (e.code() != "CONNECTION_LOST")
          throw;
        std::this_thread::sleep_for(100ms);
      }
    }
    return "no answer";
  }
  TempDir dir_;
  std::string key_;
  std::uint16_t port_ = 0;
  std::vector<std::string> arguments_;
};

TEST_F(Accept, OnlyTheKeyWithThisCodeComesIn) {
  must_run({"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir_.path() / "other"});
  const std::string other = parse_public_key(read_file(dir_.path() / "other.pub"));
  std::string first, second;
  std::thread media([&] {
    first = ask(other);
    second = ask(key_);
  });
  arguments_.push_back(enrol_code(key_, fingerprint));
  const ProcessResult r = run("kvm-p2v", arguments_);
  media.join();
  EXPECT_EQ(r.exit_code, 0) << r.out << r.err;
  EXPECT_EQ(first, "refused");
  EXPECT_EQ(second, "accepted");
  EXPECT_EQ(last_event(r)["key"], key_);
  const std::string file = read_file(dir_.path() / "authorized_keys");
  EXPECT_THAT(file, testing::StartsWith("restrict,command=\"/"));
  EXPECT_THAT(file,
              HasSubstr(" receive --only " + fs::canonical(dir_.path()).string() + "\" " + key_ + " kvm-p2v:db1\n"));
  EXPECT_THAT(file, testing::Not(HasSubstr(other)));
}

TEST_F(Accept, WaitsNotForEver) {
  arguments_[7] = "1";
  arguments_.emplace_back("ABCDE-FGHIJ");
  const ProcessResult r = run("kvm-p2v", arguments_);
  EXPECT_EQ(r.exit_code, 2);
  EXPECT_EQ(last_event(r)["code"], "ENROL_TIMEOUT");
  EXPECT_FALSE(fs::exists(dir_.path() / "authorized_keys"));
}

class Dialog : public testing::Test {
 protected:
  ProcessResult unattended(const std::string& command_line) {
    write_file_durably(dir_.path() / "cmdline", command_line);
    return run("kvm-p2v", {"dialog", "--unattended", "--command-line", dir_.path() / "cmdline", "--after", after_});
  }
  TempDir dir_;
  const fs::path after_ = dir_.path() / "after";
};

TEST_F(Dialog, PresetsDecideWhatFollows) {
  EXPECT_EQ(unattended("quiet").exit_code, 0);
  EXPECT_EQ(read_file(after_), "dialog\n");
  const ProcessResult inventory = unattended("p2v.inventory");
  EXPECT_EQ(read_file(after_), "poweroff\n");
  EXPECT_THAT(inventory.out, HasSubstr("\"disks\""));
  EXPECT_THAT(unattended("p2v.server=ssh://h/d").out, HasSubstr("p2v.host_key or p2v.enrol is missing"));
  EXPECT_EQ(read_file(after_), "dialog\n");
  EXPECT_THAT(unattended("p2v.inventory p2v.disk=sda").out, HasSubstr("p2v.disk: there is no such setting"));
  EXPECT_EQ(read_file(after_), "dialog\n");
}

/// Presses keys as words come up on a terminal.
class Terminal {
 public:
  explicit Terminal(const std::vector<std::string>& argv) {
    winsize size{24, 80, 0, 0};
    pid_ = ::forkpty(&fd_, nullptr, nullptr, &size);
    if (pid_ == 0) {
      ::setenv("TERM", "vt220", 1);
      std::vector<char*> words;
      for (const auto& word : argv)
        words.push_back(const_cast<char*>(word.c_str())); // NOLINT(cppcoreguidelines-pro-type-const-cast)
      words.push_back(nullptr);
      ::execv(words[0], words.data());
      ::_exit(127);
    }
  }
  ~Terminal() {
    ::close(fd_);
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  bool wait_for(const std::string& words) {
    const auto until = std::chrono::steady_clock::now() + 60s;
    while (std::chrono::steady_clock::now() < until) {
      if (const auto at = seen_.find(words); at != std::string::npos) {
        seen_.erase(0, at + words.size());
        return true;
      }
      pollfd p{fd_, POLLIN, 0};
      std::array<char, 4096> buffer{};
      const ssize_t n = ::poll(&p, 1, 200) > 0 ? ::read(fd_, buffer.data(), buffer.size()) : 0;
      if (n < 0)
        return false; // it has ended
      seen_.append(buffer.data(), static_cast<std::size_t>(n));
    }
    return false;
  }
  void press(const std::string& keys) {
    ASSERT_EQ(::write(fd_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
  }
  int exit_code() {
    while (wait_for("\x01 never")) {
    }
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  const std::string& seen() const { return seen_; }

 private:
  pid_t pid_ = -1;
  int fd_ = -1;
  std::string seen_;
};

TEST_F(Dialog, WindowsShowAndCheckTheSettings) {
  write_file_durably(dir_.path() / "cmdline", "p2v.name=db1 quiet");
  Terminal t({command("kvm-p2v"), "dialog", "--command-line", dir_.path() / "cmdline", "--after", after_});
  const std::string down = "\x1b[B", enter = "\r", escape = "\x1b";
  ASSERT_TRUE(t.wait_for("Nothing is written to this machine's disks")) << t.seen();
  ASSERT_TRUE(t.wait_for("not named")) << t.seen();
  ASSERT_TRUE(t.wait_for("db1")) << t.seen();
  // A server that can't be one is refused with the reason, and the page comes back.
  t.press(down + enter);
  ASSERT_TRUE(t.wait_for("Where the captured machine goes")) << t.seen();
  t.press("kvm1\t\t" + enter);
  ASSERT_TRUE(t.wait_for("SETTING_INVALID")) << t.seen();
  t.press(enter);
  ASSERT_TRUE(t.wait_for("Where the captured machine goes")) << t.seen();
  t.press("\t\t\t" + enter);
  ASSERT_TRUE(t.wait_for("db1")) << t.seen();
  t.press(escape);
  ASSERT_TRUE(t.wait_for("Power off")) << t.seen();
  t.press(down + down + enter);
  EXPECT_EQ(t.exit_code(), 0);
  EXPECT_EQ(read_file(after_), "poweroff\n");
}

} // namespace
} // namespace kvmport::test
