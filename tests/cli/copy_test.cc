// SPDX-License-Identifier: Apache-2.0
// kvm-v2v copy and info as whole commands: results, refusals by code, interruption, and a full disk.
#include "base/file.h"
#include "tests/cli/support.h"
#include "tests/support/guests.h"
#include "tests/support/tempdir.h"

#include <csignal>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

namespace kvmport::test {
namespace {

constexpr std::uint64_t mib = 1U << 20;

std::vector<std::string> argv_of(const std::vector<std::string>& arguments) {
  std::vector<std::string> argv{command("kvm-v2v").string()};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  return argv;
}

ProcessResult run(const std::vector<std::string>& arguments) {
  return test::run("kvm-v2v", arguments);
}

void expect_same(const fs::path& raw, const fs::path& other, const std::string& format) {
  EXPECT_NO_THROW(must_run({"qemu-img", "compare", "-f", "raw", "-F", format, raw.string(), other.string()}));
}

class Copy : public testing::Test {
 protected:
  Copy() { make_pattern_file(in(), 9 * mib + 512, 4); }
  fs::path in() const { return dir_.path() / "in.img"; }
  fs::path out(const std::string& name = "out.qcow2") const { return dir_.path() / name; }
  void expect_refused(const std::vector<std::string>& arguments, const std::string& code, int exit_code = 2) const {
    std::vector<std::string> all = arguments;
    all.push_back("--json");
    const ProcessResult process = run(all);
    EXPECT_EQ(process.exit_code, exit_code) << process.err;
    const json event = last_event(process);
    EXPECT_EQ(event.value("event", ""), "error") << process.out;
    EXPECT_EQ(event.value("code", ""), code) << process.out;
    EXPECT_THAT(process.err, HasSubstr("kvm-v2v: " + code + ": "));
  }
  /// Nothing of a run is left but its input.
  void expect_only_input() const {
    for (const auto& entry : fs::directory_iterator(dir_.path()))
      EXPECT_EQ(entry.path(), in());
  }

