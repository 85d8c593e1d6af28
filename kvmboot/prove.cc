// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"
#include "kvmboot/judge.h"
#include "kvmboot/probe.h"

#include <array>
#include <cstdio>
#include <fcntl.h>

namespace kvmport {
namespace {

/// How long a guest on full KVM may be silent, with its disks idle, before it counts as hung.
constexpr std::chrono::seconds ordinary_silence{60};

class SerialLog {
 public:
  explicit SerialLog(const std::filesystem::path& path) : path_(path) {
    if (path.empty())
      return;
    fd_ = UniqueFd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (!fd_)
      throw system_error(errno, "can't write " + path.string());
  }
  void add(std::string_view bytes) {
    if (!fd_)
      return;
    write_exact(fd_.get(), written_, as_bytes(bytes), path_.string());
    written_ += bytes.size();
  }

 private:
  std::filesystem::path path_;
  UniqueFd fd_;
  std::uint64_t written_ = 0;
};

std::string seconds_text(std::chrono::milliseconds t) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f s", static_cast<double>(t.count()) / 1000);
  return text.data();
}

/// Tells milestones as they come.
class Teller {
 public:
  explicit Teller(EventSink& sink) : sink_(sink) {}
  void tell(const std::vector<MilestoneHit>& reached) {
    for (const MilestoneHit& hit : reached) {
      const auto bit = 1U << static_cast<unsigned>(hit.milestone);
      if ((told_ & bit) != 0)
        continue;
      told_ |= bit;
      sink_.message(EventSink::Level::info, "MILESTONE",
                    to_string(hit.milestone) + " after " + seconds_text(hit.at) + " (" + hit.source +
                        "): " + hit.evidence);
    }
  }

 private:
  EventSink& sink_;
  unsigned told_ = 0;
};

} // namespace

Verdict prove_boot(Engine& engine, const BootSpec& spec, Milestone until, const std::filesystem::path& serial_log,
                   EventSink& sink, const StopToken& stop) {
  using std::chrono::milliseconds;
  SerialLog log(serial_log);
  const std::chrono::duration<double> silence = ordinary_silence * host_probe().time_scale();
  Judge judge(until, std::chrono::duration_cast<milliseconds>(silence));
  Teller teller(sink);
  sink.stage("prove", "booting " + (spec.name.empty() ? "the machine" : spec.name) + " on " + engine.name() +
                          ", until " + to_string(until));
  const EngineOutcome outcome = engine.run(
      spec,
      [&](const Evidence& evidence) {
        if (evidence.kind == Evidence::Kind::serial)
          log.add(evidence.text);
        const bool more = judge.feed(evidence);
        teller.tell(judge.reached());
        return more;
      },
      stop);
  Verdict verdict = judge.verdict(outcome);
  verdict.engine = engine.name();
  verdict.engine_reason = engine.reason();
  return verdict;
}

} // namespace kvmport
