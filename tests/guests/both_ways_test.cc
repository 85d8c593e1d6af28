// SPDX-License-Identifier: Apache-2.0
// Every guest that user space claims to convert, converted there and by the appliance.
#include "base/file.h"
#include "tests/support/guests.h"
#include "tests/support/tempdir.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <set>

namespace fs = std::filesystem;
using nlohmann::json;

namespace kvmport::test {
namespace {

using Tree = std::map<std::string, std::string>;

/// The paths that a report's plan changes, as tree_of() has them.
std::set<std::string> planned_paths(const json& report) {
  std::set<std::string> paths;
  const auto add = [&](const std::string& path) {
    std::string mount, device;
    for (const auto& one : report["guest"]["mounts"]) {
      const std::string at = one["path"];
      const bool below = at == "/" || path == at || path.starts_with(at + "/");
      if (below && at.size() >= mount.size()) {
        mount = at;
        device = one["device"];
      }
    }
    // "/dev/sda2" is "2", "/dev/vg0/root" is "vg0/root".
    std::string name = device.substr(5);
    if (name.find('/') == std::string::npos)
      name = name.substr(name.find_first_of("0123456789"));
    paths.insert(name + ":" + (mount == "/" ? path : path.substr(mount.size())));
  };
  for (const auto& change : report["plan"]["changes"]) {
    add(change["path"]);
    if (change.contains("target"))
      add(change["target"]);
  }
  return paths;
}

/// Paths that are not the same in both, with what each has.
std::map<std::string, std::string> differences(const Tree& a, const Tree& b) {
  std::map<std::string, std::string> out;
  for (const auto& [path, what] : a)
    if (const auto other = b.find(path); other == b.end() || other->second != what)
      out[path] = what + " | " + (other == b.end() ? "missing" : other->second);
  for (const auto& [path, what] : b)
    if (!a.contains(path))
      out[path] = "missing | " + what;
  return out;
}

class BothWays : public testing::TestWithParam<const char*> {};

/// Through user space and through the appliance: the same plan and the same disks, in which only planned files differ
/// from the source.
TEST_P(BothWays, GiveTheSameGuest) {
  const std::string name = GetParam();
  if (name != "mini" && name != "uefi-lvm" && name != "luks-data")
    KVMPORT_ONLY_SLOW();
  const fs::path guest = make_guest(GetParam());
  TempDir dir(guest_cache());
  const json description = json::parse(read_file(guest / "guest.json"));
  std::vector<std::string> sources;
  for (const auto& disk : description["disks"])
    sources.push_back((guest / disk.get<std::string>()).string());
  std::map<std::string, json> reports;
  std::map<std::string, std::vector<std::map<std::string, std::string>>> trees;
  for (const std::string access : {"userspace", "appliance"}) {
    const fs::path out = dir.path() / access;
    const ProcessResult result = run_process(
        convert_argv(sources, out, {"--no-boot", "--name", "g", "--guest-access", access}), std::chrono::minutes(20));
    ASSERT_EQ(result.exit_code, 3) << result.out << result.err;
    reports[access] = json::parse(read_file(out / "g.report.json", 256U << 20));
    for (const auto& disk : reports[access]["disks"])
      trees[access].push_back(tree_of(out / disk["file"].get<std::string>(), dir.path()));
    fs::remove_all(out);
  }
  EXPECT_FALSE(trees["userspace"].front().empty());
  json &ours = reports["userspace"], &theirs = reports["appliance"];
  EXPECT_EQ(ours["plan"], theirs["plan"]);
  for (const char* key : {"distro", "version", "firmware", "root_device", "kernels", "esp", "boot_loaders", "packages"})
    EXPECT_EQ(ours["guest"][key], theirs["guest"][key]) << key;
  const std::set<std::string> planned = planned_paths(ours);
  for (std::size_t i = 0; i < sources.size(); i++) {
    using testing::IsEmpty;
    EXPECT_THAT(differences(trees["userspace"][i], trees["appliance"][i]), IsEmpty());
    for (const auto& [path, what] : differences(tree_of(sources[i], dir.path()), trees["userspace"][i]))
      EXPECT_TRUE(planned.contains(path)) << path << " was not planned: " << what;
  }
}

INSTANTIATE_TEST_SUITE_P(All, BothWays,
                         testing::Values("mini", "reference", "uefi-lvm", "luks-data", "sdboot", "extlinux"),
                         [](const auto& info) { return identifier(info.param); });

} // namespace
} // namespace kvmport::test
