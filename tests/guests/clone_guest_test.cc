// SPDX-License-Identifier: Apache-2.0
// Clones of a real guest, booted: each is its own machine, as the disks say after the boot and the network during it.
#include "base/file.h"
#include "tests/support/guests.h"
#include "tests/support/tempdir.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <nlohmann/json.hpp>
#include <set>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

class ClonesOfAGuest : public testing::Test {
 protected:
  void SetUp() override { prepare(); }
  void prepare() {
    const fs::path guest = make_guest("ssh");
    must_run({"qemu-img", "convert", "-f", "raw", "-O", "qcow2", (guest / "sda.raw").string(), disk_.string()});
    write_file_durably(dir_.path() / "ssh.xml", fmt::format(R"(<domain type='kvm'>
  <name>ssh</name><uuid>b5a2ec2c-3c76-4d0b-8a37-6a3d6f0b7c11</uuid>
  <memory unit='MiB'>512</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/><target dev='vda' bus='virtio'/></disk>
    <interface type='network'><mac address='52:54:00:4b:56:09'/><source network='default'/><model type='virtio'/></interface>
  </devices>
</domain>
)",
                                                            disk_.string()));
  }

  nlohmann::json run(const std::vector<std::string>& arguments) {
    std::vector<std::string> argv{command("kvm-clone").string(), (dir_.path() / "ssh.xml").string(), "--json"};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    const ProcessResult result = run_process(argv, std::chrono::minutes(25));
    EXPECT_EQ(result.exit_code, 0) << result.out.substr(result.out.size() -
                                                        std::min<std::size_t>(4000, result.out.size()))
                                   << result.err;
    const std::string last = result.out.substr(result.out.rfind('\n', result.out.size() - 2) + 1);
    return nlohmann::json::parse(last);
  }

  /// Every clone has all of these, and no value is another's or the source's.
  void expect_own_machines(const nlohmann::json& result, std::size_t count) {
    const nlohmann::json source = run({"--report", "identity"});
    std::set<std::string> known;
    for (const auto& finding : source["identity"])
      known.insert(finding["value"]);
    EXPECT_EQ(result["clones"].size(), count);
    EXPECT_THAT(result["shared"], testing::IsEmpty());
    for (const auto& clone : result["clones"]) {
      EXPECT_TRUE(clone["boot"]["proven"].get<bool>()) << clone["boot"].dump(2);
      EXPECT_EQ(clone["identity"].value("hostname", ""), clone["name"].get<std::string>());
      for (const char* name : {"hostname", "machine-id", "mac", "dhcp-client", "ssh-host-key ssh-ed25519",
                               "ssh-host-key ssh-rsa", "ssh-host-key ecdsa-sha2-nistp256"}) {
        const std::string value = clone["identity"].value(name, "");
        EXPECT_FALSE(value.empty()) << name << " of " << clone["name"];
        EXPECT_TRUE(known.insert(value).second) << name << " of " << clone["name"] << " is not its own: " << value;
      }
    }
  }

  TempDir dir_{guest_cache()};
  fs::path disk_ = dir_.path() / "ssh.qcow2";
};

TEST_F(ClonesOfAGuest, OneBootsAsItsOwnMachine) {
  const std::string before = sha256_of(disk_);
  expect_own_machines(run({"--linked", "--name", "web1", "-o", (dir_.path() / "out").string(), "--boot"}), 1);
  EXPECT_EQ(sha256_of(disk_), before);
}

class ManyClonesOfAGuest : public ClonesOfAGuest {
 protected:
  void SetUp() override {
    KVMPORT_ONLY_SLOW();
    prepare();
  }
};

TEST_F(ManyClonesOfAGuest, FiveBootTogetherOnOneNetwork) {
  expect_own_machines(run({"--linked", "--name", "web-{:03}", "--count", "5", "-o", (dir_.path() / "out").string(),
                           "--boot-together", "5"}),
                      5);
}

/// The source asks for its address by DHCP; each clone answers for the one that it was given.
TEST_F(ManyClonesOfAGuest, TwoHaveTheirStaticAddresses) {
  write_file_durably(dir_.path() / "clones.csv", "name,address,gateway\n"
                                                 "db1,\"192.0.2.11/24 2001:db8::11/64\",192.0.2.1\n"
                                                 "db2,\"192.0.2.12/24 2001:db8::12/64\",192.0.2.1\n");
  const auto result = run({"--linked", "--from", (dir_.path() / "clones.csv").string(), "-o",
                           (dir_.path() / "out").string(), "--boot-together", "2"});
  ASSERT_EQ(result["clones"].size(), 2U);
  for (const auto& clone : result["clones"]) {
    const std::string number = clone["name"] == "db1" ? "11" : "12";
    EXPECT_EQ(clone["identity"].value("heard-address", ""), "192.0.2." + number + ", 2001:db8::" + number)
        << clone.dump(2);
    EXPECT_EQ(clone["identity"].value("dhcp-client", ""), "") << "it asks no longer";
  }
}

} // namespace
} // namespace kvmport::test
