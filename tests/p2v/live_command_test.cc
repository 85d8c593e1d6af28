// SPDX-License-Identifier: Apache-2.0
// kvm-p2v capture --live: of a loop device of this host, and of the root of a guest with Debian's kernel, over ssh to
// this host. What a writer had synced before the freeze must be in what arrived.
#include "libconvert/p2v/freezer.h"
#include "libconvert/p2v/tracefs.h"
#include "tests/p2v/live_guest.h"
#include "tests/p2v/live_writer.h"
#include "tests/p2v/loop_disk.h"
#include "tests/support/sshd.h"

#include <csignal>
#include <ctime>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <pwd.h>

namespace kvmport::test {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;

/// An emulated machine is slow.
constexpr const char* freeze_limit = "60";

/// How far the wall's clock is ahead of the steady one; never more than it is.
std::chrono::nanoseconds wall_offset() {
  const auto wall = std::chrono::system_clock::now().time_since_epoch();
  return wall - LiveLog::Clock::now().time_since_epoch();
}

/// The moment "frozen_at" of a result. Nothing is synced or removed for some time after it: the filesystems stand
/// still.
LiveLog::Clock::time_point frozen_at(const json& result, std::chrono::nanoseconds offset) {
  const std::string text = result.at("frozen_at");
  std::tm parts{};
  const char* rest = ::strptime(text.c_str(), "%Y-%m-%dT%H:%M:%S.", &parts);
  if (rest == nullptr || text.size() != 27 || text.back() != 'Z')
    throw std::runtime_error("no time: " + text);
  const auto wall = std::chrono::seconds(::timegm(&parts)) + std::chrono::microseconds(std::stoul(rest) + 1);
  return LiveLog::Clock::time_point(std::chrono::duration_cast<LiveLog::Clock::duration>(wall - offset));
}

/// The last event of this kind among lines that are something else, too.
json event_of(const std::string& text, const std::string& kind) {
  std::istringstream lines(text);
  json found;
  for (std::string line; std::getline(lines, line);)
    if (json event = json::parse(line, nullptr, false); event.is_object() && event.value("event", "") == kind)
      found = std::move(event);
  return found;
}

/// What a capture said of its passes, for people.
std::string story_of(const std::string& text, const json& result) {
  std::istringstream lines(text);
  std::string story;
  for (std::string line; std::getline(lines, line);)
    if (const json event = json::parse(line, nullptr, false);
        event.is_object() && event.value("event", "") == "stage" && event.value("stage", "") == "capture")
      story += "  " + event.value("text", "") + "\n";
  for (const json& note : result.at("receiver").at("disks").at(0).at("notes"))
    story += "  " + note.get<std::string>() + "\n";
  return story + fmt::format("  {} passes, {} of {} KiB used sent, {} KiB over the wire; frozen for {} ms at {}\n",
                             result.at("passes").get<unsigned>(), result.at("payload").get<std::uint64_t>() >> 10,
                             result.at("used").get<std::uint64_t>() >> 10, result.at("wire").get<std::uint64_t>() >> 10,
                             result.at("frozen_ms").get<unsigned>(), result.at("frozen_at").get<std::string>());
}

std::vector<std::string> capture_argv(const fs::path& program, const std::string& disk, const fs::path& to) {
  return {program.string(), "capture", "--live", "--freeze-limit", freeze_limit,   "--to",  to.string(),
          "--disk",         disk,      "--name", "live",           "--no-convert", "--json"};
}

/// Starts a capture, and sends `number` when it says that `stage` begins. Whatever becomes of it, nothing stands still
/// afterwards.
void interrupt(const std::vector<std::string>& argv, const fs::path& log, const std::string& stage, int number,
               dev_t disk) {
  SCOPED_TRACE(stage + " " + ::strsignal(number));
  fs::remove(log);
  const UniqueFd output = create_new(log);
  Child agent(argv, {{output.get(), 1}, {output.get(), 2}});
  const std::string wanted = "\"stage\":\"" + stage + "\"";
  for (int i = 0; i < 6000 && !agent.poll() && read_file(log).find(wanted) == std::string::npos; i++)
    std::this_thread::sleep_for(10ms);
  ASSERT_FALSE(agent.poll()) << read_file(log);
  if (stage == "freeze")
    std::this_thread::sleep_for(100ms);
  ::kill(agent.pid(), number);
  const auto code = agent.wait(60s);
  ASSERT_TRUE(code) << "it does not end: " << read_file(log);
  if (number == SIGINT && *code != 3) { // else it was through already
    EXPECT_EQ(*code, 2);
    EXPECT_EQ(event_of(read_file(log), "error")["code"], "INTERRUPTED") << read_file(log);
  }
  EXPECT_TRUE(*code == 3 || stage != "map" || number != SIGINT || *code == 2);
  std::this_thread::sleep_for(500ms); // for the watchdog
  // Freezing fails where something is frozen.
  const auto filesystems = filesystems_on({}, std::vector<dev_t>{disk});
  ASSERT_FALSE(filesystems.empty());
  EXPECT_NO_THROW({ const Freeze freeze(filesystems); });
  std::cout << fmt::format("{}, {}: exit {}\n", stage, ::strsignal(number), *code);
}

// --- in the guest ----------------------------------------------------------------------------------------------------

/// Writes to the root, /data and the EFI system partition until /run/stop is there.
TEST(LiveInGuest, Write) {
  ONLY_IN_GUEST();
  LiveWriter root("/work"), data("/data");
  root.run_until(20);
  data.run_until(20);
  std::ofstream("/boot/efi/kernel") << LiveLog::text_of(1, 100000);
  ::sync();
  std::ofstream("/run/ready") << "\n";
  while (!fs::exists("/run/stop"))
    std::this_thread::sleep_for(50ms);
  root.stop();
  data.stop();
  root.log().print(std::cout, "root");
  data.log().print(std::cout, "data");
  std::cout << "offset " << wall_offset().count() << "\n";
}

TEST(LiveInGuest, Interrupt) {
  ONLY_IN_GUEST();
  for (const auto& [stage, number] : {std::pair("map", SIGINT), std::pair("capture", SIGINT),
                                      std::pair("freeze", SIGINT), std::pair("freeze", SIGKILL)})
    interrupt(capture_argv("kvm-p2v", "/dev/vda", "/mnt/interrupted"), "/run/interrupted", stage, number,
              device_of("/dev/vda"));
}

class LiveCommandInGuest : public LiveGuestBase {
 protected:
  void SetUp() override {
    KVMPORT_ONLY_SLOW();
    make({command("kvm-p2v").string(), "ssh", "ssh-keyscan"});
    make_disk("vdb", "1G");
    sshd_.emplace(dir_.path());
  }
  /// A shell's line that captures to `to`, and says on the root itself what it does.
  std::string capture(const std::string& to, const std::string& name) const {
    return fmt::format(
        "kvm-p2v capture --live --freeze-limit {} --to {} --disk /dev/vda --name {} --no-convert --json >/{}.out 2>&1\n"
        "echo {} exit $?\ncat /{}.out\n",
        freeze_limit, to, name, name, name, name);
  }
  std::string over_ssh(const std::string& name) const {
    return capture(fmt::format("ssh://{}@10.0.2.2:{}{} --host-key {} --identity /run/key --remote-program {}",
                               ::getpwuid(::geteuid())->pw_name, sshd_->port(), (dir_.path() / "out").string(),
                               sshd_->fingerprint(), command("kvm-p2v").string()),
                   name);
  }
  /// Compares the image with what the guest's writers said.
  void expect_captured(const fs::path& image, const std::string& name, const std::string& said) const {
    const auto begin = said.find(name + " exit ");
    ASSERT_NE(begin, std::string::npos) << said;
    EXPECT_EQ(said.substr(begin, name.size() + 7), name + " exit 3") << said;
    const auto end = said.find(" exit ", begin + name.size() + 7);
    const std::string own = said.substr(begin, end - begin);
    const json result = event_of(own, "result");
    ASSERT_TRUE(result.is_object()) << own;
    std::cout << name << ":\n" << story_of(own, result);
    EXPECT_GT(result["frozen_ms"], 0);
    EXPECT_LT(result["frozen_ms"], 60000);
    const auto moment =
        frozen_at(result, std::chrono::nanoseconds(std::stoll(said.substr(said.find("\noffset ") + 8))));
    for (const auto& [part, offset] : {std::pair("root", 17 * mib), std::pair("data", 305 * mib)}) {
      const Mounted there(image, dir_.path() / "there", "loop,offset=" + std::to_string(offset));
      ASSERT_TRUE(there) << there.why();
      const LiveLog log = LiveLog::parse(said, part);
      const auto verdict = log.compare(there.path() / (std::string(part) == "root" ? "work" : "."), moment);
      EXPECT_EQ(verdict.wrong, std::vector<std::string>()) << part;
      EXPECT_GT(verdict.compared, 40U) << part;
      std::cout << fmt::format("  {}: {} compared of {} files and {} blocks, {} wrong\n", part, verdict.compared,
                               log.files.size(), +LiveLog::block_count, verdict.wrong.size());
    }
    const std::string esp = image.string() + "@@" + std::to_string(mib);
    EXPECT_EQ(must_run({"mtype", "-i", esp, "::kernel"}), LiveLog::text_of(1, 100000));
  }

