// SPDX-License-Identifier: Apache-2.0
// Whole conversions of real guests, each given in another format, each booted to login afterwards.
#include "base/file.h"
#include "tests/support/guests.h"
#include "tests/support/tempdir.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

namespace fs = std::filesystem;
using nlohmann::json;

namespace kvmport::test {
namespace {

struct GuestCase {
  const char* guest;
  const char* format; ///< for package-guest
  std::vector<std::string> options;
};

void PrintTo(const GuestCase& c, std::ostream* out) {
  *out << c.guest << " as " << c.format;
}

class Guests : public testing::TestWithParam<GuestCase> {};

TEST_P(Guests, IsConvertedAndBootsToLogin) {
  const GuestCase& c = GetParam();
  const fs::path guest = make_guest(c.guest);
  TempDir dir(guest_cache());
  const fs::path out = dir.path() / "out";
  const auto sources = package_guest(guest, c.format, dir.path() / "source");
  const auto before = digests(dir.path() / "source");

  std::vector<std::string> options = c.options;
  options.insert(options.end(), {"--name", "result"});
  const ProcessResult result = run_process(convert_argv(sources, out, options), std::chrono::minutes(25));
  ASSERT_EQ(result.exit_code, 0) << result.out << result.err;

  EXPECT_EQ(digests(dir.path() / "source"), before) << "the source was written";
  const json report = json::parse(read_file(out / "result.report.json", 256U << 20));
  EXPECT_TRUE(report["proven"].get<bool>());
  EXPECT_EQ(report["boot"]["reached"].back()["milestone"], "login");
  must_run({"virt-xml-validate", (out / "result.xml").string(), "domain"});
  must_run({"sh", "-n", (out / "result.sh").string()});
  for (const auto& entry : fs::directory_iterator(out)) {
    EXPECT_EQ(entry.path().string().find(".partial"), std::string::npos) << entry.path();
    if (entry.path().extension() == ".qcow2")
      must_run({"qemu-img", "check", entry.path().string()});
  }
}

INSTANTIATE_TEST_SUITE_P(All, Guests,
                         testing::Values(GuestCase{"reference", "ova", {}}, GuestCase{"uefi-lvm", "vmx", {}},
                                         GuestCase{"dracut-xfs", "vhdx", {}}, GuestCase{"luks-data", "libvirt", {}},
                                         GuestCase{"sdboot", "vmx", {}}, GuestCase{"extlinux", "raw", {}},
                                         GuestCase{"mini", "vbox", {"--format", "raw"}}),
                         [](const auto& info) {
                           return identifier(std::string(info.param.guest) + "_as_" + info.param.format);
                         });

struct Unchanged {
  const char* guest;
  const char* diagnosis;
};

class Unconverted : public testing::TestWithParam<Unchanged> {};

/// The proof can fail: the same disks, unchanged, on the new hardware.
TEST_P(Unconverted, IsDiagnosed) {
  const std::string name = GetParam().guest;
  if (name != "mini" && name != "uefi-lvm")
    KVMPORT_ONLY_SLOW();
  const fs::path guest = make_guest(GetParam().guest);
  const json description = json::parse(read_file(guest / "guest.json"));
  std::vector<std::string> argv{command("kvm-boot").string(), "--json", "--bus", "virtio",
                                // dracut's systemd waits for its root without end: only the time-out ends that one.
                                "--timeout", "75", "--firmware", description["firmware"].get<std::string>()};
  for (const auto& disk : description["disks"])
    argv.push_back((guest / disk.get<std::string>()).string());
  const ProcessResult result = run_process(argv, std::chrono::minutes(25));
  EXPECT_EQ(result.exit_code, 3) << result.out << result.err;
  const json verdict = json::parse(result.out.substr(result.out.rfind('\n', result.out.size() - 2) + 1));
  EXPECT_EQ(verdict["diagnosis"]["code"], GetParam().diagnosis) << result.out;
  EXPECT_FALSE(verdict["diagnosis"]["lines"].empty());
}

INSTANTIATE_TEST_SUITE_P(
    All, Unconverted,
    testing::Values(Unchanged{"reference", "ROOT_DEVICE_MISSING"}, Unchanged{"uefi-lvm", "UEFI_SHELL"},
                    Unchanged{"dracut-xfs", "ROOT_DEVICE_MISSING"}, Unchanged{"luks-data", "ROOT_DEVICE_MISSING"},
                    Unchanged{"sdboot", "ROOT_DEVICE_MISSING"}, Unchanged{"extlinux", "ROOT_DEVICE_MISSING"},
                    Unchanged{"mini", "ROOT_DEVICE_MISSING"}),
    [](const auto& info) { return identifier(info.param.guest); });

TEST(DryRun, PrintsThePlanAndTouchesNothing) {
  const fs::path guest = make_guest("mini");
  TempDir dir(guest_cache());
  const fs::path out = dir.path() / "out";
  const auto sources = package_guest(guest, "vmx", dir.path() / "source");
  const auto before = digests(dir.path() / "source");
  const ProcessResult result = run_process(convert_argv(sources, out, {"--dry-run"}), std::chrono::minutes(10));
  ASSERT_EQ(result.exit_code, 0) << result.out << result.err;
  EXPECT_NE(result.out.find("/etc/fstab"), std::string::npos) << result.out;
  EXPECT_NE(result.out.find("/boot/grub/grub.cfg"), std::string::npos) << result.out;
  EXPECT_FALSE(fs::exists(out));
  EXPECT_EQ(digests(dir.path() / "source"), before);
}

/// Killed with SIGKILL at random moments, then run to its end: the same guest as without a kill, and nothing half-made
/// is left. KVMPORT_KILLS says how often (2).
TEST(Killed, TheNextRunGivesTheSameGuest) {
  const fs::path guest = make_guest("mini");
  TempDir dir(guest_cache());
  const auto sources = package_guest(guest, "vmx", dir.path() / "source");
  const auto before = digests(dir.path() / "source");
  const std::vector<std::string> options{"--no-boot", "--name", "m"};

  const auto start = std::chrono::steady_clock::now();
  const ProcessResult whole =
      run_process(convert_argv(sources, dir.path() / "whole", options), std::chrono::minutes(10));
  ASSERT_EQ(whole.exit_code, 3) << whole.out << whole.err;
  const auto duration = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start);
  const auto expected = tree_of(dir.path() / "whole" / "m-sda.qcow2", dir.path());

