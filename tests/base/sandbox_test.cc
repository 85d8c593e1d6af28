// SPDX-License-Identifier: Apache-2.0
#include "base/sandbox.h"
#include "tests/support/tempdir.h"

#include <csignal>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <termios.h>
#include <thread>
#include <unistd.h>

namespace kvmport {
namespace {

constexpr int forbidden = 128 + SIGSYS;

int exit_code_of(const std::function<int()>& work, SandboxLimits limits = {}) {
  ForkedChild child([&](int socket) {
    limits.keep.push_back(socket);
    enter_sandbox(limits);
    return work();
  });
  return child.finish(false).exit_code;
}

TEST(Sandbox, LeavesMemoryThreadsAndOpenFiles) {
  const TempDir temp;
  write_file_durably(temp.path() / "in", "content");
  const UniqueFd in = open_source(temp.path() / "in"), scratch = open_unnamed(temp.path());
  SandboxLimits limits;
  limits.threads = true;
  const auto work = [&] {
    std::string text(7, '\0');
    std::thread reader([&] { read_exact(in.get(), 0, std::as_writable_bytes(std::span(text)), "in"); });
    reader.join();
    write_exact(scratch.get(), 1U << 20, as_bytes(text), "scratch");
    std::vector<int> heap(10'000'000, 1);
    return text == "content" && heap.back() == 1 ? 7 : 8;
  };
  EXPECT_EQ(exit_code_of(work, limits), 7);
}

TEST(Sandbox, LimitsWhatIsMappedMore) {
  SandboxLimits limits;
  limits.memory = 64U << 20;
  const auto maps = [](std::size_t bytes) {
    return ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED;
  };
  EXPECT_EQ(exit_code_of([&] { return maps(32U << 20) ? 1 : 0; }, limits), 1);
  EXPECT_EQ(exit_code_of([&] { return maps(128U << 20) ? 1 : 0; }, limits), 0);
}

struct Deed {
  const char* name;
  int (*work)();
};

class SandboxForbids : public testing::TestWithParam<Deed> {};

TEST_P(SandboxForbids, AndEndsTheProcess) {
  EXPECT_EQ(exit_code_of(GetParam().work), forbidden);
}

INSTANTIATE_TEST_SUITE_P(All, SandboxForbids,
                         testing::Values(Deed{"opening", [] { return ::open("/etc/passwd", O_RDONLY); }},
                                         Deed{"creating", [] { return ::creat("/tmp/kvmport-sandbox-test", 0600); }},
                                         Deed{"sockets", [] { return ::socket(AF_UNIX, SOCK_STREAM, 0); }},
                                         Deed{"connecting", [] { return ::connect(0, nullptr, 0); }},
                                         Deed{"programs", [] { return ::execl("/bin/true", "true", nullptr); }},
                                         Deed{"forking", [] { return static_cast<int>(::fork()); }},
                                         Deed{"threads_unless_asked_for",
                                              [] {
                                                std::thread([] {}).join();
                                                return 0;
                                              }},
                                         Deed{"signalling_others", [] { return ::kill(::getppid(), 0); }},
                                         Deed{"tracing_others",
                                              [] { return static_cast<int>(::syscall(101, 16, ::getppid(), 0, 0)); }},
                                         Deed{"other_ioctls",
                                              [] {
                                                winsize size{};
                                                return ::ioctl(2, TIOCGWINSZ, &size);
                                              }}),
                         [](const auto& info) { return info.param.name; });

TEST(Sandbox, ClosesWhatCouldDoHarm) {
  const TempDir temp;
  write_file_durably(temp.path() / "named", "x");
  const UniqueFd writable = open_existing(temp.path() / "named"), readable = open_source(temp.path() / "named");
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  const UniqueFd mine(pair[0]), other(pair[1]);
  const auto open = [](const UniqueFd& fd) { return ::lseek(fd.get(), 0, SEEK_CUR) >= 0 || errno != EBADF; };
  EXPECT_EQ(exit_code_of([&] { return (open(writable) ? 1 : 0) + (open(readable) ? 2 : 0) + (open(mine) ? 4 : 0); }),
            2);
}

TEST(Sandbox, SaysWhatIsInForce) {
  ForkedChild child([](int socket) {
    SandboxLimits limits;
    limits.keep = {socket};
    const std::string in_force = enter_sandbox(limits);
    return ::send(socket, in_force.data(), in_force.size(), 0) > 0 ? 0 : 1;
  });
  std::string text(256, '\0');
  text.resize(static_cast<std::size_t>(std::max<ssize_t>(::recv(child.socket(), text.data(), text.size(), 0), 0)));
  EXPECT_THAT(text, testing::StartsWith("seccomp"));
  EXPECT_EQ(child.finish(false).exit_code, 0);
}

TEST(ForkedChild, ExceptionsAndKillsAreToldByTheExitCode) {
  ForkedChild thrower([](int) -> int { throw Error("ANY", "thing"); });
  EXPECT_EQ(thrower.finish(false).exit_code, 70);
  ForkedChild sleeper([](int) { return ::pause(); });
  EXPECT_EQ(sleeper.finish(true).exit_code, 128 + SIGKILL);
}

} // namespace
} // namespace kvmport
