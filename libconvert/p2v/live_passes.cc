// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/live_passes.h"

#include "libconvert/p2v/dirty_map.h"
#include "libconvert/p2v/live_map.h"

#include <algorithm>
#include <fmt/format.h>
#include <optional>

namespace kvmport {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr const char* hint = "stop what writes, allow a longer freeze, or capture it from the boot medium";
constexpr unsigned settle_rounds = 4; ///< of what isn't frozen, in the last pass

milliseconds since(Clock::time_point start) {
  return std::chrono::duration_cast<milliseconds>(Clock::now() - start);
}

ChangeTracker make_tracker(const LiveOptions& options, std::span<const LiveDisk> disks) {
  std::vector<TrackedDisk> tracked;
  for (const LiveDisk& disk : disks)
    tracked.push_back({disk.device, disk.image->size()});
  TrackerOptions how = options.tracker;
  how.granularity = options.granularity;
  how.host = options.host;
  return ChangeTracker(std::move(tracked), how);
}

std::vector<dev_t> devices_of(std::span<const LiveDisk> disks) {
  std::vector<dev_t> list;
  for (const LiveDisk& disk : disks)
    list.push_back(disk.device);
  return list;
}

class Capture {
 public:
  Capture(const LiveOptions& options, std::span<const LiveDisk> disks, const SendPass& send, EventSink& sink,
          const StopToken& stop)
      : options_(options), disks_(disks), send_(send), sink_(sink), stop_(stop), tracker_(make_tracker(options, disks)),
        swap_(disks.size()) {
    result_.free.resize(disks.size());
  }

  LiveResult run();

 private:
  using Ranges = std::vector<std::vector<Range>>;

  void read_maps();
  void read_maps_frozen(const std::vector<MountedFilesystem>& filesystems);
  Ranges used() const;
  Ranges wanted(Changes changes) const;
  static std::uint64_t bytes_of_all(const Ranges& disks);
  std::uint64_t cost_of(const Ranges& disks) const;
  void send_pass(LivePass::Kind kind, Ranges disks);
  void send_all_again();
  bool converge();
  bool small_enough(std::uint64_t cost) const;
  bool finish(std::string& why);
  bool send_rest(Changes changes);

  const LiveOptions& options_;
  const std::span<const LiveDisk> disks_;
  const SendPass& send_;
  EventSink& sink_;
  const StopToken& stop_;
  ChangeTracker tracker_;
  Ranges swap_;            ///< of each disk
  double rate_ = 0;        ///< cost a second, of the last pass that tells
  bool scattered_ = false; ///< that pass sent changes, not all in a row
  std::uint64_t done_ = 0; ///< cost of the last pass, when it was as quick as the last of all has to be
  Ranges left_;            ///< taken from the tracker, not sent yet
  LiveResult result_;
};

/// Freezes, reads what is free, thaws. Without a map all is sent.
void Capture::read_maps() {
  sink_.stage("map", "reading which blocks are used");
  const auto filesystems = filesystems_on(options_.host, devices_of(disks_));
  result_.notes.clear();
  for (auto& free : result_.free)
    free.clear();
  try {
    read_maps_frozen(filesystems);
  } catch (const Error& error) {
    if (error.code() != "FREEZE_EXPIRED")
      throw;
    tracker_.take();
    result_.notes.push_back("free blocks are sent too: their maps can't be read in the time for which filesystems may "
                            "stand still");
    for (auto& free : result_.free)
      free.clear();
  }
}

void Capture::read_maps_frozen(const std::vector<MountedFilesystem>& filesystems) {
  Freeze freeze(filesystems, {options_.freeze_limit});
  tracker_.take(); // nothing was sent yet
  std::vector<const MountedFilesystem*> frozen;
  for (const std::size_t i : freeze.frozen())
    frozen.push_back(&filesystems[i]);
  for (std::size_t i = 0; i < disks_.size(); i++) {
    LiveMap map = read_live_map(options_.host, disks_[i].device, *disks_[i].image, frozen);
    if (options_.skip_free)
      result_.free[i] = std::move(map.free);
    swap_[i] = std::move(map.swap);
    for (const std::string& note : map.notes)
      result_.notes.push_back(disks_[i].name + ": " + note);
  }
  const bool in_time = freeze.thaw();
  result_.map_freeze += freeze.duration();
  if (!in_time)
    throw Error("FREEZE_EXPIRED", "the maps of free blocks could not be read in time");
}

Capture::Ranges Capture::used() const {
  Ranges list;
  for (std::size_t i = 0; i < disks_.size(); i++) {
    const std::uint64_t size = disks_[i].image->size();
    const auto unused = united(result_.free[i], swap_[i]);
    list.push_back(widened(subtracted({{0, size}}, unused), options_.granularity, size));
  }
  return list;
}

/// Without what lies in swap areas alone. A piece that reaches out of one is sent.
Capture::Ranges Capture::wanted(Changes changes) const {
  for (std::size_t i = 0; i < disks_.size(); i++)
    changes.disks[i] = widened(subtracted(changes.disks[i], swap_[i]), options_.granularity, disks_[i].image->size());
  return std::move(changes.disks);
}

std::uint64_t Capture::bytes_of_all(const Ranges& disks) {
  std::uint64_t sum = 0;
  for (const auto& list : disks)
    sum += bytes_of(list);
  return sum;
}

/// What sending takes, in bytes. As long as only the first pass, all in a row, tells how fast that is, a change counts
/// as the unit that is read for it; afterwards as its own bytes and a sixteenth of that.
std::uint64_t Capture::cost_of(const Ranges& disks) const {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < disks.size(); i++) {
    const std::uint64_t units = bytes_of(widened(disks[i], options_.unit, disks_[i].image->size()));
    sum += scattered_ ? bytes_of(disks[i]) + units / 16 : units;
  }
  return sum;
}

