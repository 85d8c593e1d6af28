// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/capture.h"

#include "libconvert/p2v/capture_plan.h"
#include "libconvert/p2v/capture_session.h"

#include <algorithm>
#include <fmt/format.h>
#include <random>
#include <thread>

namespace kvmport {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds first_delay{500}, longest_delay{30000};

std::string random_run() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}", random(), random());
}

/// Errors after which another try may succeed.
bool may_try_again(const Error& error) {
  return error.code() == "CONNECTION_LOST" || error.code() == "OUTPUT_BUSY";
}

void sleep_for(std::chrono::milliseconds time, const StopToken& stop) {
  for (const auto end = Clock::now() + time; Clock::now() < end;
       std::this_thread::sleep_for(std::chrono::milliseconds(20)))
    stop.check();
}

} // namespace

CaptureResult capture_machine(const CaptureOptions& options, const std::vector<CaptureDisk>& disks, EventSink& sink,
                              const StopToken& stop) {
  sink.stage("plan", "looking for what is used of the disks");
  CaptureResult result;
  ManifestMessage manifest{random_run(), options.name, options.machine, {}, options.wishes};
  std::vector<std::unique_ptr<CapturePlan>> plans;
  for (const auto& disk : disks) {
    stop.check();
    plans.push_back(std::make_unique<CapturePlan>(*disk.image, options.everything));
    manifest.disks.push_back(plans.back()->manifest());
    result.stats.total += plans.back()->size();
    result.stats.used += plans.back()->manifest().used;
  }
  result.disks = manifest.disks;
  RateLimit limit(options.bandwidth);
  Link link(options.target, options.interactive);
  sink.stage("capture", "sending to " + link.description());
  bool connected = false;
  auto delay = first_delay;
  auto progress_at = Clock::now();
  for (;;) {
    CaptureSession session(options, manifest, plans, disks, limit, sink, stop);
    try {
      result.result = session.run([&link, &stop] { return link.open(stop); });
      session.add_to(result.stats);
      return result;
    } catch (const Error& error) {
      session.add_to(result.stats);
      if (session.got_through()) {
        progress_at = Clock::now();
        delay = first_delay;
      }
      connected = connected || session.connected();
      if (stop.requested() || !may_try_again(error) || !connected || Clock::now() - progress_at > options.patience)
        throw;
      sink.message(
          EventSink::Level::warning, error.code(),
          fmt::format("{}: trying again in {:.1f} s", error.what(), static_cast<double>(delay.count()) / 1000));
      sleep_for(delay, stop);
      delay = std::min(delay * 2, longest_delay);
      result.stats.reconnects++;
    }
  }
}

} // namespace kvmport
