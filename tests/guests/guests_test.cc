// SPDX-License-Identifier: Apache-2.0
// Whole conversions of real guests, each given in another format, each booted to login afterwards.
#include "base/process.h"
#include "tests/support/tempdir.h"

#include <cstdlib>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace fs = std::filesystem;
using nlohmann::json;

namespace kvmport::test {
namespace {

fs::path directory_from(const char* variable, const char* fallback) {
  const char* value = std::getenv(variable);
  return fs::absolute(value != nullptr ? value : fallback);
}

fs::path command(const std::string& name) {
  return directory_from("KVMPORT_BIN", "build/bin") / name;
}

/// Makes the guest (once; cached) and returns its folder.
fs::path make_guest(const std::string& name) {
  const fs::path cache = directory_from("KVMPORT_GUESTS", "build/guests");
  fs::create_directories(cache);
  must_run({"tests/guests/make-guest", name, cache.string()});
  return cache / name;
}

fs::path package(const fs::path& guest, const std::string& format, const fs::path& out) {
  must_run({"tests/guests/package-guest", guest.string(), format, out.string()});
  return out;
}

/// Every file below `path` (or `path` itself) with its SHA-256.
std::map<std::string, std::string> digests(const fs::path& path) {
  std::map<std::string, std::string> all;
  if (fs::is_regular_file(path))
    all[path.string()] = sha256_of(path);
  else
    for (const auto& entry : fs::recursive_directory_iterator(path))
      if (entry.is_regular_file())
        all[entry.path().string()] = sha256_of(entry.path());
  return all;
}

ProcessResult convert(const std::vector<std::string>& sources, const fs::path& out,
                      const std::vector<std::string>& more = {}) {
  std::vector<std::string> argv{command("kvm-v2v").string(), "convert"};
  argv.insert(argv.end(), sources.begin(), sources.end());
  argv.insert(argv.end(), {"-o", out.string()});
  argv.insert(argv.end(), more.begin(), more.end());
  return run_process(argv, std::chrono::minutes(25));
}

struct GuestCase {
  const char* guest;
  const char* format; ///< for package-guest
  const char* entry;  ///< the file inside the package's folder to convert; empty: the package itself
  std::vector<std::string> options;
};

void PrintTo(const GuestCase& c, std::ostream* out) {
  *out << c.guest << " as " << c.format;
}

class Guests : public testing::TestWithParam<GuestCase> {};

TEST_P(Guests, IsConvertedAndBootsToLogin) {
  const GuestCase& c = GetParam();
  const fs::path guest = make_guest(c.guest);
  TempDir dir(directory_from("KVMPORT_GUESTS", "build/guests"));
  const fs::path out = dir.path() / "out";
  const fs::path source = dir.path() / "source";
  fs::create_directory(source);
  package(guest, c.format, source / c.entry);
  const auto before = digests(source);

  std::vector<std::string> sources;
  if (std::string(c.format) == "raw" || std::string(c.format) == "vhdx") {
    for (const auto& [file, digest] : before)
      sources.push_back(file);
    // Bare disks tell no name.
  } else {
    sources.push_back((source / c.entry).string());
  }
  std::vector<std::string> options = c.options;
  options.insert(options.end(), {"--name", "result"});
  const ProcessResult result = convert(sources, out, options);
  ASSERT_EQ(result.exit_code, 0) << result.out << result.err;

  EXPECT_EQ(digests(source), before) << "the source was written";
  const json report = json::parse(read_file(out / "result.report.json", 256U << 20));
  EXPECT_TRUE(report["proven"].get<bool>());
  EXPECT_EQ(report["boot"]["reached"].back()["milestone"], "login");
  must_run({"virt-xml-validate", (out / "result.xml").string(), "domain"});
  for (const auto& entry : fs::directory_iterator(out)) {
    EXPECT_EQ(entry.path().string().find(".partial"), std::string::npos) << entry.path();
    if (entry.path().extension() == ".qcow2")
      must_run({"qemu-img", "check", entry.path().string()});
  }
}

INSTANTIATE_TEST_SUITE_P(All, Guests,
                         testing::Values(GuestCase{"reference", "ova", "reference.ova", {}},
                                         GuestCase{"uefi-lvm", "vmx", "uefi-lvm.vmx", {}},
                                         GuestCase{"dracut-xfs", "vhdx", "dracut-xfs.vhdx", {}},
                                         GuestCase{"luks-data", "libvirt", "luks-data.xml", {}},
                                         GuestCase{"sdboot", "vmx", "sdboot.vmx", {}},
                                         GuestCase{"extlinux", "raw", "extlinux.raw", {}},
                                         GuestCase{"mini", "vbox", "mini.vbox", {}}),
                         [](const auto& info) {
                           std::string name = std::string(info.param.guest) + "_as_" + info.param.format;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

/// The proof can fail: the same disk, unchanged, on the new hardware.
TEST(Unconverted, MiniStopsWithoutItsRootDevice) {
  const fs::path guest = make_guest("mini");
  const ProcessResult result =
      run_process({command("kvm-boot").string(), (guest / "sda.raw").string(), "--json"}, std::chrono::minutes(20));
  EXPECT_EQ(result.exit_code, 3) << result.out << result.err;
  EXPECT_NE(result.out.find("ROOT_DEVICE_MISSING"), std::string::npos) << result.out;
}

} // namespace
} // namespace kvmport::test