void Capture::send_pass(LivePass::Kind kind, Ranges disks) {
  LivePass pass{kind, static_cast<unsigned>(result_.passes.size() + 1), std::move(disks), 0, {}};
  pass.bytes = bytes_of_all(pass.disks);
  if (kind == LivePass::Kind::first || kind == LivePass::Kind::again)
    pass.notes = result_.notes;
  const auto start = Clock::now();
  send_(pass);
  const milliseconds time = since(start);
  result_.passes.push_back({kind, pass.bytes, time});
  // A pass that is over in no time tells little; one that sends what is there already tells nothing.
  const bool tells = kind != LivePass::Kind::again && (rate_ == 0 || time >= milliseconds(200));
  if (tells)
    scattered_ = kind != LivePass::Kind::first;
  const std::uint64_t cost = cost_of(pass.disks);
  if (tells)
    rate_ = static_cast<double>(cost) * 1000 / static_cast<double>(std::max<long>(time.count(), 1));
  done_ = kind != LivePass::Kind::again && time <= options_.last_pass ? cost : 0;
}

/// Writes were missed: also what is free now may be used by then, so the maps are read anew.
void Capture::send_all_again() {
  sink_.message(EventSink::Level::warning, "LIVE_OVERRUN",
                "the kernel lost track of writes: all that is used is compared again");
  read_maps();
  sink_.stage("copy", "comparing all again");
  send_pass(LivePass::Kind::again, used());
}

bool Capture::small_enough(std::uint64_t cost) const {
  return cost <= done_ || static_cast<double>(cost) * 1000 <= rate_ * static_cast<double>(options_.last_pass.count());
}

/// Sends what is written meanwhile until little is left in left_. False when the passes are used up.
bool Capture::converge() {
  for (;;) {
    stop_.check();
    Changes changes = tracker_.take();
    if (changes.overrun) {
      left_.clear();
      // Never frozen like this: what was missed would be lost without a trace.
      if (result_.passes.size() >= options_.most_passes)
        throw Error("LIVE_NOT_CONVERGING", "this machine writes faster than its kernel can tell",
                    fmt::format("after {} passes it still loses track", result_.passes.size()), hint);
      send_all_again();
      continue;
    }
    Ranges more = wanted(std::move(changes));
    for (std::size_t i = 0; i < left_.size(); i++) // of a freeze that failed
      more[i] = united(std::move(more[i]), left_[i]);
    left_ = std::move(more);
    const std::uint64_t bytes = bytes_of_all(left_);
    if (small_enough(cost_of(left_)))
      return true;
    if (result_.passes.size() >= options_.most_passes)
      return false;
    sink_.stage("copy", fmt::format("pass {}: {} MiB were written meanwhile", result_.passes.size() + 1, bytes >> 20));
    send_pass(LivePass::Kind::changed, std::exchange(left_, {}));
  }
}