  const char* wish = std::getenv("KVMPORT_KILLS");
  const int kills = wish != nullptr ? std::atoi(wish) : 2;
  std::mt19937 random(std::random_device{}());
  for (int i = 0; i < kills; i++) {
    const auto moment = std::chrono::milliseconds(random() % static_cast<unsigned>(duration.count()));
    SCOPED_TRACE("killed after " + std::to_string(moment.count()) + " ms");
    const fs::path out = dir.path() / ("killed" + std::to_string(i));
    {
      Child child(convert_argv(sources, out, options), {});
      child.wait(moment);
    } // SIGKILL
    const ProcessResult again = run_process(convert_argv(sources, out, options), std::chrono::minutes(10));
    // The kill may have come after the last rename: then the work was done already.
    ASSERT_TRUE(again.exit_code == 3 || again.err.find("FILE_EXISTS") != std::string::npos) << again.out << again.err;
    EXPECT_EQ(tree_of(out / "m-sda.qcow2", dir.path()), expected);
    must_run({"qemu-img", "check", (out / "m-sda.qcow2").string()});
    for (const auto& entry : fs::directory_iterator(out))
      EXPECT_EQ(entry.path().string().find(".partial"), std::string::npos) << entry.path();
    EXPECT_TRUE(fs::exists(out / "m.report.json"));
    const json report = json::parse(read_file(out / "m.report.json", 256U << 20));
    std::printf("killed after %lld ms: %llu bytes re-used\n", static_cast<long long>(moment.count()),
                report["disks"][0]["reused_bytes"].get<unsigned long long>());
    fs::remove_all(out);
  }
  EXPECT_EQ(digests(dir.path() / "source"), before);
}

/// Killed while the guest boots: no QEMU lives on, nothing has a final name, and the next run re-uses the whole copy.
TEST(Killed, DuringTheProof) {
  const fs::path guest = make_guest("mini");
  TempDir dir(guest_cache());
  const auto sources = package_guest(guest, "vmx", dir.path() / "source");
  const fs::path out = dir.path() / "out", log = out / "m.serial.log.partial";
  std::string qemu;
  {
    Child child(convert_argv(sources, out, {"--name", "m"}), {});
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(5);
    while ((!fs::exists(log) || fs::file_size(log) == 0) && std::chrono::steady_clock::now() < deadline)
      ASSERT_FALSE(child.wait(std::chrono::milliseconds(20))) << "it ended before the guest spoke";
    for (const auto& task : fs::directory_iterator("/proc/" + std::to_string(child.pid()) + "/task"))
      qemu += read_file(task.path() / "children");
  } // SIGKILL
  ASSERT_FALSE(qemu.empty());
  qemu = qemu.substr(0, qemu.find(' '));
  for (int i = 0; i < 100 && fs::exists("/proc/" + qemu + "/exe"); i++)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(fs::exists("/proc/" + qemu + "/exe")) << "QEMU lives on";
  for (const auto& entry : fs::directory_iterator(out))
    EXPECT_NE(entry.path().string().find(".partial"), std::string::npos) << entry.path();

  const ProcessResult again =
      run_process(convert_argv(sources, out, {"--name", "m", "--no-boot"}), std::chrono::minutes(10));
  ASSERT_EQ(again.exit_code, 3) << again.out << again.err;
  must_run({"qemu-img", "check", (out / "m-sda.qcow2").string()});
  for (const auto& entry : fs::directory_iterator(out))
    EXPECT_EQ(entry.path().string().find(".partial"), std::string::npos) << entry.path();
  const json report = json::parse(read_file(out / "m.report.json", 256U << 20));
  EXPECT_GT(report["disks"][0]["reused_bytes"].get<std::uint64_t>(), 0U);
}

} // namespace
} // namespace kvmport::test
