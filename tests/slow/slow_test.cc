// SPDX-License-Identifier: Apache-2.0
// Tests that take many minutes: `make test-slow`.
#include "tests/support/guests.h"
#include "tests/support/tempdir.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

/// The drivers must last: after the guest's own package manager made the initramfs and grub.cfg anew, on virtio, it
/// still boots.
TEST(Reference, StillBootsAfterItsKernelPackageIsReinstalled) {
  const fs::path guest = make_guest("reference");
  TempDir dir(guest_cache());
  const fs::path out = dir.path() / "out";
  const auto sources = package_guest(guest, "ova", dir.path() / "source");
  const ProcessResult converted = run_process(
      convert_argv(sources, out, {"--no-boot", "--serial-console", "--name", "r"}), std::chrono::minutes(20));
  ASSERT_EQ(converted.exit_code, 3) << converted.out << converted.err;

  const auto info = nlohmann::json::parse(read_file(guest / "guest.json"));
  const std::string kernel = info["kernels"][0].get<std::string>();
  must_run({"apt-get", "-o", "APT::Sandbox::User=root", "download", "linux-image-" + kernel}, dir.path());
  fs::path deb;
  for (const auto& entry : fs::directory_iterator(dir.path()))
    if (entry.path().extension() == ".deb")
      deb = entry.path();
  const fs::path changed = out / "changed.qcow2";
  must_run({"qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "r-sda.qcow2", changed.string()});
  const ProcessResult reinstalled =
      run_process({"tests/slow/reinstall-kernel", changed.string(), deb.string()}, std::chrono::minutes(40));
  ASSERT_EQ(reinstalled.exit_code, 0) << reinstalled.out << reinstalled.err;

  const ProcessResult boot =
      run_process({command("kvm-boot").string(), changed.string(), "--memory", "1024"}, std::chrono::minutes(20));
  EXPECT_EQ(boot.exit_code, 0) << boot.out << boot.err;
}

} // namespace
} // namespace kvmport::test
