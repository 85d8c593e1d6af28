// SPDX-License-Identifier: Apache-2.0
#include "tests/clone/clone_fixture.h"

#include "base/process.h"

#include <algorithm>
#include <fmt/format.h>

namespace fs = std::filesystem;

namespace kvmport::test {

void Clone::SetUp() {
  fs::create_directory(dir / "src");
  ext4_disk(dir / "src", "disk", [](const fs::path& tree) {
    small_system(tree);
    write_file_durably(tree / "etc/hostname", "old\n");
    write_file_durably(tree / "etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    write_file_durably(tree / "etc/hosts", "127.0.0.1 localhost\n127.0.1.1 old\n");
    write_file_durably(tree / "etc/netplan.yaml", "unrelated\n");
    fs::create_directories(tree / "etc/netplan");
    write_file_durably(tree / "etc/netplan/net.yaml",
                       "network:\n  ethernets:\n    lan:\n      match: {macaddress: '52:54:00:aa:bb:01'}\n");
    make_pattern_file(tree / "data", 5U << 20, 1);
  });
  describe("qcow2");
}

void Clone::describe(const std::string& format, const std::string& options, const std::string& more,
                     const std::string& devices) {
  std::vector<std::string> argv{"qemu-img", "convert", "-f", "raw", "-O", format};
  if (!options.empty())
    argv.insert(argv.end(), {"-o", options});
  if (options.find("compression_type") != std::string::npos)
    argv.push_back("-c");
  argv.insert(argv.end(), {(dir / "src/disk").string(), disk().string()});
  must_run(argv);
  write_file_durably(dir / "src/small.xml", domain("small", disk().string(), format, more, devices));
  source_digest = sha256_of(disk());
}

std::string Clone::domain(const std::string& name, const std::string& disk, const std::string& format,
                          const std::string& more, const std::string& devices) {
  return fmt::format(R"(<domain type='kvm'>
  <!-- kept -->
  <name>{}</name>
  <uuid>11111111-2222-4333-8444-555555555555</uuid>
  <memory unit='MiB'>512</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type>{}</os>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='{}'/><source file='{}'/><target dev='vda' bus='virtio'/></disk>
    <interface type='user'><mac address='52:54:00:aa:bb:01'/></interface>{}
  </devices>
</domain>
)",
                     name, more, format, disk, devices);
}

CloneOptions Clone::options() const {
  CloneOptions o;
  o.sources = {dir / "src/small.xml"};
  o.output_directory = dir / "out";
  return o;
}

std::string Clone::guest_file(const fs::path& image, const std::string& path) {
  const fs::path raw = dir / "look.raw";
  must_run({"qemu-img", "convert", "-O", "raw", image.string(), raw.string()});
  return must_run({"debugfs", "-R", "cat " + path, raw.string()});
}

void Clone::expect_own_machine(const fs::path& image, const std::string& name) {
  const fs::path raw = dir / "look.raw";
  must_run({"qemu-img", "convert", "-O", "raw", image.string(), raw.string()});
  const ProcessResult fsck = run_process({"e2fsck", "-fn", raw.string()}, std::chrono::minutes(1));
  EXPECT_EQ(fsck.exit_code, 0) << fsck.out;
  EXPECT_EQ(guest_file(image, "/etc/hostname"), name + "\n");
  EXPECT_EQ(guest_file(image, "/etc/machine-id"), "");
  EXPECT_THAT(guest_file(image, "/etc/hosts"), testing::HasSubstr("127.0.1.1 " + name));
  EXPECT_THAT(guest_file(image, "/etc/netplan/net.yaml"), testing::Not(testing::HasSubstr("52:54:00:aa:bb:01")));
  EXPECT_EQ(guest_file(image, "/etc/netplan.yaml"), "unrelated\n");
  const fs::path data = dir / "data.out", original = dir / "data.in";
  must_run({"debugfs", "-R", "dump /data " + data.string(), raw.string()});
  must_run({"debugfs", "-R", "dump /data " + original.string(), (dir / "src/disk").string()});
  EXPECT_EQ(sha256_of(data), sha256_of(original));
  EXPECT_EQ(sha256_of(disk()), source_digest);
}

std::vector<std::string> Clone::names(const fs::path& directory) {
  std::vector<std::string> all;
  for (const auto& entry : fs::directory_iterator(directory))
    all.push_back(entry.path().filename().string());
  std::ranges::sort(all);
  return all;
}

std::string Clone::code_of(const std::function<void()>& what) {
  try {
    what();
  } catch (const Error& error) {
    return error.code();
  }
  return "";
}

} // namespace kvmport::test
