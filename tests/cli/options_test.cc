// SPDX-License-Identifier: Apache-2.0
// Each option of `kvm-v2v convert` that the other whole-command tests do not use: what it changes.
#include "base/file.h"
#include "tests/cli/support.h"
#include "tests/support/guests.h"
#include "tests/support/tempdir.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

namespace kvmport::test {
namespace {

class ConvertOptions : public testing::Test {
 protected:
  ConvertOptions() {
    fs::create_directories(in());
    fs::create_directories(elsewhere());
  }
  fs::path in() const { return dir_.path() / "in"; }
  fs::path elsewhere() const { return dir_.path() / "elsewhere"; }
  fs::path out() const { return dir_.path() / "out"; }
  ProcessResult convert(const std::vector<std::string>& sources, std::vector<std::string> options) const {
    options.insert(options.end(), {"--json", "--name", "r"});
    return run_process(convert_argv(sources, out(), options), std::chrono::minutes(20));
  }
  ProcessResult convert(const fs::path& source, std::vector<std::string> options) const {
    return convert(std::vector{source.string()}, std::move(options));
  }
  /// Copies without a look inside.
  ProcessResult copy(const fs::path& source, std::vector<std::string> options) const {
    options.insert(options.end(), {"--disk-only", "--no-boot"});
    return convert(source, std::move(options));
  }
  json report() const { return json::parse(read_file(out() / "r.report.json", 256U << 20)); }

