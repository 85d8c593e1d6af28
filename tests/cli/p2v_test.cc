// SPDX-License-Identifier: Apache-2.0
// kvm-p2v capture against a real sshd, through a wire that is cut.
#include "tests/cli/support.h"
#include "tests/support/guests.h"
#include "tests/support/sshd.h"
#include "tests/support/tempdir.h"

#include <atomic>
#include <csignal>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <mutex>
#include <poll.h>
#include <random>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

using testing::HasSubstr;

UniqueFd listen_anywhere(std::uint16_t& port) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = loopback(0);
  socklen_t length = sizeof address;
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 || ::listen(fd.get(), 64) != 0 ||
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0)
    throw system_error(errno, "can't listen");
  port = ntohs(address.sin_port);
  return fd;
}

/// A wire between clients and a server: counts what goes to the server, and can be cut.
class Wire {
 public:
  explicit Wire(std::uint16_t to) : to_(to), listener_(listen_anywhere(port_)) {
    acceptor_ = std::jthread([this](const std::stop_token& done) {
      while (!done.stop_requested())
        accept();
    });
  }
  ~Wire() {
    acceptor_.request_stop();
    acceptor_.join();
    cut();
  }
  std::uint16_t port() const { return port_; }
  std::uint64_t bytes() const { return bytes_; }
  void cut() {
    const std::lock_guard lock(mutex_);
    for (const auto& fd : fds_)
      ::shutdown(fd.get(), SHUT_RDWR);
    threads_.clear();
    fds_.clear();
  }

