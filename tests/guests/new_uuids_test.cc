// SPDX-License-Identifier: Apache-2.0
// New UUIDs for clones of real guests: nothing on the clone's disk has a UUID or volume group of the original's, and
// the clone boots to login beside the original's disk.
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
  bool instrument;             ///< it says nothing on the serial port by itself
  std::size_t names;           ///< UUIDs on its disks, and volume groups
  bool btrfs = false;          ///< give it a disk with btrfs as well
  const char* passphrase = ""; ///< of its encrypted disk
};

void PrintTo(const UuidGuest& guest, std::ostream* out) {
  *out << guest.name;
}

/// Every UUID that a kernel would find, and every volume group.
std::set<std::string> names_on(const std::vector<std::unique_ptr<Image>>& disks) {
  std::set<std::string> all;
  std::vector<StackDisk> stacked;
  for (const auto& disk : disks)
    stacked.push_back({disk.get(), nullptr, 512});
  const BlockStack stack(stacked);
  for (const StackDevice& device : stack.devices()) {
    all.insert({device.content.uuid, device.partition.uuid});
    if (device.content.type != "LVM2_member")
      continue;
    const auto member = read_lvm_member(*device.place.image, device.range());
    const LvmGroup group = parse_lvm_metadata(member.value().metadata);
    all.insert({member->uuid, group.uuid, group.name});
    for (const LvmVolume& volume : group.volumes)
      all.insert(volume.uuid);
  }
  EXPECT_TRUE(stack.notes().empty()) << stack.notes().front();
  all.erase("");
  return all;
}

std::unique_ptr<Image> open_raw(const fs::path& path) {
  return open_image(path, {.format = "raw", .allowed_directories = {}, .window = {}});
}

/// A copy of the disk with the overlay's changes.
std::unique_ptr<Image> write_out(const Overlay& overlay, const fs::path& original, const fs::path& clone) {
  must_run({"cp", "--sparse=always", original.string(), clone.string()});
  const UniqueFd file(::open(clone.c_str(), O_WRONLY | O_CLOEXEC));
  for (const Extent& extent : overlay.dirty()) {
    Bytes bytes(extent.range.length);
    overlay.read(extent.range.offset, bytes);
    write_exact(file.get(), extent.range.offset, bytes, clone.string());
  }
  return open_raw(clone);
}

/// fsck finds nothing, and no file was lost.
void expect_whole(const fs::path& clone, const fs::path& original, const fs::path& scratch) {
  EXPECT_EQ(tree_of(clone, scratch).size(), tree_of(original, scratch).size());
  const auto image = open_raw(clone);
  const BlockStack stack({{image.get(), nullptr, 512}});
  for (const StackDevice& device : stack.devices()) {
    if (device.content.type != "xfs" && device.content.type != "btrfs")
      continue;
    const fs::path part = scratch / "part.raw";
    must_run({"dd", "if=" + clone.string(), "of=" + part.string(), "iflag=skip_bytes,count_bytes", "conv=sparse",
              "bs=1M", "skip=" + std::to_string(device.range().offset), "count=" + std::to_string(device.size),
              "status=none"});
    if (device.content.type == "xfs")
      must_run({"xfs_repair", "-n", "-f", part.string()});
    else
      must_run({"btrfs", "check", part.string()});
    fs::remove(part);
  }
}

/// Lines in which a kernel or its tools say that two devices bear one UUID, or two groups one name.
std::vector<std::string> complaints_in(const std::string& log) {
  static const std::regex pattern("duplicate|already exists|multiple vgs|found duplicate PV|UUID .* conflict",
                                  std::regex::icase);
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
  void add_btrfs(Source& source) {
    const fs::path disk = dir_.path() / "btrfs.img";
    must_run({"truncate", "-s", "256M", disk.string()});
    must_run({"mkfs.btrfs", "-q", "-L", "data", disk.string()});
    source.images.push_back(open_raw(disk));
    source.machine.disks.push_back(source.machine.disks.back());
    source.machine.disks.back().path = disk;
    source.machine.disks.back().source_name = "vd" + disk_letters(static_cast<unsigned>(source.images.size() - 1));
  }
  void add_serial_console(const Machine& machine, const std::vector<Overlay*>& disks) {
    auto access = open_guest(machine, disks, {}, AccessWish::automatic, dir_.path(), sink_, stop_);
    apply_plan(make_plan(access->info(), access->filesystem(), instrument_steps()), access->filesystem());
    access->finish();
  }
  /// One over each.
  std::vector<Overlay*> over(const std::vector<std::unique_ptr<Image>>& images) {
    std::vector<Overlay*> all;
    for (const auto& image : images) {
      kept_.push_back(std::make_unique<Overlay>(*image, dir_.path(), 2ULL << 30));
      all.push_back(kept_.back().get());
    }
    return all;
  }

  TempDir dir_{guest_cache()};
  std::vector<std::unique_ptr<Overlay>> kept_;
  NullSink sink_;
  StopToken stop_;
};

