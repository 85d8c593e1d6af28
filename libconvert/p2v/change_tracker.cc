// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/change_tracker.h"

#include "libconvert/p2v/dirty_map.h"
#include "libconvert/p2v/trace_page.h"
#include "libconvert/p2v/tracefs.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <fcntl.h>
#include <map>
#include <mutex>
#include <sys/sysmacros.h>
#include <thread>
#include <unistd.h>

namespace kvmport {
namespace {

constexpr std::uint64_t sector = 512; // events count in these
constexpr std::size_t largest_page = 64U << 10;
constexpr std::uint64_t smallest_buffer = 256U << 10;

/// How the kernel writes a device number in an event.
std::uint32_t event_device(dev_t device) {
  return static_cast<std::uint32_t>(::major(device) << 20 | ::minor(device));
}

/// An event that is watched.
struct Event {
  std::string name;
  std::uint64_t id = 0;
  TraceField dev, sector, sectors, rwbs;
};

Event read_event(const TraceDirectory& directory, const TraceInstance& instance, const std::string& name) {
  const std::string place = "events/block/" + name;
  if (!instance.has(place + "/enable"))
    throw live_not_possible("its kernel has no event block:" + name);
  const TraceFormat format = parse_trace_format(read_file(directory.path() / place / "format", 1U << 20));
  Event event{
      name, format.id, format.field("dev"), format.field("sector"), format.field("nr_sector"), format.field("rwbs")};
  if (event.id == 0)
    throw live_not_possible("the event block:" + name + " is of an unknown kind");
  return event;
}

/// Where events of a device number go.
struct Target {
  std::size_t disk = 0;
  std::uint64_t start = 0; ///< bytes; not 0 only of partitions
  bool partition = false;
};

} // namespace

bool changes_disk(std::string_view rwbs) {
  // A flush before the operation comes first.
  if (rwbs.starts_with('F'))
    rwbs.remove_prefix(1);
  return !rwbs.starts_with('R');
}

struct ChangeTracker::State {
  State(std::vector<TrackedDisk> tracked, const TrackerOptions& wanted);
  void start();
  Changes take();

  void add_targets(const TrackedDisk& disk, std::size_t number);
  void choose_events();
  void size_buffers(std::size_t cpus);
  void set_filter(const Event& event) const;
  std::uint64_t lost() const;
  void drain();
  void drain(int fd);
  void note(ByteSpan event);
  void run(const std::stop_token& stop);
  void look_after();

  const TrackerOptions options;
  const TraceDirectory directory;
  const TraceInstance instance;
  const TracePageLayout layout;
  TraceField type;
  std::vector<Event> events;
  std::map<std::uint32_t, Target> targets;
  std::vector<unsigned> cpus;
  std::vector<UniqueFd> buffers;
  std::uint64_t pages = 0; ///< of one buffer