 private:
  void accept() {
    pollfd polled{listener_.get(), POLLIN, 0};
    if (::poll(&polled, 1, 50) <= 0)
      return;
    UniqueFd client(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    UniqueFd server(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_in address = loopback(to_);
    if (::connect(server.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
      return;
    const std::lock_guard lock(mutex_);
    threads_.emplace_back([this, a = client.get(), b = server.get()] { move(a, b, true); });
    threads_.emplace_back([this, a = server.get(), b = client.get()] { move(a, b, false); });
    fds_.push_back(std::move(client));
    fds_.push_back(std::move(server));
  }
  void move(int from, int to, bool count) {
    std::array<char, 65536> buffer;
    for (ssize_t n = 0; (n = ::read(from, buffer.data(), buffer.size())) > 0;) {
      if (count)
        bytes_ += static_cast<std::uint64_t>(n);
      if (::send(to, buffer.data(), static_cast<std::size_t>(n), MSG_NOSIGNAL) != n)
        break;
    }
    ::shutdown(to, SHUT_RDWR);
    ::shutdown(from, SHUT_RDWR);
  }

  std::uint16_t to_, port_ = 0;
  UniqueFd listener_;
  std::atomic<std::uint64_t> bytes_{0};
  std::mutex mutex_;
  std::vector<UniqueFd> fds_;
  std::vector<std::jthread> threads_;
  std::jthread acceptor_;
};

class CaptureCommand : public testing::Test {
 protected:
  std::vector<std::string> arguments(std::uint16_t to, const fs::path& disk,
                                     const std::vector<std::string>& more = {}) const {
    std::vector<std::string> all{"capture",
                                 "--to",
                                 fmt::format("ssh://127.0.0.1:{}{}", to, (dir / "out").string()),
                                 "--host-key",
                                 fingerprint,
                                 "--identity",
                                 server.identity().string(),
                                 "--disk",
                                 disk.string(),
                                 "--name",
                                 "m",
                                 "--remote-program",
                                 command("kvm-p2v").string(),
                                 "--no-convert",
                                 "--json"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  fs::path result() const { return dir / "out/m-sda.img"; }

  TempDir temporary;
  fs::path dir = temporary.path();
  const Sshd server{dir};
  std::string fingerprint = server.fingerprint();
};

/// The used blocks are the source's, and every file is what it was.
void expect_same_files(const fs::path& a, const fs::path& b) {
  TempDir scratch;
  EXPECT_EQ(tree_of(a, scratch.path()), tree_of(b, scratch.path()));
}

TEST_F(CaptureCommand, GoesOverSsh) {
  const fs::path disk = ext4_disk(dir, "disk.img", [](const fs::path& tree) {
    small_system(tree);
    make_pattern_file(tree / "data", 9 << 20, 3);
  });
  const ProcessResult captured = run("kvm-p2v", arguments(server.port(), disk));
  EXPECT_EQ(captured.exit_code, 3) << captured.err;
  expect_same_files(disk, result());
  const auto event = last_event(captured);
  EXPECT_LE(event["payload"], event["used"]);
  EXPECT_LT(event["used"], event["total"]);
  EXPECT_THAT(names_in(dir / "out"), testing::UnorderedElementsAre("m-sda.img", "m.capture.json", "m.sh", "m.xml"));
}

TEST_F(CaptureCommand, AnotherHostKeyIsRefused) {
  const fs::path disk = ext4_disk(dir, "disk.img", small_system);
  fingerprint = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
  const ProcessResult captured = run("kvm-p2v", arguments(server.port(), disk));
  EXPECT_EQ(captured.exit_code, 2);
  EXPECT_EQ(event_of(captured, "error")["code"], "HOST_KEY_MISMATCH") << captured.out << captured.err;
  EXPECT_FALSE(fs::exists(dir / "out"));
}

TEST_F(CaptureCommand, AKeyThatDoesNotFitIsSaid) {
  const fs::path disk = ext4_disk(dir, "disk.img", small_system);
  write_file_durably(server.authorized_keys(), "");
  const ProcessResult captured = run("kvm-p2v", arguments(server.port(), disk));
  EXPECT_EQ(captured.exit_code, 2);
  EXPECT_EQ(event_of(captured, "error")["code"], "CONNECTION_LOST");
  EXPECT_THAT(captured.out, HasSubstr("Permission denied"));
}

TEST_F(CaptureCommand, AForcedCommandDecidesWhereItGoes) {
  const fs::path disk = ext4_disk(dir, "disk.img", small_system);
  const fs::path only = dir / "only";
  write_file_durably(server.authorized_keys(),
                     fmt::format("restrict,command=\"{} receive --only {}\" {}", command("kvm-p2v").string(),
                                 only.string(), read_file(dir / "user.pub")));
  const ProcessResult captured = run("kvm-p2v", arguments(server.port(), disk));
  EXPECT_EQ(captured.exit_code, 3) << captured.out << captured.err;
  EXPECT_FALSE(fs::exists(dir / "out"));
  expect_same_files(disk, only / "m-sda.img");
}

/// Kills a process of the server's side, a receiver; false when there is none.
bool kill_a_receiver(const fs::path& dir) {
  const ProcessResult found =
      run_process({"pgrep", "-f", "receive -- " + (dir / "out").string()}, std::chrono::seconds(10));
  std::istringstream pids(found.out);
  pid_t pid = 0;
  return pids >> pid && ::kill(pid, SIGKILL) == 0;
}

/// A bad day: ten cuts, the agent killed once, a receiver killed once.
TEST_F(CaptureCommand, TenCutsAndTwoKillsLoseNothing) {
  const fs::path disk = dir / "disk.img";
  fs::create_directory(dir / "tree");
  must_run({"dd", "if=/dev/urandom", "of=" + (dir / "tree/data").string(), "bs=1M", "count=48", "status=none"});
  must_run({"mke2fs", "-q", "-F", "-t", "ext4", "-d", (dir / "tree").string(), disk.string(), "128M"});
  constexpr unsigned cuts = 10, kills = 2, streams = 2;
  constexpr std::uint64_t chunk = 2U << 20;
  Wire wire(server.port());
  const std::vector<std::string> argv = [&] {
    auto all =
        arguments(wire.port(), disk, {"--streams", std::to_string(streams), "--no-compress", "--bandwidth", "8M"});
    all.insert(all.begin(), command("kvm-p2v").string());
    return all;
  }();
  std::mt19937 random(static_cast<unsigned>(::getpid()));
  const UniqueFd output = create_new(dir / "log");
  std::optional<Child> agent;
  const auto start = [&] {
    agent.emplace(argv, std::vector<std::pair<int, int>>{{output.get(), 1}, {output.get(), 2}});
  };
  start();
  unsigned made = 0;
  for (unsigned i = 0; i < cuts + kills && !agent->poll(); i++) {
    // Only when something goes through: a cut of nothing proves nothing.
    const std::uint64_t goal = wire.bytes() + chunk / 2 + random() % (2 * chunk);
    while (wire.bytes() < goal && !agent->poll())
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    if (agent->poll())
      break;
    made++;
    if (i == 4) {
      agent->kill();
      agent->wait(std::chrono::seconds(10));
      start();
    } else if (i == 8) {
      EXPECT_TRUE(kill_a_receiver(dir));
    } else {
      wire.cut();
    }
  }
  EXPECT_EQ(agent->wait(std::chrono::seconds(300)), 3) << read_file(dir / "log");
  EXPECT_EQ(made, cuts + kills);
  expect_same_files(disk, result());
  const auto report = nlohmann::json::parse(read_file(dir / "out/m.capture.json"));
  const std::uint64_t used = report["disks"][0]["used"];
  const std::uint64_t limit = used + made * streams * chunk;
  // ssh's own bytes: 1 % for its packets, and its handshakes.
  const std::uint64_t overhead = used / 100 + (made + 1) * (streams + 2) * 20000;
  std::printf("used %llu bytes, %llu over the wire, %u cuts and kills; allowed %llu and ssh's own %llu\n",
              static_cast<unsigned long long>(used), static_cast<unsigned long long>(wire.bytes()), made,
              static_cast<unsigned long long>(limit), static_cast<unsigned long long>(overhead));
  EXPECT_LE(wire.bytes(), limit + overhead);
}

} // namespace
} // namespace kvmport::test
