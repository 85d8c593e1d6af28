// SPDX-License-Identifier: Apache-2.0
// kvm-clone as a user calls it: options, refusals with their exit codes, and runs that are killed.
#include "tests/cli/support.h"
#include "tests/support/guests.h"
#include "tests/support/tempdir.h"

#include <csignal>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

using testing::HasSubstr;

class CloneCommand : public testing::Test {
 protected:
  void SetUp() override {
    ext4_disk(dir, "small.img", [](const fs::path& tree) {
      small_system(tree);
      write_file_durably(tree / "etc/machine-id", "0123456789abcdef0123456789abcdef\n");
      write_file_durably(tree / "etc/hostname", "small\n");
    });
    write_file_durably(
        dir / "small.xml",
        fmt::format("<domain type='kvm'><name>small</name><memory unit='MiB'>256</memory><vcpu>1</vcpu><os>"
                    "<type arch='x86_64'>hvm</type></os><devices><disk type='file' device='disk'>"
                    "<driver name='qemu' type='raw'/><source file='{}'/><target dev='vda' bus='virtio'/>"
                    "</disk></devices></domain>\n",
                    (dir / "small.img").string()));
  }
  ProcessResult clone(std::vector<std::string> arguments) { return run("kvm-clone", arguments); }
  std::string source() const { return (dir / "small.xml").string(); }
  std::string out() const { return (dir / "out").string(); }

  TempDir temporary;
  fs::path dir = temporary.path();
};

TEST_F(CloneCommand, MakesWhatAListNames) {
  write_file_durably(dir / "list.csv", "name,hostname\nweb1,one\nweb2,\n");
  const ProcessResult made = clone({source(), "--from", (dir / "list.csv").string(), "-o", out(), "--full"});
  EXPECT_EQ(made.exit_code, 0) << made.err;
  EXPECT_THAT(made.out, HasSubstr("web1: done"));
  EXPECT_EQ(must_run({"debugfs", "-R", "cat /etc/hostname", out() + "/web1.img"}), "one\n");
  EXPECT_EQ(must_run({"debugfs", "-R", "cat /etc/hostname", out() + "/web2.img"}), "web2\n");
  const ProcessResult again = clone({source(), "--from", (dir / "list.csv").string(), "-o", out(), "--full"});
  EXPECT_EQ(again.exit_code, 0);
  EXPECT_THAT(again.out, HasSubstr("web2: done before"));
}

TEST_F(CloneCommand, OptionsReachTheClone) {
  const ProcessResult made =
      clone({source(), "--name", "n", "--keep-hostname", "--rules", "defaults,-machine-id", "-o", out(), "--flatten"});
  EXPECT_EQ(made.exit_code, 0) << made.err;
  EXPECT_EQ(must_run({"debugfs", "-R", "cat /etc/hostname", out() + "/n.img"}), "small\n");
  EXPECT_EQ(must_run({"debugfs", "-R", "cat /etc/machine-id", out() + "/n.img"}), "0123456789abcdef0123456789abcdef\n");
  const ProcessResult bare = clone({(dir / "small.img").string(), "--name", "b", "--hostname", "host.example", "-o",
                                    out(), "--input-format", "raw", "--json"});
  EXPECT_EQ(bare.exit_code, 0) << bare.err;
  EXPECT_EQ(last_event(bare)["clones"][0]["state"], "done");
  EXPECT_EQ(must_run({"debugfs", "-R", "cat /etc/hostname", out() + "/b.img"}), "host.example\n");
  const ProcessResult none = clone({source(), "--name", "untouched", "--rules", "none", "-o", out()});
  EXPECT_EQ(none.exit_code, 0) << none.err;
  EXPECT_EQ(sha256_of(out() + "/untouched.img"), sha256_of(dir / "small.img"));
  const ProcessResult numbered = clone({source(), "--name", "w{}", "--count", "2", "--first", "7", "--linked",
                                        "--workers", "1", "--mac-seed", "x", "-o", out()});
  EXPECT_EQ(numbered.exit_code, 0) << numbered.err;
  EXPECT_THAT(numbered.out, HasSubstr("w8: done"));
  const ProcessResult plan = clone({source(), "--dry-run"});
  EXPECT_THAT(plan.out, HasSubstr("small-clone: planned"));
  EXPECT_THAT(plan.out, HasSubstr("machine-id"));
}

