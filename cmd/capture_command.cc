// SPDX-License-Identifier: Apache-2.0
#include "cmd/capture_command.h"

#include "libconvert/machine/text.h"
#include "libconvert/p2v/direct_disk.h"
#include "libconvert/p2v/mounts.h"
#include "libconvert/target/target.h"

#include <algorithm>
#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

namespace kvmport {
namespace {

constexpr const char* examples = R"(
Examples:
  kvm-p2v capture --to ssh://kvm1/srv/p2v --live --name web1
  kvm-p2v capture --to ssh://p2v@kvm1.example.net/srv/p2v
  kvm-p2v capture --to ssh://p2v@10.0.0.5:2222/srv/p2v --host-key SHA256:ufz… --disks sda,sdb --name db1
  kvm-p2v capture --to /mnt/usb --no-convert
)";

/// A disk as it is read for a capture.
CaptureDisk open_disk(const std::filesystem::path& path, const CaptureArguments& a) {
  DirectOptions direct;
  direct.rescue = a.rescue;
  direct.exclusive = !a.options.live;
  auto image = std::make_unique<DirectDisk>(path, direct);
  const DirectDisk* disk = image.get();
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0)
    throw system_error(errno, "can't stat " + path.string());
  return {std::move(image), S_ISBLK(st.st_mode) ? st.st_rdev : 0, [disk] { return disk->bad_ranges(); }};
}

/// The mount's number of a file; nothing before Linux 5.8.
std::optional<std::uint64_t> mount_of(const std::filesystem::path& path) {
#ifdef STATX_MNT_ID
  struct statx st {};
  if (::statx(AT_FDCWD, path.c_str(), 0, STATX_MNT_ID, &st) == 0 && (st.stx_mask & STATX_MNT_ID) != 0)
    return st.stx_mnt_id;
#endif
  return std::nullopt;
}

/// Whether `path`, or what is above it, is written to `disks`, through whatever lies between. `depth`: of loop devices.
bool lies_on(std::filesystem::path path, const std::vector<dev_t>& disks, unsigned depth = 0) {
  std::error_code ignored;
  path = std::filesystem::absolute(path, ignored);
  while (!std::filesystem::exists(path, ignored) && path.has_relative_path())
    path = path.parent_path();
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0)
    throw system_error(errno, "can't look at " + path.string());
  const auto mount = mount_of(path);
  for (const MountedFilesystem& one : filesystems_on({}, disks)) // a btrfs has device numbers that sysfs doesn't know
    for (const MountPoint& place : one.places)
      if (mount ? place.id == *mount : place.device == st.st_dev)
        return true;
  constexpr unsigned deepest = 8;
  for (const dev_t below : bottom_disks({}, st.st_dev)) {
    if (std::find(disks.begin(), disks.end(), below) != disks.end())
      return true;
    const auto file = std::filesystem::path("/sys/block") / kernel_name({}, below) / "loop/backing_file";
    if (depth < deepest && std::filesystem::exists(file, ignored) &&
        lies_on(std::string(trimmed(read_file(file, 1U << 16))), disks, depth + 1))
      return true;
  }
  return false;
}

/// What a live capture writes on a disk that it captures would have to be captured too, without end, and it would wait
/// for itself while that disk's filesystems stand still.
void check_not_captured(const std::string& directory, const std::vector<CaptureDisk>& disks) {
  std::vector<dev_t> devices;
  for (const auto& disk : disks)
    devices.push_back(disk.device);
  if (lies_on(directory, devices))
    throw Error("USAGE", "a running machine can't be captured onto its own disk", directory + " lies on it",
                "capture to a server, or to a disk that is not captured");
}

/// Devices or images that are named by their paths, in place of the machine's own disks.
void name_disks(const std::vector<std::filesystem::path>& paths, Machine& machine) {
  machine.disks.clear();
  for (const auto& path : paths) {
    MachineDisk disk;
    disk.path = path;
    disk.source_name = "sd" + disk_letters(static_cast<unsigned>(machine.disks.size()));
    machine.disks.push_back(disk);
  }
}

/// "2026-11-28T23:25:22.123456Z"
std::string text_of(std::chrono::system_clock::time_point moment) {
  using std::chrono::floor, std::chrono::seconds, std::chrono::microseconds;
  const auto whole = floor<seconds>(moment);
  return fmt::format("{:%FT%T}.{:06}Z", fmt::gmtime(std::chrono::system_clock::to_time_t(whole)),
                     floor<microseconds>(moment - whole).count());
}

std::string describe(const CaptureResult& r) {
  std::string text;
  for (const auto& disk : r.disks) {
    text += fmt::format("disk of {}: {} used\n", human_size(disk.size), human_size(disk.used));
    for (const auto& note : disk.notes)
      text += "  " + note + "\n";
  }
  const CaptureStats& s = r.stats;
  text += fmt::format("sent: {} of {} used, {} over the wire, {} chunks", human_size(s.payload), human_size(s.used),
                      human_size(s.wire), s.chunks);
  if (s.passes != 0)
    text += fmt::format(", {} passes\nas of {}, filesystems frozen for {} ms", s.passes, text_of(s.frozen_at),
                        s.frozen.count());
  text += s.reconnects != 0 ? fmt::format(", {} reconnects\n", s.reconnects) : "\n";
  for (const auto& file : r.result.value("files", std::vector<std::string>()))
    text += printable(file, false) + "\n";
  if (!r.result.value("converted", false))
    return text + "captured and verified; not converted\n";
  return text + (r.result.value("proven", false) ? "proven: the result boots on the server\n" : "not proven\n");
}

