// SPDX-License-Identifier: Apache-2.0
// What `kvm-v2v convert` refuses: the code, exit status 2, and nothing under a final name afterwards.
#include "base/file.h"
#include "tests/support/guests.h"
#include "tests/support/tempdir.h"

#include <functional>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sstream>

namespace fs = std::filesystem;
using nlohmann::json;

namespace kvmport::test {
namespace {

/// The last JSON object that a run printed.
json last_event(const ProcessResult& result) {
  std::istringstream lines(result.out);
  std::string line, last;
  while (std::getline(lines, line))
    if (!line.empty())
      last = line;
  return json::parse(last, nullptr, false);
}

void expect_refusal(const std::vector<std::string>& sources, const fs::path& out, const std::string& code,
                    std::vector<std::string> options = {}) {
  options.insert(options.end(), {"--no-boot", "--json", "--name", "r"});
  const ProcessResult result = run_process(convert_argv(sources, out, options), std::chrono::minutes(15));
  EXPECT_EQ(result.exit_code, 2) << result.out << result.err;
  const json event = last_event(result);
  ASSERT_TRUE(event.is_object()) << result.out;
  EXPECT_EQ(event["event"], "error");
  EXPECT_EQ(event["code"], code) << event;
  if (fs::exists(out)) {
    for (const auto& entry : fs::directory_iterator(out))
      ADD_FAILURE() << "left behind: " << entry.path();
  }
}

struct Refusal {
  const char* name;
  const char* code;
  /// Makes the source in `dir` and returns what to convert.
  std::function<std::vector<std::string>(const fs::path& dir)> make;
};

fs::path patterned(const fs::path& dir) {
  make_pattern_file(dir / "raw.img", 8U << 20, 7);
  return dir / "raw.img";
}

fs::path as(const fs::path& dir, const std::string& format, const std::vector<std::string>& options = {}) {
  const fs::path out = dir / ("disk." + format);
  std::vector<std::string> argv{"qemu-img", "convert", "-q", "-f", "raw", "-O", format};
  argv.insert(argv.end(), options.begin(), options.end());
  argv.insert(argv.end(), {patterned(dir).string(), out.string()});
  must_run(argv);
  fs::remove(dir / "raw.img");
  return out;
}

void poke(const fs::path& file, std::uint64_t offset, std::uint8_t value) {
  UniqueFd fd = open_existing(file);
  const std::byte b{value};
  write_exact(fd.get(), offset, {&b, 1}, file.string());
}

std::vector<std::string> vmx(const fs::path& dir, const std::string& disk) {
  write_file_durably(dir / "vm.vmx", "displayName = \"vm\"\nmemsize = \"512\"\nscsi0.present = \"TRUE\"\n"
                                     "scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"" +
                                         disk + "\"\n");
  return {(dir / "vm.vmx").string()};
}

/// An ext4 disk, whole, from the tree that `fill` makes.
fs::path ext4_disk(const fs::path& dir, const std::string& name, const std::function<void(const fs::path&)>& fill) {
  const fs::path tree = dir / (name + ".tree"), disk = dir / name;
  fs::create_directories(tree);
  fill(tree);
  must_run({"mke2fs", "-q", "-F", "-t", "ext4", "-d", tree.string(), disk.string(), "32M"});
  fs::remove_all(tree);
  return disk;
}

void small_system(const fs::path& tree) {
  for (const char* directory : {"etc", "usr/bin", "sbin", "boot/grub", "lib/modules"})
    fs::create_directories(tree / directory);
  write_file_durably(tree / "etc/os-release", "ID=test\nPRETTY_NAME=\"A test\"\n");
  write_file_durably(tree / "etc/fstab", "/dev/sda / ext4 defaults 0 1\n");
  write_file_durably(tree / "sbin/init", "#!/bin/sh\n");
}

const std::vector<Refusal>& quick_refusals() {
  static const std::vector<Refusal> all{
      {"missing", "NOT_FOUND", [](const fs::path& d) { return std::vector<std::string>{(d / "none.img").string()}; }},
      {"truncated_qcow2", "DISK_TRUNCATED",
       [](const fs::path& d) {
         const fs::path disk = as(d, "qcow2");
         fs::resize_file(disk, fs::file_size(disk) / 2);
         return std::vector{disk.string()};
       }},
      {"truncated_stream_vmdk", "DISK_TRUNCATED",
       [](const fs::path& d) {
         const fs::path disk = as(d, "vmdk", {"-o", "subformat=streamOptimized"});
         fs::resize_file(disk, fs::file_size(disk) * 6 / 10);
         return std::vector{disk.string()};
       }},
      {"encrypted", "IMAGE_ENCRYPTED",
       [](const fs::path& d) {
         const fs::path disk = as(d, "qcow2");
         poke(disk, 35, 1); // crypt_method, big-endian at 32
         return std::vector{disk.string()};
       }},
      {"marked_corrupt", "IMAGE_CORRUPT",
       [](const fs::path& d) {
         const fs::path disk = as(d, "qcow2");
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
         as(d, "vmdk");
         write_file_durably(d / "vm.vmss", "memory");
         return vmx(d, "disk.vmdk");
       }},
      {"snapshot_without_base", "SNAPSHOT_CHAIN_INCOMPLETE",
       [](const fs::path& d) {
         const fs::path base = as(d, "vmdk");
         must_run({"qemu-img", "create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", "disk.vmdk", "disk-000001.vmdk"}, d);
         fs::remove(base);
         return vmx(d, "disk-000001.vmdk");
       }},
      {"disk_of_vmx_outside", "PATH_NOT_ALLOWED", [](const fs::path& d) { return vmx(d, "../../../etc/passwd"); }},
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
  const fs::path disk = as(dir.path() / "in", "qcow2");
  Child writer({"qemu-nbd", "-t", "-k", (dir.path() / "sock").string(), "-f", "qcow2", disk.string()}, {});
  for (int i = 0; i < 200 && !fs::exists(dir.path() / "sock"); i++)
    writer.wait(std::chrono::milliseconds(50));
  expect_refusal({disk.string()}, dir.path() / "out", "SOURCE_RUNNING", {"--disk-only"});
}

TEST(Refusals, ExistingOutputIsKept) {
  TempDir dir;
  fs::create_directories(dir.path() / "in");
  fs::create_directories(dir.path() / "out");
  const fs::path disk = as(dir.path() / "in", "qcow2");
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
  const fs::path disk = as(dir.path() / "in", "qcow2");
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
