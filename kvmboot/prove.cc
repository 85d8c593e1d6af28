// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"
#include "kvmboot/judge.h"

#include <fmt/format.h>
#include <set>

namespace kvmport {
namespace {

/// How long a guest on full KVM may be silent, with its disks idle, before it counts as hung.
constexpr std::chrono::seconds ordinary_silence{60};
/// No more of the serial console than this is kept.
constexpr std::uint64_t max_serial_log = 16U << 20;

/// One engine's run and what came of it.
std::pair<Verdict, EngineOutcome::End> try_engine(Engine& engine, const BootSpec& spec, Milestone until,
                                                  const std::filesystem::path& serial_log, EventSink& sink,
                                                  const StopToken& stop) {
  const UniqueFd log = serial_log.empty() ? UniqueFd() : create_or_empty(serial_log);
  std::uint64_t logged = 0;
  std::chrono::milliseconds end{};
  Judge judge(until, [&engine] {
    return std::chrono::duration_cast<std::chrono::milliseconds>(ordinary_silence * engine.time_scale());
  });
  std::set<Milestone> told;
  sink.stage("prove", "booting " + (spec.name.empty() ? "the machine" : spec.name) + " on " + engine.name() +
                          ", until " + to_string(until));
  const EngineOutcome outcome = engine.run(
      spec,
      [&](const Evidence& evidence) {
        if (log && evidence.kind == Evidence::Kind::serial) {
          const std::string_view bytes = std::string_view(evidence.text).substr(0, max_serial_log - logged);
          write_exact(log.get(), logged, as_bytes(bytes), serial_log.string());
          logged += bytes.size();
        }
        const bool more = judge.feed(evidence);
        if (more)
          end = evidence.at + spec.linger;
        for (const MilestoneHit& hit : judge.reached())
          if (told.insert(hit.milestone).second)
            sink.message(EventSink::Level::info, "MILESTONE",
                         fmt::format("{} after {:.1f} s ({}): {}", to_string(hit.milestone),
                                     std::chrono::duration<double>(hit.at).count(), hit.source, hit.evidence));
        return more || evidence.at < end;
      },
      stop);
  Verdict verdict = judge.verdict(outcome);
  verdict.engine = engine.name();
  verdict.engine_reason = engine.reason();
  return {verdict, outcome.end};
}

} // namespace

Verdict prove_boot(Engine& engine, const BootSpec& spec, Milestone until, const std::filesystem::path& serial_log,
                   EventSink& sink, const StopToken& stop) {
  Engine* chosen = &engine;
  for (;;) {
    Engine* const next = chosen->fallback();
    std::string why = chosen->unsupported(spec);
    if (next == nullptr || why.empty()) {
      auto [verdict, end] = try_engine(*chosen, spec, until, serial_log, sink, stop);
      if (next == nullptr || end != EngineOutcome::End::engine_failed)
        return verdict;
      why = verdict.diagnosis && !verdict.diagnosis->lines.empty() ? verdict.diagnosis->lines.front() : "it failed";
    }
    sink.message(EventSink::Level::warning, "ENGINE",
                 "engine " + next->name() + " instead of " + chosen->name() + ": " + why);
    chosen = next;
  }
}

} // namespace kvmport