  const TempDir dir_;
};

TEST_F(Copy, EveryInputFormatToEveryOutputFormat) {
  const std::string before = sha256_of(in());
  for (const char* from : {"raw", "qcow2", "vmdk", "vdi", "vpc", "vhdx"}) {
    const fs::path source = dir_.path() / (std::string("source.") + from);
    std::vector<std::string> make{"qemu-img", "convert", "-f", "raw", "-O", from};
    if (from == std::string("vpc"))
      make.insert(make.end(), {"-o", "force_size=on"});
    make.insert(make.end(), {in().string(), source.string()});
    must_run(make);
    for (const std::vector<std::string>& form : std::vector<std::vector<std::string>>{
             {"--format", "raw"}, {}, {"--compress", "zlib"}, {"--compress", "zstd"}}) {
      std::vector<std::string> arguments{"copy", source.string(), out("o").string()};
      arguments.insert(arguments.end(), form.begin(), form.end());
      const ProcessResult process = run(arguments);
      ASSERT_EQ(process.exit_code, 0) << from << ": " << process.err;
      expect_same(in(), out("o"), form.size() == 2 && form[1] == "raw" ? "raw" : "qcow2");
      fs::remove(out("o"));
    }
    fs::remove(source);
  }
  EXPECT_EQ(sha256_of(in()), before);
}

TEST_F(Copy, FormatFollowsTheEndingUnlessAsked) {
  for (const auto& [name, format] : std::vector<std::pair<std::string, std::string>>{
           {"a.img", "raw"}, {"b.raw", "raw"}, {"c.qcow2", "qcow2"}, {"d", "qcow2"}}) {
    ASSERT_EQ(run({"copy", in().string(), out(name).string()}).exit_code, 0);
    const json info = last_event(run({"info", out(name).string(), "--json"}));
    EXPECT_EQ(info.value("format", ""), format) << name;
    expect_same(in(), out(name), format);
  }
}

TEST_F(Copy, InputFormatIsTakenAsAsked) {
  must_run({"qemu-img", "convert", "-f", "raw", "-O", "qcow2", in().string(), out("source").string()});
  ASSERT_EQ(run({"copy", out("source").string(), out("bytes.img").string(), "--input-format", "raw"}).exit_code, 0);
  EXPECT_EQ(sha256_of(out("bytes.img")), sha256_of(out("source")));
}

TEST_F(Copy, JsonAndPlainOutput) {
  const ProcessResult machine = run({"copy", in().string(), out("j").string(), "--json"});
  const json result = last_event(machine);
  EXPECT_EQ(result.value("event", ""), "result");
  EXPECT_EQ(result.value("virtual_size", 0U), 9 * mib + 512);
  EXPECT_EQ(result.value("copied_bytes", 0U) + result.value("zero_bytes", 0U), 9 * mib + 512);
  EXPECT_EQ(machine.err, "");
  const ProcessResult plain = run({"copy", in().string(), out("p").string()});
  EXPECT_THAT(plain.err, HasSubstr("copy: 100 %"));
  EXPECT_THAT(plain.err, Not(HasSubstr("\r"))); // no bar in a pipe
  const ProcessResult quiet = run({"copy", in().string(), out("q").string(), "--quiet"});
  EXPECT_EQ(quiet.err, "");
}

TEST_F(Copy, ExistingOutputIsKeptWithoutForce) {
  write_file_durably(out(), "precious");
  expect_refused({"copy", in().string(), out().string()}, "FILE_EXISTS");
  EXPECT_EQ(read_file(out()), "precious");
  ASSERT_EQ(run({"copy", in().string(), out().string(), "--force"}).exit_code, 0);
  expect_same(in(), out(), "qcow2");
}

TEST_F(Copy, SourceIsNeverTheOutput) {
  const std::string before = sha256_of(in());
  expect_refused({"copy", in().string(), in().string(), "--force"}, "OUTPUT_IS_SOURCE");
  fs::create_symlink(in(), out("link"));
  expect_refused({"copy", in().string(), out("link").string(), "--force"}, "OUTPUT_IS_SOURCE");
  fs::rename(in(), out("disk.partial"));
  expect_refused({"copy", out("disk.partial").string(), out("disk").string()}, "OUTPUT_IS_SOURCE");
  EXPECT_EQ(sha256_of(out("disk.partial")), before);
}

TEST_F(Copy, RefusalsLeaveNothing) {
  expect_refused({"copy", out("missing").string(), out().string()}, "NOT_FOUND");
  expect_refused({"copy", dir_.path().string(), out().string()}, "NOT_A_DISK");
  expect_refused({"copy", in().string(), out("no/such/dir").string()}, "NOT_FOUND");
  expect_refused({"copy", in().string(), out("x.img").string(), "--compress", "zlib"}, "USAGE", 1);
  // The parser's own errors are told in its words.
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"copy", in().string(), out().string(), "--format", "vmdk"},
        {"copy", in().string()},
        {"copy", in().string(), out().string(), "--nonsense"}})
    EXPECT_EQ(run(arguments).exit_code, 1) << arguments.back();
  expect_only_input();
}

TEST_F(Copy, TruncatedSourceIsAnErrorAndNothingIsPublished) {
  must_run({"qemu-img", "convert", "-f", "raw", "-O", "qcow2", in().string(), out("cut").string()});
  fs::resize_file(out("cut"), fs::file_size(out("cut")) / 2);
  const ProcessResult process = run({"copy", out("cut").string(), out().string(), "--json"});
  EXPECT_EQ(process.exit_code, 2);
  EXPECT_EQ(last_event(process).value("code", ""), "DISK_TRUNCATED") << process.out;
  fs::remove(out("cut"));
  expect_only_input();
}

