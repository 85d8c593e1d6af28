// SPDX-License-Identifier: Apache-2.0
#include "base/bytes.h"
#include "base/file.h"
#include "base/process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

namespace kvmport {
namespace {

TEST(Bytes, LoadsBothByteOrdersAndRefusesOutOfBounds) {
  const Bytes b{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
  EXPECT_EQ(load_be<std::uint32_t>(b, 0), 0x01020304U);
  EXPECT_EQ(load_le<std::uint16_t>(b, 2), 0x0403U);
  EXPECT_THROW(load_be<std::uint32_t>(b, 1), Error);
  EXPECT_THROW(load_be<std::uint16_t>(b, ~std::size_t{0}), Error);
}

TEST(Bytes, CheckedArithmeticRefusesToWrap) {
  EXPECT_EQ(checked_add(1, 2, "x"), 3U);
  EXPECT_THROW(checked_add(~0ULL, 1, "x"), Error);
  EXPECT_THROW(checked_mul(1ULL << 33, 1ULL << 33, "x"), Error);
}

TEST(Bytes, IsZeroSeesEveryByte) {
  for (std::size_t size : {0U, 1U, 15U, 16U, 17U, 4096U}) {
    Bytes b(size);
    EXPECT_TRUE(is_zero(b)) << size;
    for (std::size_t i = 0; i < size; i++) {
      b[i] = std::byte{1};
      EXPECT_FALSE(is_zero(b)) << size << " " << i;
      b[i] = std::byte{0};
    }
  }
}

TEST(File, ReadPastTheEndIsTruncatedAndNamesTheOffset) {
  TempDir dir;
  const auto path = dir.path() / "f";
  write_file_durably(path, "abc");
  UniqueFd fd = open_source(path);
  Bytes out(8);
  try {
    read_exact(fd.get(), 1, out, "f");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), "DISK_TRUNCATED");
    EXPECT_NE(std::string(e.what()).find("offset 1"), std::string::npos);
  }
}

TEST(File, OpenSourceRefusesWhatIsNoDisk) {
  try {
    open_source("/dev/null");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), "NOT_A_DISK");
  }
}

TEST(Process, CollectsOutputAndExitCode) {
  const ProcessResult r = run_process({"sh", "-c", "echo out; echo err >&2; exit 3"}, std::chrono::seconds(20));
  EXPECT_EQ(r.exit_code, 3);
  EXPECT_EQ(r.out, "out\n");
  EXPECT_EQ(r.err, "err\n");
}

TEST(Process, KillsWhatRunsTooLong) {
  EXPECT_TRUE(run_process({"sleep", "60"}, std::chrono::milliseconds(50)).timed_out);
}

TEST(Process, MissingProgramIsNamed) {
  try {
    run_process({"no-such-program-here"}, std::chrono::seconds(1));
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), "PROGRAM_MISSING");
  }
}

TEST(File, SocketPairIsConnected) {
  const auto [a, b] = socket_pair(SOCK_DGRAM);
  char byte = 'x';
  ASSERT_EQ(::write(a.get(), &byte, 1), 1);
  byte = 0;
  ASSERT_EQ(::read(b.get(), &byte, 1), 1);
  EXPECT_EQ(byte, 'x');
  EXPECT_NE(::fcntl(a.get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST(Process, CpuTimeOfAChildGrowsUntilItIsReaped) {
  Child child({"sh", "-c", "while :; do :; done"}, {});
  for (int tries = 0; tries < 1000 && child.cpu_time().count() == 0; tries++)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_GT(child.cpu_time().count(), 0);
  child.kill();
  ASSERT_TRUE(child.wait(std::chrono::seconds(10)));
  EXPECT_EQ(child.cpu_time().count(), 0);
}

} // namespace
} // namespace kvmport