  TempDir dir_{guest_cache()};
};

TEST_F(ConvertOptions, AllowDirectoryWidensWhereDisksMayLie) {
  const fs::path disk = disk_as(elsewhere(), "vmdk");
  const fs::path vmx = write_vmx(in(), disk.string());
  EXPECT_EQ(last_event(copy(vmx, {})).value("code", ""), "PATH_NOT_ALLOWED");
  ASSERT_EQ(copy(vmx, {"--allow-directory", elsewhere().string()}).exit_code, 3);
  must_run({"qemu-img", "compare", disk.string(), (out() / "r-sda.qcow2").string()});
}

TEST_F(ConvertOptions, DiskSaysWhereADiskLies) {
  const fs::path disk = disk_as(elsewhere(), "vmdk");
  const fs::path vmx = write_vmx(in(), "gone.vmdk");
  EXPECT_EQ(last_event(copy(vmx, {})).value("code", ""), "DISK_MISSING");
  ASSERT_EQ(copy(vmx, {"--disk", "gone.vmdk=" + disk.string()}).exit_code, 3);
  must_run({"qemu-img", "compare", disk.string(), (out() / "r-sda.qcow2").string()});
}

TEST_F(ConvertOptions, SelectTakesOneMachineOfSeveral) {
  disk_as(in(), "vmdk", {"-o", "subformat=streamOptimized"});
  write_file_durably(in() / "vm.ovf", ovf({"web", "db"}));
  EXPECT_EQ(last_event(copy(in() / "vm.ovf", {})).value("code", ""), "MACHINE_AMBIGUOUS");
  const ProcessResult chosen = copy(in() / "vm.ovf", {"--select", "db"});
  ASSERT_EQ(chosen.exit_code, 3) << chosen.out;
  EXPECT_EQ(report()["source"]["name"], "db") << report()["source"];
  EXPECT_EQ(report()["name"], "r");
}

TEST_F(ConvertOptions, InputFormatOverridesTheProbe) {
  const fs::path disk = disk_as(in(), "qcow2");
  ASSERT_EQ(copy(disk, {"--input-format", "raw", "--format", "raw"}).exit_code, 3);
  must_run({"qemu-img", "compare", "-f", "raw", "-F", "raw", disk.string(), (out() / "r-sda.img").string()});
}

TEST_F(ConvertOptions, CompressMakesASmallerDiskOfTheSameContent) {
  const fs::path disk = disk_as(in(), "qcow2");
  ASSERT_EQ(copy(disk, {"--compress", "zstd"}).exit_code, 3);
  EXPECT_LT(fs::file_size(out() / "r-sda.qcow2"), fs::file_size(disk));
  must_run({"qemu-img", "compare", disk.string(), (out() / "r-sda.qcow2").string()});
}

TEST_F(ConvertOptions, ForceReplaces) {
  const fs::path disk = disk_as(in(), "qcow2");
  fs::create_directories(out());
  write_file_durably(out() / "r-sda.qcow2", "old");
  EXPECT_EQ(last_event(copy(disk, {})).value("code", ""), "FILE_EXISTS");
  ASSERT_EQ(copy(disk, {"--force"}).exit_code, 3);
  must_run({"qemu-img", "compare", disk.string(), (out() / "r-sda.qcow2").string()});
}

TEST_F(ConvertOptions, QuietSaysOnlyTheOutcome) {
  const fs::path disk = disk_as(in(), "qcow2");
  const ProcessResult quiet =
      run("kvm-v2v", {"convert", disk.string(), "-o", out().string(), "--disk-only", "--no-boot", "--quiet"});
  EXPECT_EQ(quiet.exit_code, 3);
  EXPECT_THAT(quiet.err, IsEmpty());
  EXPECT_THAT(quiet.out, HasSubstr("not proven"));
  EXPECT_THAT(quiet.out, Not(HasSubstr("%")));
}

TEST_F(ConvertOptions, RootNamesTheSystemOfSeveral) {
  const fs::path other = ext4_disk(in(), "other.img", small_system);
  const ProcessResult plan =
      convert({(make_guest("mini") / "sda.raw").string(), other.string()}, {"--root", "/dev/sda1", "--dry-run"});
  EXPECT_EQ(plan.exit_code, 0) << plan.out;
  EXPECT_THAT(plan.out, HasSubstr("/boot/grub/grub.cfg"));
  EXPECT_FALSE(fs::exists(out()));
}

TEST_F(ConvertOptions, KeyOpensAnEncryptedSystem) {
  // The partition of mini as an encrypted disk: enough for a plan.
  const fs::path disk = in() / "luks.img", key = in() / "key";
  must_run({"dd", "if=" + (make_guest("mini") / "sda.raw").string(), "of=" + disk.string(), "bs=1M", "skip=1",
            "conv=sparse", "status=none"});
  encrypt(disk, key);
  write_file_durably(in() / "wrong", "guess\n");
  EXPECT_EQ(
      last_event(convert(disk, {"--dry-run", "--key", "/dev/sda=" + (in() / "wrong").string()})).value("code", ""),
      "KEY_MISSING");
  const ProcessResult plan = convert(disk, {"--dry-run", "--key", "/dev/sda=" + key.string()});
  EXPECT_EQ(plan.exit_code, 0) << plan.out;
  EXPECT_THAT(plan.out, HasSubstr("/boot/initrd.img-"));
}

TEST_F(ConvertOptions, ProofTakesTheEngineMilestoneAndTimeAsked) {
  const fs::path disk = make_guest("mini") / "sda.raw";
  EXPECT_EQ(last_event(convert(disk, {"--engine", "bochs"})).value("code", ""), "ENGINE_UNKNOWN");
  EXPECT_THAT(names_in(out()), IsEmpty());

  const ProcessResult hurried = convert(disk, {"--engine", "qemu", "--timeout", "1"});
  EXPECT_EQ(hurried.exit_code, 3) << hurried.out;
  EXPECT_EQ(report()["boot"]["diagnosis"]["code"], "BOOT_TIMEOUT") << report()["boot"];

  const ProcessResult proven =
      convert(disk, {"--engine", "qemu", "--until", "bootloader", "--timeout", "200", "--force"});
  EXPECT_EQ(proven.exit_code, 0) << proven.out;
  EXPECT_EQ(report()["boot"]["reached"].back()["milestone"], "bootloader");
}

/// The reference guest has no console= for the serial port: without the instrumented overlay, it speaks to the screen
/// only.
TEST_F(ConvertOptions, NoInstrumentLeavesTheSerialConsoleAlone) {
  const fs::path disk = make_guest("reference") / "sda.raw";
  for (const bool instrument : {true, false}) {
    std::vector<std::string> options{"--until", "kernel", "--force"};
    if (!instrument)
      options.emplace_back("--no-instrument");
    const ProcessResult result = convert(disk, options);
    ASSERT_EQ(result.exit_code, 0) << result.out;
    const bool spoke = read_file(out() / "r.serial.log").find("Linux version") != std::string::npos;
    EXPECT_EQ(spoke, instrument);
  }
}

} // namespace
} // namespace kvmport::test
