// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/capture.h"

#include "libconvert/p2v/capture_plan.h"
#include "libconvert/p2v/capture_session.h"
#include "libconvert/p2v/live_passes.h"

#include <algorithm>
#include <fmt/format.h>
#include <random>
#include <thread>

namespace kvmport {
namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;
constexpr std::chrono::milliseconds first_delay{500}, longest_delay{30000};
constexpr unsigned most_rounds = 4;

std::string random_run() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}", random(), random());
}

void sleep_for(std::chrono::milliseconds time, const StopToken& stop) {
  for (const auto end = Clock::now() + time; Clock::now() < end;
       std::this_thread::sleep_for(std::chrono::milliseconds(20)))
    stop.check();
}

/// A moment of the steady clock by the clock on the wall, not too early.
std::chrono::system_clock::time_point on_the_wall(Clock::time_point moment) {
  const auto ago = Clock::now() - moment;
  return std::chrono::system_clock::now() - std::chrono::duration_cast<std::chrono::system_clock::duration>(ago);
}

/// One capture: its sessions, one after the other.
class Capture {
 public:
  Capture(const CaptureOptions& options, const std::vector<CaptureDisk>& disks, EventSink& sink, const StopToken& stop)
      : options_(options), disks_(disks), sink_(sink), stop_(stop), limit_(options.bandwidth),
        link_(options.target, options.interactive), manifest_{random_run(),
                                                              options.name,
                                                              options.machine,
                                                              {},
                                                              options.wishes} {}

  CaptureResult run();

 private:
  void cold();
  void live();
  void send_pass(const LivePass& pass);
  void write_manifest();
  void connect();
  void lost(const Error& error);
  void end_session();
  /// Does `work` with a session, again and again until its connections hold.
  template <class Work> void persist(const Work& work) {
    while (result_.result.is_null())
      try {
        connect();
        if (result_.result.is_null())
          work(*session_);
        return;
      } catch (const Error& error) {
        lost(error);
      }
  }

  const CaptureOptions& options_;
  const std::vector<CaptureDisk>& disks_;
  EventSink& sink_;
  const StopToken& stop_;
  RateLimit limit_;
  Link link_;
  ManifestMessage manifest_;
  std::vector<std::unique_ptr<CapturePlan>> plans_;
  std::unique_ptr<CaptureSession> session_;
  bool connected_ = false;
  std::chrono::milliseconds delay_ = first_delay;
  Clock::time_point progress_at_ = Clock::now();
  CaptureResult result_;
};

void Capture::write_manifest() {
  manifest_.disks.clear();
  for (const auto& plan : plans_)
    manifest_.disks.push_back(plan->manifest());
}

void Capture::connect() {
  if (session_)
    return;
  write_manifest();
  session_ = std::make_unique<CaptureSession>(options_, manifest_, plans_, disks_, limit_, sink_, stop_);
  if (auto early = session_->connect([this] { return link_.open(stop_); }))
    result_.result = std::move(*early);
}

void Capture::end_session() {
  if (session_)
    session_->add_to(result_.stats);
  session_.reset();
}

/// Waits before the next try; throws when there is none.
void Capture::lost(const Error& error) {
  if (session_ && session_->got_through()) {
    progress_at_ = Clock::now();
    delay_ = first_delay;
  }
  connected_ = connected_ || (session_ && session_->connected());
  end_session();
  const bool may_try_again = error.code() == "CONNECTION_LOST" || error.code() == "OUTPUT_BUSY";
  if (stop_.requested() || !may_try_again || !connected_ || Clock::now() - progress_at_ > options_.patience)
    throw error;
  sink_.message(EventSink::Level::warning, error.code(),
                fmt::format("{}: trying again in {:.1f} s", error.what(), static_cast<double>(delay_.count()) / 1000));
  sleep_for(delay_, stop_);
  delay_ = std::min(delay_ * 2, longest_delay);
  result_.stats.reconnects++;
}

void Capture::cold() {
  sink_.stage("plan", "looking for what is used of the disks");
  for (const auto& disk : disks_) {
    stop_.check();
    plans_.push_back(std::make_unique<CapturePlan>(*disk.image, options_.everything));
  }
  sink_.stage("capture", "sending to " + link_.description());
}

void Capture::send_pass(const LivePass& pass) {
  for (std::size_t i = 0; i < plans_.size(); i++)
    plans_[i]->use(pass.disks[i]);
  if (!pass.notes.empty())
    plans_.front()->set_notes(pass.notes);
  result_.stats.passes++;
  if (pass.kind == LivePass::Kind::last) // no ssh can be started now
    return session_ ? session_->send(true)
                    : throw Error("CONNECTION_LOST", "the connection was lost before the last pass");
  sink_.stage("capture", fmt::format("pass {}: {} MiB", pass.number, pass.bytes >> 20));
  persist([](CaptureSession& session) { session.send(false); });
}

void Capture::live() {
  std::vector<LiveDisk> live;
  for (std::size_t i = 0; i < disks_.size(); i++) {
    plans_.push_back(std::make_unique<CapturePlan>(*disks_[i].image));
    live.push_back({disks_[i].device, disks_[i].image.get(), options_.machine.disks[i].source_name});
  }
  LiveOptions options;
  options.skip_free = !options_.everything;
  options.unit = p2v_chunk_size;
  options.freeze_limit = options_.freeze_limit;
  options.last_pass = options.freeze_limit / 5; // it is an estimate
  while (result_.result.is_null())
    try {
      const LiveResult live_result = capture_live(
          options, live, [this](const LivePass& pass) { send_pass(pass); }, sink_, stop_);
      result_.stats.frozen = live_result.last_freeze;
      result_.stats.frozen_at = on_the_wall(live_result.frozen_at);
      plans_.front()->set_notes(live_result.notes);
      return;
    } catch (const Error& error) {
      lost(error);
    }
}

CaptureResult Capture::run() {
  if (options_.live)
    live();
  else
    cold();
  // What a running machine holds now is not what was captured: nothing of it can be sent again.
  persist([this](CaptureSession& session) {
    if (options_.live) {
      result_.result = session.finish(1);
    } else {
      session.send(false);
      result_.result = session.finish(most_rounds);
    }
  });
  end_session();
  write_manifest();
  result_.disks = manifest_.disks;
  for (const auto& plan : plans_) {
    result_.stats.total += plan->size();
    result_.stats.used += plan->manifest().used;
  }
  return result_;
}

} // namespace

CaptureResult capture_machine(const CaptureOptions& options, const std::vector<CaptureDisk>& disks, EventSink& sink,
                              const StopToken& stop) {
  return Capture(options, disks, sink, stop).run();
}

} // namespace kvmport