void print(const UuidRenewal& renewal) {
  for (const UuidChange& change : renewal.changes)
    std::printf("%-40s %s -> %s\n", change.what.c_str(), change.before.c_str(), change.after.c_str());
  for (const GroupChange& group : renewal.groups)
    std::printf("volume group %s -> %s\n", group.before.c_str(), group.after.c_str());
  for (const Change& change : renewal.plan.changes)
    std::printf("%s %s: %s\n", to_string(change.kind).c_str(), change.path.c_str(), change.reason.c_str());
  for (const std::string& warning : renewal.plan.warnings)
    std::printf("warning: %s\n", warning.c_str());
}

TEST_P(NewUuids, AreSharedWithNobodyAndTheCloneBoots) {
  const UuidGuest& guest = GetParam();
  if (std::string(guest.name) != "uefi-lvm")
    KVMPORT_ONLY_SLOW();
  Source source = open_source_machine({convert(guest.name) / "result.xml"}, {}, sink_);
  name_source_disks(source.machine);
  if (guest.btrfs)
    add_btrfs(source);

  const std::vector<Overlay*> changed = over(source.images);
  ApplianceOptions options;
  if (*guest.passphrase != '\0')
    options.keys = {{"all", guest.passphrase}};
  const UuidRenewal renewal = renew_uuids(source.machine, changed, options, "a seed", sink_, stop_);
  print(renewal);
  EXPECT_THAT(renewal.plan.warnings, testing::IsEmpty());
  const auto inside = [](const UuidChange& change) { return change.what.starts_with("/dev/mapper/luks-"); };
  EXPECT_EQ(std::ranges::any_of(renewal.changes, inside), !options.keys.empty());

  std::vector<std::unique_ptr<Image>> clones;
  for (std::size_t i = 0; i < changed.size(); i++) {
    const fs::path clone = dir_.path() / ("clone" + std::to_string(i)), original = source.machine.disks[i].path;
    clones.push_back(write_out(*changed[i], original, clone));
    expect_whole(clone, original, dir_.path());
  }
  const auto before = names_on(source.images), after = names_on(clones);
  std::vector<std::string> shared;
  std::ranges::set_intersection(before, after, std::back_inserter(shared));
  EXPECT_THAT(shared, testing::IsEmpty());
  EXPECT_EQ(before.size(), guest.names);
  EXPECT_EQ(after.size(), before.size());

  BootSpec spec;
  spec.firmware = source.machine.firmware == MachineFirmware::uefi ? Firmware::uefi : Firmware::bios;
  if (!source.machine.nvram.empty()) {
    spec.nvram = dir_.path() / "nvram.fd";
    fs::copy_file(source.machine.nvram, spec.nvram);
    EXPECT_GT(renew_in_nvram(spec.nvram, renewal.changes), 0U);
  }
  const std::vector<Overlay*> first = over(clones), second = over(source.images);
  if (guest.instrument)
    add_serial_console(source.machine, first);
  for (Overlay* disk : first)
    spec.disks.push_back({disk, DiskBus::virtio_blk, 512, ""});
  for (Overlay* disk : second)
    spec.disks.push_back({disk, DiskBus::virtio_blk, 512, ""});
  const fs::path log = dir_.path() / "serial.log";
  const Verdict verdict = prove_boot(*make_engine("auto", sink_), spec, Milestone::login, log, sink_, stop_);
  const std::string serial = read_file(log);
  EXPECT_TRUE(verdict.proven) << serial.substr(serial.size() - std::min<std::size_t>(serial.size(), 3000));
  EXPECT_FALSE(serial.empty());
  EXPECT_THAT(complaints_in(serial), testing::IsEmpty());
  for (const Overlay* disk : second)
    EXPECT_THAT(disk->dirty(), testing::IsEmpty()) << "the clone wrote to the original's disk";
}

INSTANTIATE_TEST_SUITE_P(All, NewUuids,
                         testing::Values(UuidGuest{"reference", true, 4}, UuidGuest{"uefi-lvm", false, 12},
                                         UuidGuest{"dracut-xfs", false, 2},
                                         UuidGuest{"luks-data", false, 7, true, "kvmport"}),
                         [](const auto& info) { return identifier(info.param.name); });

} // namespace
} // namespace kvmport::test