/// While all stands still. False on overrun.
bool Capture::send_rest(Changes changes) {
  for (unsigned round = 0;; round++) {
    if (changes.overrun)
      return false;
    Ranges rest = wanted(std::move(changes));
    if (round == 0)
      for (std::size_t i = 0; i < left_.size(); i++)
        rest[i] = united(std::move(rest[i]), left_[i]);
    const std::uint64_t bytes = bytes_of_all(rest);
    if (round > 0)
      result_.unsettled = bytes;
    if (round > 0 && bytes == 0)
      return true;
    send_pass(LivePass::Kind::last, std::move(rest));
    left_.clear();
    // Nothing writes to what is frozen; what isn't (vfat, raw disks) is followed for a while.
    if (round + 1 >= settle_rounds)
      return true;
    changes = tracker_.take();
  }
}

/// Freezes and sends the rest. False, with the reason, when it must be tried again.
bool Capture::finish(std::string& why) {
  const auto filesystems = filesystems_on(options_.host, devices_of(disks_));
  std::optional<Freeze> freeze;
  try {
    freeze.emplace(filesystems, FreezeOptions{options_.freeze_limit});
  } catch (const Error& error) {
    if (error.code() != "FREEZE_EXPIRED")
      throw;
    why = error.summary();
    return false;
  }
  result_.unsettled = 0;
  const bool tracked = send_rest(tracker_.take());
  const bool in_time = freeze->thaw();
  result_.last_freeze = freeze->duration();
  result_.frozen_at = freeze->frozen_at();
  for (const std::size_t i : freeze->not_frozen())
    result_.notes.push_back(
        fmt::format("{} ({}) can't be frozen and was copied last", filesystems[i].source, filesystems[i].type));
  if (!in_time)
    why = fmt::format("the last pass took longer than {} ms", options_.freeze_limit.count());
  else if (!tracked)
    why = "the kernel lost track of writes";
  if (!tracked)
    send_all_again();
  return in_time && tracked;
}

LiveResult Capture::run() {
  tracker_.start();
  read_maps();
  sink_.stage("copy", "copying what is used");
  send_pass(LivePass::Kind::first, used());
  std::string why;
  for (unsigned attempt = 0; attempt < options_.most_freezes; attempt++) {
    if (!converge() && !options_.freeze_anyway) {
      const std::uint64_t left = bytes_of_all(left_);
      throw Error("LIVE_NOT_CONVERGING", "this machine writes faster than its disks can be copied",
                  fmt::format("after {} passes {} MiB are left, at {:.1f} MiB/s", result_.passes.size(), left >> 20,
                              rate_ / (1 << 20)),
                  hint);
    }
    sink_.stage("freeze", "the filesystems stand still for the last pass");
    if (finish(why)) {
      sink_.stage("thaw", fmt::format("the filesystems stood still for {} ms", result_.last_freeze.count()));
      return std::move(result_);
    }
    sink_.message(EventSink::Level::warning, "FREEZE_EXPIRED", why + ": it is tried again");
  }
  throw Error("FREEZE_EXPIRED", "the last pass could not be finished while the filesystems stood still", why,
              "allow a longer freeze, stop what writes, or capture it from the boot medium");
}

} // namespace

LiveResult capture_live(const LiveOptions& options, std::span<const LiveDisk> disks, const SendPass& send,
                        EventSink& sink, const StopToken& stop) {
  return Capture(options, disks, send, sink, stop).run();
}

} // namespace kvmport
