// SPDX-License-Identifier: Apache-2.0
// kvm-boot and kvm-host as whole commands.
#include "base/file.h"
#include "tests/cli/support.h"
#include "tests/support/guests.h"
#include "tests/support/tempdir.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace fs = std::filesystem;
using nlohmann::json;
using testing::Contains;
using testing::HasSubstr;

namespace kvmport::test {
namespace {

json result_of(const ProcessResult& process) {
  return event_of(process, "result");
}

TEST(KvmBoot, GuestOnItsOldHardwareIsProvenToLogin) {
  const fs::path disk = make_guest("mini") / "sda.raw";
  const std::string before = sha256_of(disk);
  const TempDir temp;
  const auto boot = run("kvm-boot", {"--json", "--bus", "ide", "--memory", "256", "--serial", temp.path() / "serial",
                                     "--screenshot", temp.path() / "screen.png", disk});
  EXPECT_EQ(boot.exit_code, 0) << boot.err;
  const json verdict = result_of(boot);
  EXPECT_EQ(verdict.at("proven"), true);
  EXPECT_EQ(verdict.at("reached").back().at("milestone"), "login");
  EXPECT_THAT(verdict.at("reached").back().at("evidence").get<std::string>(), HasSubstr("login:"));
  EXPECT_GT(verdict.at("cpu_ms"), 0);
  EXPECT_FALSE(verdict.contains("diagnosis"));
  EXPECT_THAT(read_file(temp.path() / "serial"), HasSubstr("Linux version"));
  EXPECT_EQ(read_file(temp.path() / "screen.png").substr(1, 3), "PNG");
  EXPECT_EQ(sha256_of(disk), before) << "the source was written";
}

TEST(KvmBoot, UnconvertedGuestOnVirtioIsNotProven) {
  const fs::path disk = make_guest("mini") / "sda.raw";
  const auto boot = run("kvm-boot", {"--memory", "256", disk});
  EXPECT_EQ(boot.exit_code, 3) << boot.err;
  EXPECT_THAT(boot.out, HasSubstr("not proven: ROOT_DEVICE_MISSING"));
  EXPECT_THAT(boot.out, HasSubstr("| ALERT!  /dev/sda1 does not exist."));
  EXPECT_THAT(boot.err, HasSubstr("initramfs after")) << "milestones are told as they come";
}

/// A guest whose kernel has no console at all is proven by what it does to its disk.
TEST(KvmBoot, SilentGuestIsProvenByItsDisk) {
  const TempDir temp;
  const fs::path disk = make_guest("silent") / "sda.raw";
  const auto boot =
      run("kvm-boot", {"--json", "--engine", "qemu", "--memory", "256", "--serial", temp.path() / "serial", disk});
  EXPECT_EQ(boot.exit_code, 0) << boot.out << boot.err;
  const json verdict = result_of(boot);
  EXPECT_EQ(verdict.at("proven"), true);
  for (const char* milestone : {"root", "init", "login"}) {
    const auto& reached = verdict.at("reached");
    const auto hit =
        std::find_if(reached.begin(), reached.end(), [&](const json& h) { return h.at("milestone") == milestone; });
    ASSERT_NE(hit, reached.end()) << milestone;
    EXPECT_EQ(hit->at("source"), "disk");
  }
  EXPECT_THAT(verdict.at("reached").back().at("evidence").get<std::string>(), HasSubstr("/sbin/getty was read"));
  EXPECT_EQ(read_file(temp.path() / "serial"), "");
}

/// The same guest, but its init never starts a getty, or none of its programs at all: nothing says so, and nothing
/// proves.
TEST(KvmBoot, SilentGuestThatStopsIsNotProven) {
  const TempDir temp(guest_cache());
  struct Stop {
    const char *commands, *last, *timeout;
  };
  for (const Stop& stop : {Stop{"rm /etc/inittab\nwrite inittab /etc/inittab\n", "init", "20"},
                           Stop{"rm /usr/sbin/init\nsymlink /usr/sbin/init ../bin/none\n", "bootloader", "8"}}) {
    const fs::path disk = temp.path() / "silent.raw";
    fs::copy_file(make_guest("silent") / "sda.raw", disk, fs::copy_options::overwrite_existing);
    write_file_durably(temp.path() / "inittab", "::sysinit:/etc/init.d/rcS\n");
    write_file_durably(temp.path() / "commands", stop.commands);
    must_run({"debugfs", "-w", "-f", "commands", disk.string() + "?offset=1048576"}, temp.path());
    const auto boot =
        run("kvm-boot", {"--json", "--engine", "qemu", "--memory", "256", "--timeout", stop.timeout, disk});
    EXPECT_EQ(boot.exit_code, 3) << boot.out << boot.err;
    const json verdict = result_of(boot);
    EXPECT_EQ(verdict.at("proven"), false);
    EXPECT_EQ(verdict.at("reached").back().at("milestone"), stop.last);
    EXPECT_THAT(verdict.at("diagnosis").at("code").get<std::string>(), testing::AnyOf("BOOT_TIMEOUT", "BOOT_HANG"));
  }
}

TEST(KvmBoot, DomainDescriptionGivesTheHardware) {
  const TempDir temp(guest_cache());
  const auto sources = package_guest(make_guest("mini"), "libvirt", temp.path() / "source");
  std::vector<std::string> arguments{"--json", "--until", "bootloader"};
  arguments.insert(arguments.end(), sources.begin(), sources.end());
  const auto boot = run("kvm-boot", arguments);
  EXPECT_EQ(boot.exit_code, 0) << boot.err;
  EXPECT_EQ(result_of(boot).at("reached").back().at("milestone"), "bootloader");
}

/// The built-in engine gets a converted disk's own boot loader to run, whatever its format.
TEST(KvmBoot, BuiltInEngineBootsARealDisk) {
  if (run("kvm-host", {"check"}).out.find("none") != std::string::npos)
    GTEST_SKIP() << "the built-in engine was not tested: there is no /dev/kvm";
  const TempDir temp(guest_cache());
  const fs::path qcow2 = temp.path() / "mini.qcow2", raw = make_guest("mini") / "sda.raw";
  must_run({"qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw.string(), qcow2.string()});
  for (const fs::path& disk : {raw, qcow2}) {
    const auto boot = run("kvm-boot", {"--json", "--engine", "kvm", "--until", "bootloader", "--memory", "256", disk});
    EXPECT_EQ(boot.exit_code, 0) << boot.err;
    const json verdict = result_of(boot);
    EXPECT_EQ(verdict.at("engine"), "kvm");
    EXPECT_THAT(verdict.at("reached").back().at("evidence").get<std::string>(), HasSubstr("GRUB"));
  }
}

TEST(KvmBoot, EmptyDiskIsNotProven) {
  const TempDir temp;
  write_file_durably(temp.path() / "empty.raw", std::string(1U << 20, '\0'));
  const auto boot = run("kvm-boot", {"--json", "--bus", "sata", temp.path() / "empty.raw"});
  EXPECT_EQ(boot.exit_code, 3);
  const json verdict = result_of(boot);
  EXPECT_EQ(verdict.at("proven"), false);
  EXPECT_EQ(verdict.at("diagnosis").at("code"), "NO_BOOTABLE_DEVICE");
  EXPECT_FALSE(verdict.at("diagnosis").at("lines").empty());
}

struct Refusal {
  const char* name;
  std::vector<std::string> arguments;
  int exit_code;
  const char* text;
};

class KvmBootRefuses : public testing::TestWithParam<Refusal> {};

TEST_P(KvmBootRefuses, ByName) {
  const auto boot = run("kvm-boot", GetParam().arguments);
  EXPECT_EQ(boot.exit_code, GetParam().exit_code);
  EXPECT_THAT(boot.err, HasSubstr(GetParam().text));
}

INSTANTIATE_TEST_SUITE_P(
    All, KvmBootRefuses,
    testing::Values(
        Refusal{"nothing", {}, 1, "USAGE"},
        Refusal{"unknown_milestone", {"--until", "desktop", "/dev/null"}, 1, "USAGE"},
        Refusal{"unknown_diagnosis", {"--explain", "NONSENSE"}, 1, "BOOT_LOOP"},
        Refusal{"initrd_without_kernel", {"--initrd", "/dev/null", "disk"}, 1, "--initrd requires --kernel"},
        Refusal{
            "kernel_and_uefi", {"--kernel", "/proc/version", "--firmware", "uefi"}, 1, "--kernel excludes --firmware"},
        Refusal{"missing_kernel", {"--kernel", "/nonexistent/k"}, 1, "USAGE"},
        Refusal{"missing_disk", {"/nonexistent/disk"}, 2, "NOT_FOUND"},
        Refusal{"not_a_disk", {"/dev/null"}, 2, "NOT_A_DISK"}),
    [](const auto& param_info) { return param_info.param.name; });

TEST(KvmBoot, CpusAreGiven) {
  const TempDir temp;
  const auto boot = run("kvm-boot", {"--bus", "ide", "--memory", "256", "--cpus", "2", "--until", "initramfs",
                                     "--serial", temp.path() / "serial", make_guest("mini") / "sda.raw"});
  EXPECT_EQ(boot.exit_code, 0) << boot.out << boot.err;
  EXPECT_THAT(read_file(temp.path() / "serial"), HasSubstr("Brought up 1 node, 2 CPUs"));
}

/// A kernel of this host with its initrd, without any disk.
TEST(KvmBoot, KernelIsStartedWithoutBootLoader) {
  fs::path kernel;
  for (const auto& entry : fs::directory_iterator("/boot"))
    if (entry.path().filename().string().starts_with("vmlinuz-"))
      kernel = entry.path();
  fs::path initrd = kernel;
  initrd.replace_filename("initrd.img-" +
                          kernel.filename().string().substr(std::min<std::size_t>(8, kernel.string().size())));
  if (!fs::exists(initrd))
    GTEST_SKIP() << "direct boot was not tested: there is no kernel with an initrd in /boot";
  const TempDir temp;
  const auto boot = run("kvm-boot", {"--json", "--engine", "qemu", "--until", "initramfs", "--memory", "512",
                                     "--kernel", kernel, "--initrd", initrd, "--append", "console=ttyS0 kvmport.test=1",
                                     "--serial", temp.path() / "serial"});
  EXPECT_EQ(boot.exit_code, 0) << boot.out << boot.err;
  EXPECT_EQ(result_of(boot).at("reached").back().at("milestone"), "initramfs");
  EXPECT_THAT(read_file(temp.path() / "serial"), HasSubstr("Command line: console=ttyS0 kvmport.test=1"));
}

TEST(KvmBoot, BuiltInEngineRefusesWhatIsNoKernel) {
  if (run("kvm-host", {"check"}).out.find("none") != std::string::npos)
    GTEST_SKIP() << "the built-in engine was not tested: there is no /dev/kvm";
  const TempDir temp;
  write_file_durably(temp.path() / "kernel", std::string(4096, 'k'));
  const auto boot = run("kvm-boot", {"--json", "--engine", "kvm", "--kernel", temp.path() / "kernel"});
  EXPECT_EQ(boot.exit_code, 2);
  const json error = event_of(boot, "error");
  EXPECT_EQ(error.at("code"), "KERNEL_IMAGE_INVALID");
  EXPECT_THAT(error.at("hint").get<std::string>(), HasSubstr("vmlinuz"));
}

TEST(KvmBoot, TimeoutIsKept) {
  const auto boot = run("kvm-boot", {"--json", "--timeout", "1", make_guest("mini") / "sda.raw"});
  EXPECT_EQ(boot.exit_code, 3);
  EXPECT_EQ(result_of(boot).at("diagnosis").at("code"), "BOOT_TIMEOUT");
}

TEST(KvmBoot, InputFormatOverridesTheProbe) {
  const TempDir temp;
  const fs::path disk = disk_as(temp.path(), "qcow2");
  const auto boot = run("kvm-boot", {"--json", "--input-format", "vdi", disk});
  EXPECT_EQ(boot.exit_code, 2);
  EXPECT_THAT(boot.out, HasSubstr("VDI"));
}

TEST(KvmBoot, UefiStartsFromTheGivenVariablesAndKeepsThem) {
  const TempDir temp;
  const fs::path disk = temp.path() / "empty.raw", variables = temp.path() / "vars.fd";
  write_file_durably(disk, std::string(1U << 20, '\0'));
  fs::copy_file("/usr/share/OVMF/OVMF_VARS_4M.fd", variables);
  const std::string before = sha256_of(variables);
  const auto boot = run("kvm-boot", {"--json", "--firmware", "uefi", "--nvram", variables, disk});
  EXPECT_EQ(boot.exit_code, 3) << boot.err;
  EXPECT_THAT(result_of(boot).at("diagnosis").at("code").get<std::string>(), testing::StartsWith("UEFI_"));
  EXPECT_EQ(sha256_of(variables), before);
  write_file_durably(temp.path() / "short.fd", "x");
  EXPECT_THAT(run("kvm-boot", {"--firmware", "uefi", "--nvram", temp.path() / "short.fd", disk}).err,
              HasSubstr("NVRAM_UNSUPPORTED"));
}

TEST(KvmBoot, QuietSaysOnlyTheOutcome) {
  const TempDir temp;
  write_file_durably(temp.path() / "empty.raw", std::string(1U << 20, '\0'));
  const auto boot = run("kvm-boot", {"--quiet", temp.path() / "empty.raw"});
  EXPECT_EQ(boot.exit_code, 3);
  EXPECT_EQ(boot.err, "");
  EXPECT_THAT(boot.out, HasSubstr("NO_BOOTABLE_DEVICE"));
}

TEST(KvmBoot, ExplainsItsDiagnoses) {
  const auto explained = run("kvm-boot", {"--explain", "ROOT_DEVICE_MISSING"});
  EXPECT_EQ(explained.exit_code, 0);
  EXPECT_THAT(explained.out, HasSubstr("driver for the new disk"));
}

/// The verdict of each line or row.
std::vector<std::string> verdicts(const json& rows) {
  std::vector<std::string> all;
  for (const json& row : rows)
    all.push_back(row.at("verdict"));
  return all;
}

TEST(KvmHost, ChecksTheHost) {
  const auto host = run("kvm-host", {"check", "--json", "--connect", "test:///default"});
  const json result = result_of(host);
  auto all = verdicts(result.at("checks"));
  const auto rows = verdicts(result.at("overcommit"));
  all.insert(all.end(), rows.begin(), rows.end());
  const bool good = std::all_of(all.begin(), all.end(), [](const auto& v) { return v == "ok" || v == "warning"; });
  EXPECT_EQ(host.exit_code, good ? 0 : 2);
  EXPECT_THAT(std::vector<std::string>({"full", "emulated", "none"}), Contains(result.at("kvm").get<std::string>()));
  EXPECT_FALSE(result.at("reasons").empty());
  EXPECT_THAT(result.at("engine").get<std::string>(), HasSubstr("qemu-"));
  EXPECT_THAT(result.at("qemu").get<std::string>(), HasSubstr("QEMU emulator version"));
  EXPECT_EQ(result.at("machines").at(0).at("name"), "test");
}

TEST(KvmHost, CountsPlannedMachines) {
  const TempDir temp;
  disk_as(temp.path(), "vmdk");
  const std::string vmx = write_vmx(temp.path(), "disk.vmdk");
  const auto plan = [&](const std::string& memory) {
    std::string text = read_file(vmx);
    text.replace(text.find("\"512\""), 5, "\"" + memory + "\"");
    write_file_durably(temp.path() / "plan.vmx", text);
    return run("kvm-host", {"check", "--json", "--connect", "", "--plan", (temp.path() / "plan.vmx").string(), "-o",
                            (temp.path() / "new").string()});
  };
  const json small = result_of(plan("512"));
  ASSERT_EQ(small.at("machines").size(), 1U);
  EXPECT_EQ(small.at("machines").at(0).at("planned"), true);
  EXPECT_EQ(small.at("machines").at(0).at("disks").at(0).at("virtual_size"), 8U << 20);
  EXPECT_THAT(verdicts(small.at("overcommit")), testing::Each("ok"));
  const auto large = plan("4194304"); // 4 TiB
  EXPECT_EQ(large.exit_code, 2);
  EXPECT_THAT(verdicts(result_of(large).at("overcommit")), Contains("over"));
  EXPECT_EQ(run("kvm-host", {"check", "--plan", (temp.path() / "none.vmx").string()}).exit_code, 2);
}

} // namespace
} // namespace kvmport::test