TEST_F(CloneCommand, StaticAddressesOfAListAreWritten) {
  ext4_disk(dir, "small.img", [](const fs::path& tree) {
    small_system(tree);
    fs::create_directories(tree / "etc/network");
    write_file_durably(tree / "etc/network/interfaces", "iface eth0 inet static\n  address 10.0.0.4/24\n");
  });
  write_file_durably(dir / "list.csv", "name,address,gateway\na,10.0.0.5/24,\nb,10.0.0.6/24,10.0.0.1\nc,,\n");
  const ProcessResult made = clone({source(), "--from", (dir / "list.csv").string(), "-o", out()});
  EXPECT_EQ(made.exit_code, 0) << made.err;
  const auto interfaces = [&](const std::string& name) {
    return must_run({"debugfs", "-R", "cat /etc/network/interfaces", out() + "/" + name + ".img"});
  };
  EXPECT_EQ(interfaces("a"), "iface eth0 inet static\n  address 10.0.0.5/24\n");
  EXPECT_EQ(interfaces("b"), "iface eth0 inet static\n  address 10.0.0.6/24\n  gateway 10.0.0.1\n");
  EXPECT_EQ(interfaces("c"), "iface eth0 inet static\n  address 10.0.0.4/24\n");
  EXPECT_THAT(made.out, HasSubstr("warning: /etc/network/interfaces: the address 10.0.0.4 of eth0 is the original's"));
  EXPECT_THAT(clone({"--report", "identity", source()}).out, HasSubstr("/etc/network/interfaces: 10.0.0.4"));
  const ProcessResult one = clone({source(), "--name", "d", "--address", "10.0.0.7/24", "2001:db8::7/64", "--gateway",
                                   "10.0.0.1", "--dns", "10.0.0.2", "-o", out()});
  EXPECT_EQ(one.exit_code, 0) << one.err;
  EXPECT_THAT(interfaces("d"), HasSubstr("iface eth0 inet6 static\n    address 2001:db8::7/64\n"));
  write_file_durably(dir / "twice.csv", "name,address\ne,10.0.0.5/24\nf,10.0.0.5/16\n");
  EXPECT_THAT(clone({source(), "--from", (dir / "twice.csv").string(), "-o", out()}).err, HasSubstr("ADDRESS_IN_USE"));
  EXPECT_THAT(clone({source(), "--address", "10.0.0.9/24", "--rules", "machine-id", "-o", out()}).err,
              HasSubstr("RULE_NEEDED"));
  EXPECT_THAT(clone({source(), "--name", "g", "--address", "10.0.9.9/24", "--gateway", "10.0.0.1", "-o", out()}).err,
              HasSubstr("ADDRESS_INVALID"));
}

TEST_F(CloneCommand, TellsRulesAndIdentity) {
  EXPECT_THAT(clone({"--list-rules"}).out, HasSubstr("ssh-host-keys"));
  const ProcessResult report = clone({"--report", "identity", source()});
  EXPECT_THAT(report.out, HasSubstr("/etc/machine-id: 0123456789abcdef0123456789abcdef"));
  EXPECT_EQ(names_in(out()), std::vector<std::string>{});
}

TEST_F(CloneCommand, RefusalsHaveTheirCodes) {
  struct Case {
    std::vector<std::string> arguments;
    int exit_code;
    const char* text;
  };
  for (const auto& [arguments, exit_code, text] :
       {Case{{}, 1, "USAGE"}, Case{{source(), "--name", "same", "--count", "2"}, 1, "USAGE"},
        Case{{source(), "--full", "--linked"}, 1, "linked"},
        Case{{source(), "--count", "2", "--name", "w{}", "--mac", "52:54:00:00:00:01"}, 1, "USAGE"},
        Case{{source(), "--count", "2", "--name", "w{}", "--address", "10.0.0.1/24"}, 1, "USAGE"},
        Case{{source(), "--name", "a/b", "-o", out()}, 2, "NAME_INVALID"},
        Case{{source(), "--rules", "no-such-rule", "-o", out()}, 2, "RULE_UNKNOWN"},
        Case{{source(), "--name", "n", "--mac", "52:54:00:00:00:01", "-o", out()}, 2, "MAC_INVALID"},
        Case{{"--connect", "nonsense:///", "x"}, 2, "LIBVIRT_FAILED"},
        Case{{(dir / "nothing.xml").string()}, 2, "NOT_FOUND"}}) {
    const ProcessResult refused = clone(arguments);
    EXPECT_EQ(refused.exit_code, exit_code) << text << refused.err;
    EXPECT_THAT(refused.err + refused.out, HasSubstr(text));
  }
}

TEST_F(CloneCommand, AKilledRunLeavesNoHalfAndGoesOn) {
  const std::vector<std::string> arguments{source(), "--name", "w{}", "--count", "6", "-o", out()};
  for (const int milliseconds : {15, 40, 80, 150, 300}) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      std::vector<std::string> argv{command("kvm-clone").string()};
      argv.insert(argv.end(), arguments.begin(), arguments.end());
      std::vector<char*> raw;
      for (auto& word : argv)
        raw.push_back(word.data());
      raw.push_back(nullptr);
      ::close(1);
      ::close(2);
      ::execv(raw[0], raw.data());
      ::_exit(127);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    for (const auto& name : names_in(out()))
      if (name.ends_with(".report.json")) { // the last to be there
        EXPECT_TRUE(fs::exists(out() + "/" + name.substr(0, name.find('.')) + ".img")) << name;
        EXPECT_TRUE(fs::exists(out() + "/" + name.substr(0, name.find('.')) + ".xml")) << name;
      }
  }
  const ProcessResult rest = clone(arguments);
  EXPECT_EQ(rest.exit_code, 0) << rest.out << rest.err;
  for (const auto& name : names_in(out()))
    EXPECT_THAT(name, testing::Not(HasSubstr("partial")));
  for (int i = 1; i <= 6; i++) {
    const std::string image = fmt::format("{}/w{}.img", out(), i);
    EXPECT_EQ(must_run({"debugfs", "-R", "cat /etc/hostname", image}), fmt::format("w{}\n", i));
    EXPECT_EQ(run_process({"e2fsck", "-fn", image}, std::chrono::minutes(1)).exit_code, 0);
  }
}

} // namespace
} // namespace kvmport::test