  std::optional<Sshd> sshd_;
};

TEST_F(LiveCommandInGuest, CapturesItsOwnRoot) {
  std::ostringstream commands;
  commands << "ifconfig lo up; ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up\n"
           << "cat >/run/key <<'END'\n"
           << read_file(sshd_->identity()) << "END\nchmod 600 /run/key\n"
           << "mkfs.ext4 -q /dev/vdb; mount -t ext4 /dev/vdb /mnt\n"
           << program << "LiveInGuest.Write >/run/log & writer=$!\n"
           << "until [ -e /run/ready ]; do sleep 0.1; done\n"
           << capture("/mnt/out", "near") << over_ssh("far") << "echo - exit -\n"
           << "touch /run/stop; wait $writer; cat /run/log; umount /mnt\n";
  const std::string said =
      boot(commands.str(), {"-netdev", "user,id=net,restrict=off", "-device", "virtio-net-pci,netdev=net,romfile="});
  EXPECT_EQ(said.find("FAILED"), std::string::npos) << said;
  expect_captured(dir_.path() / "out/far-sda.img", "far", said);
  const Mounted mounted(file("vdb.raw"), dir_.path() / "vdb", "loop"); // XFS in it replays its log
  ASSERT_TRUE(mounted) << mounted.why();
  expect_captured(mounted.path() / "out/near-sda.img", "near", said);
}

TEST_F(LiveCommandInGuest, InterruptedItLeavesNothingFrozen) {
  std::ostringstream commands;
  commands << "mkfs.ext4 -q /dev/vdb; mount -t ext4 /dev/vdb /mnt\n"
           << program << "LiveInGuest.Write >/run/log & writer=$!\n"
           << "until [ -e /run/ready ]; do sleep 0.1; done\n"
           << program << "LiveInGuest.Interrupt\n"
           << "touch /run/stop; wait $writer && echo the writer went on\n";
  const std::string said = boot(commands.str(), {});
  std::cout << said;
  EXPECT_EQ(said.find("FAILED"), std::string::npos);
  EXPECT_NE(said.find("freeze, Killed: exit 137"), std::string::npos);
  EXPECT_NE(said.find("the writer went on"), std::string::npos);
}

// --- on this host ----------------------------------------------------------------------------------------------------

class LiveCommand : public testing::Test {
 protected:
  void SetUp() override {
    try {
      const TraceDirectory directory{{}};
    } catch (const Error& error) {
      GTEST_SKIP() << error.why();
    }
    must_run({"truncate", "-s", "256M", file("disk").string()});
    must_run({"mkfs.ext4", "-q", "-F", file("disk").string()});
    loop_.emplace(file("disk"));
    if (!*loop_)
      GTEST_SKIP() << "no loop devices here: " << loop_->why();
    mounted_.emplace(loop_->path(), file("mnt"), "rw");
    ASSERT_TRUE(*mounted_) << mounted_->why();
  }
  fs::path file(const std::string& name) const { return dir_.path() / name; }
  std::vector<std::string> argv(const fs::path& to) const {
    return capture_argv(command("kvm-p2v"), loop_->path().string(), to);
  }
  void expect_refused(const fs::path& to) const {
    const ProcessResult result = run_process(argv(to), 60s);
    EXPECT_EQ(result.exit_code, 1) << result.out << result.err;
    const json event = event_of(result.out, "error");
    EXPECT_EQ(event.value("code", ""), "USAGE") << result.out;
    EXPECT_EQ(event.value("summary", ""), "a running machine can't be captured onto its own disk") << result.out;
  }

