// SPDX-License-Identifier: Apache-2.0
// What `kvm-v2v convert` refuses: the code, exit status 2, and nothing under a final name afterwards.
#include "base/file.h"
#include "tests/cli/support.h"
#include "tests/support/guests.h"
#include "tests/support/tempdir.h"

#include <functional>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <thread>

namespace fs = std::filesystem;
using nlohmann::json;

namespace kvmport::test {
namespace {

void expect_refusal(const std::vector<std::string>& sources, const fs::path& out, const std::string& code,
                    std::vector<std::string> options = {}) {
  options.insert(options.end(), {"--no-boot", "--json", "--name", "r"});
  const ProcessResult result = run_process(convert_argv(sources, out, options), std::chrono::minutes(15));
  EXPECT_EQ(result.exit_code, 2) << result.out << result.err;
  const json event = last_event(result);
  ASSERT_TRUE(event.is_object()) << result.out;
  EXPECT_EQ(event["event"], "error");
  EXPECT_EQ(event["code"], code) << event;
  EXPECT_EQ(names_in(out), std::vector<std::string>{}) << "left behind";
}

struct Refusal {
  const char* name;
  const char* code;
  /// Makes the source in `dir` and returns what to convert.
  std::function<std::vector<std::string>(const fs::path& dir)> make;
};

const std::vector<Refusal>& quick_refusals() {
  static const std::vector<Refusal> all{
      {"missing", "NOT_FOUND", [](const fs::path& d) { return std::vector<std::string>{(d / "none.img").string()}; }},
      {"truncated_qcow2", "DISK_TRUNCATED",
       [](const fs::path& d) {
         const fs::path disk = disk_as(d, "qcow2");
         fs::resize_file(disk, fs::file_size(disk) / 2);
         return std::vector{disk.string()};
       }},
      {"truncated_stream_vmdk", "DISK_TRUNCATED",
       [](const fs::path& d) {
         const fs::path disk = disk_as(d, "vmdk", {"-o", "subformat=streamOptimized"});
         fs::resize_file(disk, fs::file_size(disk) * 6 / 10);
         return std::vector{disk.string()};
       }},
      {"encrypted", "IMAGE_ENCRYPTED",
       [](const fs::path& d) {
         const fs::path disk = disk_as(d, "qcow2");
         poke(disk, 35, 1); // crypt_method, big-endian at 32
         return std::vector{disk.string()};
       }},
      {"marked_corrupt", "IMAGE_CORRUPT",
       [](const fs::path& d) {
         const fs::path disk = disk_as(d, "qcow2");
         poke(disk, 79, 2); // incompatible features, bit 1
         return std::vector{disk.string()};
       }},
      {"backing_file_outside", "PATH_NOT_ALLOWED",
       [](const fs::path& d) {
         const fs::path disk = d / "o.qcow2";
         must_run(
             {"qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", disk.string(), "1M"});
         return std::vector{disk.string()};
       }},
      {"suspended_vmx", "SOURCE_SUSPENDED",
       [](const fs::path& d) {
         disk_as(d, "vmdk");
         write_file_durably(d / "vm.vmss", "memory");
         return std::vector{write_vmx(d, "disk.vmdk").string()};
       }},
      {"snapshot_without_base", "SNAPSHOT_CHAIN_INCOMPLETE",
       [](const fs::path& d) {
         const fs::path base = disk_as(d, "vmdk");
         must_run({"qemu-img", "create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", "disk.vmdk", "disk-000001.vmdk"}, d);
         fs::remove(base);
         return std::vector{write_vmx(d, "disk-000001.vmdk").string()};
       }},
      {"disk_of_vmx_outside", "PATH_NOT_ALLOWED",
       [](const fs::path& d) { return std::vector{write_vmx(d, "../../../etc/passwd").string()}; }},
      {"file_missing_from_manifest", "MANIFEST_MISMATCH",
       [](const fs::path& d) {
         disk_as(d, "vmdk", {"-o", "subformat=streamOptimized"});
         write_file_durably(d / "vm.ovf", ovf({"vm"}));
         write_file_durably(d / "vm.mf", "SHA256(vm.ovf)= " + sha256_of(d / "vm.ovf") + "\n");
         return std::vector{(d / "vm.ovf").string()};
       }},
      {"disk_differs_from_manifest", "MANIFEST_MISMATCH",
       [](const fs::path& d) {
         const fs::path disk = disk_as(d, "vmdk", {"-o", "subformat=streamOptimized"});
         write_file_durably(d / "vm.ovf", ovf({"vm"}));
         write_file_durably(d / "vm.mf", "SHA256(vm.ovf)= " + sha256_of(d / "vm.ovf") +
                                             "\nSHA256(disk.vmdk)= " + std::string(64, '0') + "\n");
         return std::vector{(d / "vm.ovf").string()};
       }},
      {"ovf_without_memory", "MEMORY_MISSING",
       [](const fs::path& d) {
         disk_as(d, "vmdk", {"-o", "subformat=streamOptimized"});
         write_file_durably(d / "vm.ovf", ovf({"vm"}, false));
         return std::vector{(d / "vm.ovf").string()};
       }},
      {"xml_with_entities", "DESCRIPTION_INVALID",
       [](const fs::path& d) {
         write_file_durably(d / "d.xml",
                            "<!DOCTYPE d [<!ENTITY a \"b\">]><domain type='kvm'><name>&a;</name></domain>");
         return std::vector{(d / "d.xml").string()};
       }},
  };
  return all;
}

class QuickRefusals : public testing::TestWithParam<Refusal> {};
void PrintTo(const Refusal& refusal, std::ostream* out) {
  *out << refusal.name;
}

TEST_P(QuickRefusals, NameTheirCodeAndLeaveNothing) {
  TempDir dir;
  fs::create_directory(dir.path() / "in");
  const auto sources = GetParam().make(dir.path() / "in");
  std::map<std::string, std::string> before = digests(dir.path() / "in");
  expect_refusal(sources, dir.path() / "out", GetParam().code, {"--disk-only"});
  EXPECT_EQ(digests(dir.path() / "in"), before) << "the source was written";
}

INSTANTIATE_TEST_SUITE_P(All, QuickRefusals, testing::ValuesIn(quick_refusals()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Refusals, RunningSource) {
  TempDir dir;
  fs::create_directory(dir.path() / "in");
  const fs::path disk = disk_as(dir.path() / "in", "qcow2");
  Child writer({"qemu-nbd", "-t", "-k", (dir.path() / "sock").string(), "-f", "qcow2", disk.string()}, {});
  for (int i = 0; i < 200 && !fs::exists(dir.path() / "sock"); i++)
    writer.wait(std::chrono::milliseconds(50));
  expect_refusal({disk.string()}, dir.path() / "out", "SOURCE_RUNNING", {"--disk-only"});
}

TEST(Refusals, SourceThatChangesMeanwhile) {
  TempDir dir;
  fs::create_directory(dir.path() / "in");
  const fs::path disk = dir.path() / "in/raw.img", out = dir.path() / "out";
  make_pattern_file(disk, 512U << 20, 3);
  Child child(convert_argv({disk.string()}, out, {"--disk-only", "--no-boot", "--quiet", "--name", "r"}), {});
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while ((!fs::exists(out) || fs::is_empty(out)) && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  poke(disk, 4096, 1);
  const auto ended = child.wait(std::chrono::minutes(2));
  ASSERT_TRUE(ended.has_value());
  EXPECT_EQ(*ended, 2);
  EXPECT_TRUE(names_in(out).empty()) << testing::PrintToString(names_in(out));
}

TEST(Refusals, ExistingOutputIsKept) {
  TempDir dir;
  fs::create_directories(dir.path() / "in");
  fs::create_directories(dir.path() / "out");
  const fs::path disk = disk_as(dir.path() / "in", "qcow2");
  write_file_durably(dir.path() / "out/r-sda.qcow2", "precious");
  const ProcessResult result = run_process(
      convert_argv({disk.string()}, dir.path() / "out", {"--disk-only", "--no-boot", "--json", "--name", "r"}),
      std::chrono::minutes(2));
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(last_event(result)["code"], "FILE_EXISTS");
  EXPECT_EQ(read_file(dir.path() / "out/r-sda.qcow2"), "precious");
}

TEST(Refusals, FullTargetDisk) {
  TempDir dir;
  fs::create_directories(dir.path() / "in");
  const fs::path disk = disk_as(dir.path() / "in", "qcow2");
  const fs::path small = dir.path() / "small";
  fs::create_directory(small);
  must_run({"mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small.string()});
  expect_refusal({disk.string()}, small, "DISK_FULL", {"--disk-only"});
  must_run({"umount", small.string()});
}

TEST(Refusals, UsageIsExitStatusOne) {
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{"convert"},
                                                    {"convert", "x", "-o", "y", "--format", "vhd"},
                                                    {"frobnicate"},
                                                    {"convert", "x"}}) {
    std::vector<std::string> argv{command("kvm-v2v").string()};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    EXPECT_EQ(run_process(argv, std::chrono::minutes(1)).exit_code, 1) << arguments.back();
  }
}

// These need the appliance to be sure.

TEST(GuestRefusals, EncryptedSystemWithoutItsKey) {
  TempDir dir;
  const fs::path disk = ext4_disk(dir.path(), "luks.img", small_system);
  encrypt(disk, dir.path() / "key");
  expect_refusal({disk.string()}, dir.path() / "out", "KEY_MISSING");
}

TEST(GuestRefusals, DamagedFilesystem) {
  TempDir dir;
  const fs::path disk = ext4_disk(dir.path(), "a.img", small_system);
  for (std::uint64_t at = 2048; at < 6144; at++) // the group descriptors of 1 KiB blocks
    poke(disk, at, static_cast<std::uint8_t>(at * 37 + 11));
  expect_refusal({disk.string()}, dir.path() / "out", "GUEST_UNCLEAN");
}

TEST(GuestRefusals, Windows) {
  TempDir dir;
  const fs::path disk = dir.path() / "windows.img", mounted = dir.path() / "mounted";
  { UniqueFd fd = create_new(disk); }
  fs::resize_file(disk, 32U << 20);
  fs::create_directories(mounted);
  must_run({"mkntfs", "-q", "-F", disk.string()});
  must_run({"ntfs-3g", disk.string(), mounted.string()});
  fs::create_directories(mounted / "Windows" / "System32");
  must_run({"umount", mounted.string()});
  // "userspace": without an appliance.
  expect_refusal({disk.string()}, dir.path() / "out", "GUEST_UNSUPPORTED", {"--guest-access", "userspace"});
  const ProcessResult result =
      run_process(convert_argv({disk.string()}, dir.path() / "out", {"--no-boot"}), std::chrono::minutes(5));
  EXPECT_NE(result.err.find("the guest is Windows (/dev/sda)"), std::string::npos) << result.err;
}

TEST(GuestRefusals, NoOperatingSystem) {
  TempDir dir;
  const fs::path disk =
      ext4_disk(dir.path(), "data.img", [](const fs::path& tree) { write_file_durably(tree / "a", "a"); });
  expect_refusal({disk.string()}, dir.path() / "out", "GUEST_NOT_FOUND");
}

TEST(GuestRefusals, SeveralOperatingSystems) {
  TempDir dir;
  std::vector<std::string> disks;
  for (const char* name : {"a.img", "b.img"})
    disks.push_back(ext4_disk(dir.path(), name, small_system).string());
  expect_refusal(disks, dir.path() / "out", "GUEST_AMBIGUOUS");
}

/// Both ways take the original, which the copy's fstab names by its UUID.
TEST(GuestRefusals, ACopyOfTheSystemIsNoOtherSystem) {
  TempDir dir;
  const auto copy_of_a = [](const fs::path& tree) {
    small_system(tree);
    write_file_durably(tree / "etc/fstab", "# both\nUUID=00000000-1111-2222-3333-444444444444 / ext4 defaults 0 1\n");
  };
  std::vector<std::string> argv{command("kvm-v2v").string(), "inspect", "--json"};
  for (const char* name : {"copy.img", "original.img"})
    argv.push_back(ext4_disk(dir.path(), name, copy_of_a).string());
  must_run({"tune2fs", "-U", "00000000-1111-2222-3333-444444444444", argv.back()});
  for (const char* access : {"userspace", "appliance"}) {
    argv.insert(argv.end(), {"--guest-access", access});
    const ProcessResult result = run_process(argv, std::chrono::minutes(10));
    EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
    EXPECT_EQ(last_event(result).value("root_device", ""), "/dev/sdb") << result.out;
    argv.resize(argv.size() - 2);
  }
}

TEST(GuestRefusals, Hibernated) {
  TempDir dir;
  const fs::path disk = ext4_disk(dir.path(), "a.img", small_system);
  const fs::path swap = dir.path() / "swap.img";
  { UniqueFd fd = create_new(swap); }
  fs::resize_file(swap, 16U << 20);
  must_run({"mkswap", swap.string()});
  UniqueFd fd = open_existing(swap);
  write_exact(fd.get(), 4086, as_bytes("S1SUSPEND\0"), "swap");
  expect_refusal({disk.string(), swap.string()}, dir.path() / "out", "GUEST_HIBERNATED");
}

} // namespace
} // namespace kvmport::test