nlohmann::json describe_json(const CaptureResult& r) {
  nlohmann::json object{{"receiver", r.result},
                        {"total", r.stats.total},
                        {"used", r.stats.used},
                        {"payload", r.stats.payload},
                        {"wire", r.stats.wire},
                        {"chunks", r.stats.chunks},
                        {"reconnects", r.stats.reconnects},
                        {"passes", r.stats.passes},
                        {"frozen_ms", r.stats.frozen.count()},
                        {"proven", r.result.value("proven", false)}};
  if (r.stats.passes != 0) // live
    object["frozen_at"] = text_of(r.stats.frozen_at);
  return object;
}

} // namespace

void select_disks(Inventory& inventory, const std::vector<std::string>& names) {
  if (names.empty())
    return;
  for (auto& disk : inventory.disks) {
    disk.selected = false;
    disk.reason = "not named";
  }
  for (const auto& name : names) {
    const auto found = std::find_if(inventory.disks.begin(), inventory.disks.end(),
                                    [&](const auto& disk) { return disk.name == name || disk.device() == name; });
    if (found == inventory.disks.end())
      throw Error("DISK_MISSING", "this machine has no disk " + printable(name, false), {},
                  "`kvm-p2v inventory` shows what there is");
    found->selected = true;
    found->reason.clear();
  }
  if (const auto problems = selection_problems(inventory); !problems.empty())
    throw Error("DISK_SET_INCOMPLETE", problems.front(), {}, "name all disks that belong together, or none");
}

CLI::App* add_capture_command(CLI::App& app, CaptureArguments& a) {
  CLI::App* c = app.add_subcommand("capture", "Send this machine to a server, which makes a proven guest of it");
  CaptureOptions& o = a.options;
  c->add_option("--to", a.to, "ssh://[USER@]HOST[:PORT]/DIR, or a directory")->required();
  c->add_option("--host-key", a.host_key, "SHA256:…: accept only this host key of the server");
  c->add_option("--identity", a.identity, "File of the private key for ssh");
  c->add_option("--remote-program", a.remote_program, "kvm-p2v on the server, when it is not on its PATH");
  auto* disks = c->add_option("--disks", a.disks, "Kernel names of the disks to send (default: all)")->delimiter(',');
  c->add_option("--disk", a.paths, "Device or raw image to send; several times for several disks")->excludes(disks);
  c->add_option("--name", o.name, "Name of the result (default: this host's name)");
  c->add_option("--streams", o.streams, "Connections that carry data")->check(CLI::Range(1, 16))->capture_default_str();
  c->add_option("--bandwidth", o.bandwidth, "Most bytes a second (50M, 1G); 0: no limit")
      ->transform(CLI::AsSizeValue(false));
  c->add_option("--retry-for", a.retry_for, "Seconds to try again after a lost connection")->capture_default_str();
  c->add_flag("--no-compress", a.no_compress, "Send as it is");
  c->add_flag("--rescue", a.rescue, "Put zeros for sectors that can't be read, and list them");
  c->add_flag("--live", o.live, "Capture while the machine runs; its filesystems stand still for the last pass");
  c->add_option("--freeze-limit", a.freeze_limit, "With --live: most seconds that filesystems stand still")
      ->check(CLI::Range(1, 600))
      ->capture_default_str();
  c->add_flag("--everything", o.everything, "Send free blocks too");
  c->add_flag("--no-convert", a.no_convert, "Store disks and description, change nothing (exit status 3)");
  c->add_flag("--no-boot", a.no_boot, "Make no boot proof (exit status 3)");
  c->add_option("--format", o.wishes.format, "Format of the result's disks")
      ->check(CLI::IsMember({"raw", "qcow2"}))
      ->capture_default_str();
  c->add_option("--compression", o.wishes.compress, "Compress the clusters of the resulting qcow2")
      ->check(CLI::IsMember({"none", "zlib", "zstd"}))
      ->capture_default_str();
  c->add_option("--until", o.wishes.until, "Milestone that proves the boot")->capture_default_str();
  c->add_option("--timeout", o.wishes.timeout, "Seconds for the proof")->capture_default_str();
  c->add_flag("--force", o.wishes.force, "Replace existing output of this name");
  c->footer(examples);
  return c;
}

int run_capture(const CaptureArguments& a, Console& console, const StopToken& stop) {
  CaptureOptions options = a.options;
  options.target = parse_link_target(a.to);
  options.target.host_key = a.host_key;
  options.target.identity = a.identity;
  options.target.program = a.remote_program;
  options.patience = std::chrono::seconds(a.retry_for);
  options.freeze_limit = std::chrono::seconds(a.freeze_limit);
  options.compress = !a.no_compress;
  options.wishes.convert = !a.no_convert;
  options.wishes.boot = !a.no_boot;
  options.interactive = !console.json() && ::isatty(STDERR_FILENO) == 1;
  Inventory inventory = read_inventory();
  if (a.paths.empty())
    select_disks(inventory, a.disks);
  options.machine = machine_of(inventory);
  if (!a.paths.empty())
    name_disks(a.paths, options.machine);
  options.name = safe_name(options.name.empty() ? options.machine.name : options.name);
  if (options.machine.disks.empty())
    throw Error("DISK_MISSING", "this machine has no disk to capture", {}, "`kvm-p2v inventory` shows what there is");
  for (const auto& note : options.machine.notes)
    console.message(EventSink::Level::info, "SOURCE_NOTE", note);
  std::vector<CaptureDisk> disks;
  for (auto& disk : options.machine.disks) {
    disks.push_back(open_disk(disk.path, a));
    disk.capacity = disks.back().image->size();
  }
  if (options.live && options.target.host.empty())
    check_not_captured(options.target.directory, disks);
  const CaptureResult result = capture_machine(options, disks, console, stop);
  console.result(describe(result), describe_json(result));
  return result.result.value("proven", false) ? exit_done : exit_not_proven;
}

} // namespace kvmport
