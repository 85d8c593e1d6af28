// SPDX-License-Identifier: Apache-2.0
// New UUIDs for clones of real guests: nothing on the clone's disk has a UUID of the original's, and the clone boots to
// login, where LVM allows it beside the original's disk.
#include "base/file.h"
#include "formats/block_stack.h"
#include "kvmboot/judge.h"
#include "kvmboot/probe.h"
#include "libconvert/clone/new_uuids.h"
#include "libconvert/guest/access.h"
#include "libconvert/source/source.h"
#include "tests/support/guests.h"
#include "tests/support/tempdir.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <regex>
#include <set>
#include <sstream>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

struct UuidGuest {
  const char* name;
  bool instrument;  ///< it says nothing on the serial port by itself
  bool beside;      ///< boot it with the original's disk attached: not with two volume groups of one name
  std::size_t most; ///< UUIDs on its disk
};

void PrintTo(const UuidGuest& guest, std::ostream* out) {
  *out << guest.name;
}

/// Every UUID that a kernel would find.
std::set<std::string> uuids_on(const Image& disk) {
  std::set<std::string> all;
  const BlockStack stack({{&disk, nullptr, 512}});
  for (const StackDevice& device : stack.devices()) {
    all.insert({device.content.uuid, device.partition.uuid});
    if (device.content.type != "LVM2_member")
      continue;
    const auto member = read_lvm_member(*device.place.image, device.range());
    const LvmGroup group = parse_lvm_metadata(member.value().metadata);
    all.insert({member->uuid, group.uuid});
    for (const LvmVolume& volume : group.volumes)
      all.insert(volume.uuid);
  }
  EXPECT_TRUE(stack.notes().empty()) << stack.notes().front();
  all.erase("");
  return all;
}

/// A copy of the disk with the overlay's changes.
void write_out(const Overlay& overlay, const fs::path& original, const fs::path& clone) {
  must_run({"cp", "--sparse=always", original.string(), clone.string()});
  const UniqueFd file(::open(clone.c_str(), O_WRONLY | O_CLOEXEC));
  for (const Extent& extent : overlay.dirty()) {
    Bytes bytes(extent.range.length);
    overlay.read(extent.range.offset, bytes);
    write_exact(file.get(), extent.range.offset, bytes, clone.string());
  }
}

/// Lines in which a kernel or its tools say that two devices bear one UUID.
std::vector<std::string> complaints_in(const std::string& log) {
  static const std::regex pattern("duplicate|already exists|found duplicate PV|UUID .* conflict", std::regex::icase);
  std::vector<std::string> found;
  std::istringstream lines(log);
  for (std::string line; std::getline(lines, line);)
    if (std::regex_search(line, pattern) && line.find("Duplicate IMA measurements") == std::string::npos)
      found.push_back(line);
  return found;
}

class NewUuids : public testing::TestWithParam<UuidGuest> {
 protected:
  /// The guest as a KVM host has it: converted, as raw disks.
  fs::path convert(const std::string& guest) {
    const auto sources = package_guest(make_guest(guest), "libvirt", dir_.path() / "source");
    const fs::path out = dir_.path() / "out";
    const ProcessResult result = run_process(
        convert_argv(sources, out, {"--no-boot", "--name", "result", "--format", "raw"}), std::chrono::minutes(10));
    EXPECT_EQ(result.exit_code, 3) << result.out << result.err;
    return out;
  }
  void add_serial_console(const Machine& machine, Overlay& disk) {
    auto access = open_guest(machine, {&disk}, {}, AccessWish::automatic, dir_.path(), sink_, stop_);
    apply_plan(make_plan(access->info(), access->filesystem(), instrument_steps()), access->filesystem());
    access->finish();
  }
  Overlay over(const Image& image) { return {image, dir_.path(), 2ULL << 30}; }

  TempDir dir_{guest_cache()};
  NullSink sink_;
  StopToken stop_;
};

TEST_P(NewUuids, AreSharedWithNobodyAndTheCloneBoots) {
  const fs::path out = convert(GetParam().name);
  const Source source = open_source_machine({out / "result.xml"}, {}, sink_);
  const fs::path disk = out / "result-sda.img", clone = dir_.path() / "clone.img";

  Overlay changed = over(*source.images[0]);
  const UuidRenewal renewal = renew_uuids(source.machine, {&changed}, {}, "a seed", sink_, stop_);
  for (const UuidChange& change : renewal.changes)
    std::printf("%-40s %s -> %s\n", change.what.c_str(), change.before.c_str(), change.after.c_str());
  for (const Change& change : renewal.plan.changes)
    std::printf("%s %s: %s\n", to_string(change.kind).c_str(), change.path.c_str(), change.reason.c_str());
  EXPECT_THAT(renewal.plan.warnings, testing::IsEmpty());
  write_out(changed, disk, clone);

  const auto image = open_image(clone, {.format = "raw", .allowed_directories = {}, .window = {}});
  const auto before = uuids_on(*source.images[0]), after = uuids_on(*image);
  std::vector<std::string> shared;
  std::ranges::set_intersection(before, after, std::back_inserter(shared));
  EXPECT_THAT(shared, testing::IsEmpty());
  EXPECT_EQ(before.size(), GetParam().most);
  EXPECT_EQ(after.size(), before.size());
  EXPECT_EQ(tree_of(clone, dir_.path()).size(), tree_of(disk, dir_.path()).size()); // fsck finds nothing either

  BootSpec spec;
  spec.firmware = source.machine.firmware == MachineFirmware::uefi ? Firmware::uefi : Firmware::bios;
  if (!source.machine.nvram.empty()) {
    spec.nvram = dir_.path() / "nvram.fd";
    fs::copy_file(source.machine.nvram, spec.nvram);
    EXPECT_GT(renew_in_nvram(spec.nvram, renewal.changes), 0U);
  }
  Overlay first = over(*image), second = over(*source.images[0]);
  if (GetParam().instrument)
    add_serial_console(source.machine, first);
  spec.disks = {{&first, DiskBus::virtio_blk, 512, "clone"}};
  if (GetParam().beside)
    spec.disks.push_back({&second, DiskBus::virtio_blk, 512, "original"});
  const fs::path log = dir_.path() / "serial.log";
  const Verdict verdict = prove_boot(*make_engine("auto", sink_), spec, Milestone::login, log, sink_, stop_);
  const std::string serial = read_file(log);
  EXPECT_TRUE(verdict.proven) << serial.substr(serial.size() - std::min<std::size_t>(serial.size(), 3000));
  EXPECT_FALSE(serial.empty());
  EXPECT_THAT(complaints_in(serial), testing::IsEmpty());
  EXPECT_THAT(second.dirty(), testing::IsEmpty()) << "the clone wrote to the original's disk";
}

INSTANTIATE_TEST_SUITE_P(All, NewUuids,
                         testing::Values(UuidGuest{"reference", true, true, 4}, UuidGuest{"uefi-lvm", false, true, 11},
                                         UuidGuest{"dracut-xfs", false, true, 2}),
                         [](const auto& info) { return identifier(info.param.name); });

} // namespace
} // namespace kvmport::test