  mutable std::mutex mutex; ///< guards all below
  std::vector<DirtyMap> maps;
  std::vector<std::byte> page;
  std::uint64_t lost_before = 0;
  bool overrun = false, started = false;
  std::exception_ptr problem;
  std::condition_variable_any wake;
  std::jthread thread; ///< last: it ends before the rest goes
};

ChangeTracker::State::State(std::vector<TrackedDisk> tracked, const TrackerOptions& wanted)
    : options(wanted), directory(wanted.host), instance(directory),
      layout(parse_page_layout(read_file(directory.path() / "events" / "header_page", 1U << 16))), page(largest_page) {
  for (std::size_t i = 0; i < tracked.size(); i++) {
    add_targets(tracked[i], i);
    maps.emplace_back(tracked[i].size, options.granularity);
  }
  choose_events();
  cpus = instance.cpus();
  size_buffers(cpus.size());
  instance.write("tracing_on", "0");
  instance.try_write("options/record-cmd", "0"); // names of processes are not needed
  for (const unsigned cpu : cpus) {
    const auto path = instance.file("per_cpu/cpu" + std::to_string(cpu) + "/trace_pipe_raw");
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    if (!fd)
      throw live_not_possible("can't open " + path.string() + ": " + std::strerror(errno));
    buffers.push_back(std::move(fd));
  }
}

void ChangeTracker::State::add_targets(const TrackedDisk& disk, std::size_t number) {
  const std::string name = kernel_name(options.host, disk.device);
  if (name.empty())
    throw live_not_possible("the disk " + device_text(disk.device) + " is not known to sysfs");
  if (bottom_disks(options.host, disk.device) != std::vector<dev_t>{disk.device})
    throw live_not_possible(name + " lies on other disks: those must be captured");
  if (name.starts_with("nvme") && !takes_requests(options.host, disk.device))
    throw live_not_possible(name + " is reached over several paths, whose writes can't be followed");
  targets[event_device(disk.device)] = {number, 0, false};
  for (const HostPartition& one : partitions_of(options.host, disk.device))
    targets[event_device(one.device)] = {number, one.range.offset, true};
}

void ChangeTracker::State::choose_events() {
  std::vector<std::string> names{"block_bio_queue", "block_rq_complete"};
  for (const auto& [device, target] : targets)
    if (!target.partition && !takes_requests(options.host, ::makedev(device >> 20, device & 0xfffff))) {
      names.emplace_back("block_bio_complete");
      break;
    }
  for (const std::string& name : names)
    events.push_back(read_event(directory, instance, name));
  const std::string place = "events/block/" + names.front() + "/format";
  type = parse_trace_format(read_file(directory.path() / place, 1U << 20)).field("common_type");
}

void ChangeTracker::State::size_buffers(std::size_t count) {
  const std::uint64_t share = std::max(options.all_buffers / std::max<std::size_t>(count, 1), smallest_buffer);
  const std::uint64_t size = std::min(options.buffer, share);
  instance.write("buffer_size_kb", std::to_string(size >> 10));
  pages = size / 4096 + 2;
}

void ChangeTracker::State::set_filter(const Event& event) const {
  std::string devices;
  for (const auto& [device, target] : targets)
    devices += (devices.empty() ? "dev == " : " || dev == ") + std::to_string(device);
  const std::string place = "events/block/" + event.name + "/filter";
  // Reads are dropped again here, so a kernel that can't compare the letters or so many devices only costs time.
  if (!instance.try_write(place, "(" + devices + ") && !(rwbs ~ \"R*\")") && !instance.try_write(place, devices))
    instance.try_write(place, "0");
}

std::uint64_t ChangeTracker::State::lost() const {
  std::uint64_t sum = 0;
  for (const unsigned cpu : cpus)
    sum += lost_events(instance.read("per_cpu/cpu" + std::to_string(cpu) + "/stats"));
  return sum;
}

void ChangeTracker::State::note(ByteSpan bytes) {
  const std::uint64_t id = trace_number(bytes, type);
  const auto event = std::find_if(events.begin(), events.end(), [&](const Event& one) { return one.id == id; });
  if (event == events.end() || !changes_disk(trace_text(bytes, event->rwbs)))
    return;
  const auto found = targets.find(static_cast<std::uint32_t>(trace_number(bytes, event->dev)));
  const std::uint64_t first = trace_number(bytes, event->sector), count = trace_number(bytes, event->sectors);
  constexpr std::uint64_t most = std::uint64_t{1} << 54;
  if (found == targets.end() || count == 0 || first >= most || count >= most)
    return;
  const Target& target = found->second;
  maps[target.disk].mark({first * sector, count * sector});
  if (target.partition)
    maps[target.disk].mark({target.start + first * sector, count * sector});
}

void ChangeTracker::State::drain(int fd) {
  // Not more than the buffer can hold, or a fast writer would keep us here.
  for (std::uint64_t i = 0; i < pages * 2; i++) {
    const ssize_t n = ::read(fd, page.data(), page.size());
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0 && errno != EAGAIN)
      throw system_error(errno, "can't read the kernel's trace buffer");
    if (n <= 0)
      return;
    if (read_trace_page(ByteSpan(page).first(static_cast<std::size_t>(n)), layout,
                        [this](ByteSpan event) { note(event); }))
      overrun = true;
  }
}

void ChangeTracker::State::drain() {
  for (const UniqueFd& fd : buffers)
    drain(fd.get());
}

/// The kernel switches tracing off when it meets a bug, others may do so by hand.
void ChangeTracker::State::look_after() {
  if (instance.read("tracing_on").starts_with('1') &&
      std::all_of(events.begin(), events.end(), [&](const Event& event) {
        return instance.read("events/block/" + event.name + "/enable").starts_with('1');
      }))
    return;
  overrun = true;
  for (const Event& event : events)
    instance.write("events/block/" + event.name + "/enable", "1");
  instance.write("tracing_on", "1");
}

void ChangeTracker::State::run(const std::stop_token& stop) {
  std::unique_lock lock(mutex);
  while (!stop.stop_requested() && !problem) {
    try {
      drain();
    } catch (...) {
      problem = std::current_exception();
    }
    wake.wait_for(lock, stop, options.drain_interval, [] { return false; });
  }
}

void ChangeTracker::State::start() {
  std::unique_lock lock(mutex);
  if (started)
    return;
  for (const Event& event : events) {
    set_filter(event);
    instance.write("events/block/" + event.name + "/enable", "1");
  }
  instance.write("tracing_on", "1");
  lost_before = lost();
  started = true;
  thread = std::jthread([this](const std::stop_token& stop) { run(stop); });
}

Changes ChangeTracker::State::take() {
  std::unique_lock lock(mutex);
  if (problem)
    std::rethrow_exception(problem);
  drain();
  look_after();
  const std::uint64_t now = lost();
  Changes changes;
  changes.overrun = overrun || now != lost_before;
  lost_before = now;
  overrun = false;
  for (DirtyMap& map : maps)
    changes.disks.push_back(map.take());
  return changes;
}

ChangeTracker::ChangeTracker(std::vector<TrackedDisk> disks, const TrackerOptions& options)
    : state_(std::make_unique<State>(std::move(disks), options)) {}

ChangeTracker::~ChangeTracker() = default;

void ChangeTracker::start() {
  state_->start();
}

Changes ChangeTracker::take() {
  return state_->take();
}

std::uint64_t ChangeTracker::pending() const {
  const std::unique_lock lock(state_->mutex);
  std::uint64_t sum = 0;
  for (const DirtyMap& map : state_->maps)
    sum += map.marked_bytes();
  return sum;
}

} // namespace kvmport