TEST_F(Copy, InterruptedRunGoesOn) {
  for (const int number : {SIGINT, SIGTERM}) {
    // Compressing is slow enough to be met at work.
    make_pattern_file(out("big"), 400 * mib, 9);
    const std::vector<std::string> arguments{"copy", out("big").string(), out().string(), "--compress", "zlib"};
    {
      Child child(argv_of(arguments), {});
      while (!fs::exists(out("out.qcow2.partial.journal")) && !child.poll())
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      std::this_thread::sleep_for(std::chrono::milliseconds(700));
      ::kill(child.pid(), number);
      const auto code = child.wait(std::chrono::minutes(2));
      ASSERT_TRUE(code.has_value());
      ASSERT_EQ(*code, 2);
    }
    EXPECT_FALSE(fs::exists(out()));
    std::vector<std::string> again = arguments;
    again.push_back("--json");
    const ProcessResult process = run(again);
    ASSERT_EQ(process.exit_code, 0) << process.err;
    EXPECT_GT(last_event(process).value("reused_bytes", std::uint64_t{0}), 0U);
    expect_same(out("big"), out(), "qcow2");
    fs::remove(out());
    fs::remove(out("big"));
  }
}

TEST_F(Copy, FullDiskIsFoundBeforeCopying) {
  const fs::path small = dir_.path() / "small";
  fs::create_directory(small);
  const ProcessResult mounted =
      run_process({"mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small.string()}, std::chrono::seconds(30));
  if (mounted.exit_code != 0)
    GTEST_SKIP() << "no tmpfs can be mounted here, so a full disk is not tested: " << mounted.err;
  expect_refused({"copy", in().string(), (small / "disk.qcow2").string()}, "DISK_FULL");
  EXPECT_TRUE(fs::is_empty(small));
  run_process({"umount", small.string()}, std::chrono::seconds(30));
}

TEST_F(Copy, InfoSaysWhatAnImageIs) {
  must_run({"qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=128k", out("q").string(), "3M"});
  const json info = last_event(run({"info", out("q").string(), "--json"}));
  EXPECT_EQ(info.value("event", ""), "result");
  EXPECT_EQ(info.value("format", ""), "qcow2");
  EXPECT_EQ(info.value("virtual_size", 0U), 3 * mib);
  EXPECT_EQ(info.value("block_size", 0U), 128U << 10);
  const ProcessResult plain = run({"info", out("q").string()});
  EXPECT_THAT(plain.out, HasSubstr("3.0 MiB (3145728 bytes)"));
  expect_refused({"info", out("missing").string()}, "NOT_FOUND");
}

/// A name from outside can't steer the terminal.
TEST_F(Copy, NamesArePrintedHarmlessly) {
  const fs::path evil = dir_.path() / "a\x1b[2Jb\xff";
  fs::copy_file(in(), evil);
  const ProcessResult process = run({"info", evil.string()});
  EXPECT_EQ(process.exit_code, 0);
  EXPECT_THAT(process.out, Not(HasSubstr("\x1b")));
  EXPECT_THAT(process.out, HasSubstr("a\\x1b[2Jb\xef\xbf\xbd"));
  EXPECT_TRUE(last_event(run({"info", evil.string(), "--json"})).is_object());
}

TEST(Cli, HelpAndVersion) {
  for (const char* command : {"copy", "info", "convert"}) {
    const ProcessResult help = run({command, "--help"});
    EXPECT_EQ(help.exit_code, 0);
    EXPECT_THAT(help.out, HasSubstr("Examples:"));
  }
  EXPECT_THAT(run({"--version"}).out, HasSubstr("kvm-v2v "));
  EXPECT_EQ(run({}).exit_code, 1);
}

/// A split VMDK holds a file open for each of its extents.
TEST_F(Copy, MoreExtentsThanTheSoftLimitOfOpenFiles) {
  must_run({"qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentFlat", out("many.vmdk").string(),
            "100G"});
  const ProcessResult info = run_process({"sh", "-c", "ulimit -Sn 32 && exec \"$@\"", "sh", command("kvm-v2v").string(),
                                          "info", out("many.vmdk").string(), "--json"},
                                         std::chrono::minutes(1));
  EXPECT_EQ(info.exit_code, 0) << info.out << info.err;
}

} // namespace
} // namespace kvmport::test