  const TempDir dir_;
  std::optional<LoopDisk> loop_;
  std::optional<Mounted> mounted_;
};

TEST_F(LiveCommand, NotOntoItsOwnDisk) {
  expect_refused(file("mnt"));
  expect_refused(file("mnt") / "a/b");
  EXPECT_FALSE(fs::exists(file("mnt") / "a")) << "left behind";
  fs::create_directory_symlink(file("mnt"), file("link"));
  expect_refused(file("link") / "a");
  // On a filesystem in a file on it.
  must_run({"truncate", "-s", "16M", (file("mnt") / "inner").string()});
  must_run({"mkfs.ext4", "-q", "-F", (file("mnt") / "inner").string()});
  const LoopDisk inner(file("mnt") / "inner");
  const Mounted there(inner.path(), file("there"), "rw");
  ASSERT_TRUE(there) << there.why();
  expect_refused(there.path() / "a");
}

TEST_F(LiveCommand, WhatWasSyncedArrives) {
  LiveWriter writer(mounted_->path());
  writer.run_until(30);
  const ProcessResult result = run_process(argv(file("out")), 120s);
  EXPECT_EQ(result.exit_code, 3) << result.out << result.err;
  const auto offset = wall_offset();
  writer.stop();
  const json outcome = event_of(result.out, "result");
  ASSERT_TRUE(outcome.is_object()) << result.out;
  std::cout << story_of(result.out, outcome);
  EXPECT_GE(outcome["passes"], 2);
  mounted_.reset(); // two of one UUID can't be mounted
  const Mounted there(file("out") / "live-sda.img", file("there"), "loop");
  ASSERT_TRUE(there) << there.why();
  const auto verdict = writer.log().compare(there.path(), frozen_at(outcome, offset));
  EXPECT_EQ(verdict.wrong, std::vector<std::string>());
  EXPECT_GT(verdict.compared, 20U);
  std::cout << "  " << verdict.compared << " compared\n";
}

TEST_F(LiveCommand, InterruptedItLeavesNothingFrozen) {
  LiveWriter writer(mounted_->path());
  writer.run_until(30);
  for (const auto& [stage, number] : {std::pair("map", SIGINT), std::pair("capture", SIGINT),
                                      std::pair("freeze", SIGINT), std::pair("freeze", SIGKILL)}) {
    interrupt(argv(file("out")), file("log"), stage, number, loop_->device());
    fs::remove_all(file("out"));
  }
  const unsigned before = writer.written();
  writer.run_until(before + 5);
  writer.stop();
}

} // namespace
} // namespace kvmport::test
