// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/judge.h"

#include "base/console_text.h"
#include "kvmboot/patterns.h"

#include <algorithm>
#include <array>
#include <deque>
#include <fmt/ranges.h>
#include <regex>
#include <set>
#include <sstream>

namespace kvmport {

using std::chrono::milliseconds;

namespace {

constexpr std::array<std::string_view, 7> milestone_names{"firmware", "bootloader", "kernel", "initramfs",
                                                          "root",     "init",       "login"};
/// A machine may restart itself twice (a boot entry made by shim's fallback, a relabelling) before it counts as a loop.
constexpr unsigned resets_of_a_loop = 3;
constexpr milliseconds shortest_silence{5000};
/// Diagnoses lighter than this are not named when time runs out.
constexpr int nameable_weight = 15;
constexpr std::size_t max_quoted = 10;
constexpr std::size_t recent_lines = 6;

/// A rule whose regex is compiled when its needle is first found: few ever are, and a regex takes tens of microseconds.
template <class Rule> class Matcher {
 public:
  explicit Matcher(const Rule& r) : rule(&r) {}
  const Rule* rule;
  bool found(std::string_view line) {
    if (line.find(rule->needle) == std::string_view::npos)
      return false;
    if (rule->regex == nullptr)
      return true;
    if (!regex_)
      regex_.emplace(rule->regex, std::regex::ECMAScript | std::regex::optimize);
    return std::regex_search(line.begin(), line.end(), *regex_);
  }

 private:
  std::optional<std::regex> regex_;
};

template <class Rule> std::vector<Matcher<Rule>> matchers(std::span<const Rule> rules) {
  return {rules.begin(), rules.end()};
}

/// A failure that was seen and not overtaken by a later milestone.
struct Seen {
  const FailureRule* rule;
  milliseconds first;
  std::string line;
};

} // namespace

std::string to_string(Milestone milestone) {
  return std::string(milestone_names.at(static_cast<std::size_t>(milestone)));
}

Milestone parse_milestone(const std::string& name) {
  const auto found = std::ranges::find(milestone_names, name);
  if (found == milestone_names.end())
    throw Error("MILESTONE_UNKNOWN", "there is no milestone \"" + name + "\"", {},
                fmt::format("the milestones are: {}", fmt::join(milestone_names, ", ")));
  return static_cast<Milestone>(found - milestone_names.begin());
}

struct Judge::State {
  const Milestone until;
  const Silence silence;
  std::vector<Matcher<MilestoneRule>> milestones = matchers(milestone_rules());
  std::vector<Matcher<FailureRule>> failures = matchers(failure_rules());

  ConsoleText serial, firmware;
  std::set<std::string, std::less<>> screen; ///< the lines of the last screen
  std::vector<MilestoneHit> reached;
  std::set<Milestone> current; ///< those of this start that a console showed; `reached` has the first time of each
  std::set<Milestone> by_disk; ///< those of this start that the disks showed
  std::vector<std::string> contradicted; ///< what the disks showed against a failure
  std::vector<Seen> seen;
  std::optional<Seen> before_reset; ///< the heaviest failure of earlier starts of the machine
  std::deque<std::string> recent;   ///< the last lines of any console
  unsigned resets = 0;
  bool proven = false, hung = false, powered_off = false, faulted = false, settled = false;
  milliseconds last_new{}, last_milestone{}, last_activity{};

  State(Milestone asked, Silence quiet) : until(asked), silence(std::move(quiet)) {}

  void reach(Milestone m, milliseconds at, std::string_view line, std::string_view source) {
    const auto place = std::ranges::lower_bound(reached, m, {}, &MilestoneHit::milestone);
    if (place == reached.end() || place->milestone != m)
      reached.insert(place, {m, at, std::string(line), std::string(source)});
    proven = proven || m >= until;
  }

  void hit(Milestone m, milliseconds at, std::string_view line, std::string_view source) {
    current.insert(m);
    reach(m, at, line, source);
    last_milestone = at;
    std::erase_if(seen, [&](const Seen& s) { return s.rule->stage < m; });
  }

  /// Disks show some things late, and an initramfs that gives up may have mounted the root before: so what they show
  /// makes no failure of a console forgotten, and counts for nothing beside one after which nothing can come.
  void disk(const Evidence& evidence) {
    const auto name = std::find(milestone_names.begin(), milestone_names.end(),
                                std::string_view(evidence.text).substr(0, evidence.text.find(':')));
    if (name == milestone_names.end())
      return;
    last_new = evidence.at;
    const std::string text = plain_text(evidence.text);
    if (std::any_of(seen.begin(), seen.end(), [](const Seen& s) { return s.rule->effect == Effect::ends; })) {
      contradicted.push_back("against this, the disks show " + text);
      return;
    }
    const auto m = static_cast<Milestone>(name - milestone_names.begin());
    by_disk.insert(m);
    reach(m, evidence.at, text.substr(std::min(text.size(), name->size() + 2)), "disk");
  }

  void look(std::string_view line, bool whole, std::string_view source, milliseconds at) {
    for (auto& m : milestones) {
      if ((!whole && m.rule->place != Place::prompt) || current.contains(m.rule->milestone) ||
          (m.rule->after_root && !current.contains(Milestone::root) && !by_disk.contains(Milestone::root)))
        continue;
      if (m.found(line))
        hit(m.rule->milestone, at, line, source);
    }
    const Milestone stage = current.empty() ? Milestone::firmware : *current.rbegin();
    for (auto& f : failures)
      if ((whole || f.rule->place == Place::prompt) && f.rule->stage >= stage && f.found(line))
        note(*f.rule, line, at);
  }

  void note(const FailureRule& rule, std::string_view line, milliseconds at) {
    // The same line stands on several consoles, and prompts come again: one is enough.
    const bool known =
        std::any_of(seen.begin(), seen.end(), [&](const Seen& s) { return s.rule == &rule && s.line == line; });
    if (!known && seen.size() < 200)
      seen.push_back({&rule, at, std::string(line)});
  }

  void text(ConsoleText& console, const Evidence& evidence, std::string_view source) {
    last_new = evidence.at;
    console.feed(evidence.text, [&](std::string_view line) {
      look(line, true, source, evidence.at);
      recent.emplace_back(line);
      if (recent.size() > recent_lines)
        recent.pop_front();
    });
    if (!console.partial().empty())
      look(plain_text(console.partial()), false, source, evidence.at);
  }

  void screen_changed(const Evidence& evidence) {
    std::set<std::string, std::less<>> now;
    std::istringstream lines(evidence.text);
    for (std::string raw; std::getline(lines, raw);) {
      std::string line = plain_text(std::string_view(raw).substr(0, ConsoleText::max_line));
      line.erase(line.find_last_not_of(' ') + 1);
      if (line.empty())
        continue;
      if (!screen.contains(line)) {
        last_new = evidence.at;
        look(line, true, "screen", evidence.at);
      }
      now.insert(std::move(line));
    }
    screen = std::move(now);
  }

  void restarted() {
    resets++;
    if (const Seen* worst = heaviest(); worst != nullptr && worst->rule->weight >= nameable_weight &&
                                        (!before_reset || worst->rule->weight > before_reset->rule->weight))
      before_reset = *worst;
    seen.clear();
    current.clear();
    by_disk.clear();
    contradicted.clear();
    screen.clear();
    const auto drop = [](std::string_view) {};
    serial.flush(drop);
    firmware.flush(drop);
  }

  /// Sets `settled` when a failure that nothing can follow has stood long enough, and `hung`.
  void settle(milliseconds now) {
    for (const Seen& s : seen) {
      const milliseconds wait = std::chrono::seconds(s.rule->settle);
      if (s.rule->effect == Effect::ends && now - std::max(s.first, last_milestone) >= wait)
        settled = true;
      if (s.rule->effect == Effect::waits && now - std::max({s.first, last_new, last_activity}) >= wait)
        settled = true;
    }
    const milliseconds quiet = now - std::max(last_new, last_activity);
    hung = hung || (quiet >= shortest_silence && quiet >= silence());
  }

  const Seen* heaviest() const {
    const auto best = std::ranges::max_element(seen, {}, [](const Seen& s) { return s.rule->weight; });
    return best == seen.end() ? nullptr : &*best;
  }

  std::vector<std::string> quoted() const {
    std::vector<std::string> lines;
    for (const Seen& s : seen) {
      // The screen shows the same line cut off at its edge.
      const bool known =
          std::any_of(lines.begin(), lines.end(), [&](const std::string& l) { return l.starts_with(s.line); });
      if (lines.size() < max_quoted && !known)
        lines.push_back(s.line);
    }
    return lines;
  }

  Diagnosis diagnose(const EngineOutcome& outcome) const {
    using End = EngineOutcome::End;
    if (outcome.end == End::engine_failed) {
      Diagnosis d = plain("ENGINE_FAILED");
      if (!outcome.detail.empty())
        d.lines = {plain_text(outcome.detail)};
      return d;
    }
    if (outcome.end == End::interrupted)
      return plain("INTERRUPTED");
    const bool loop = resets >= resets_of_a_loop;
    const Seen* worst = heaviest();
    if (worst == nullptr || worst->rule->weight < nameable_weight)
      worst = loop && before_reset ? &*before_reset : nullptr;
    if (worst != nullptr) {
      Diagnosis d = plain(worst->rule->code);
      d.detail = worst->rule->detail;
      if (std::find(d.lines.begin(), d.lines.end(), worst->line) == d.lines.end())
        d.lines.insert(d.lines.begin(), worst->line);
      if (loop)
        d.text += "; and the machine restarts over and over";
      return d;
    }
    if (loop)
      return plain("BOOT_LOOP");
    if (faulted)
      return plain("GUEST_FAULT");
    if (powered_off || outcome.end == End::shutdown)
      return plain("POWERED_OFF");
    return plain(hung ? "BOOT_HANG" : "BOOT_TIMEOUT");
  }

  Diagnosis plain(std::string_view code) const {
    Diagnosis d{std::string(code), std::string(explain(code)), quoted(), {}};
    if (d.lines.empty())
      d.lines.assign(recent.begin(), recent.end());
    return d;
  }
};

Judge::Judge(Milestone until, Silence silence) : state_(std::make_unique<State>(until, std::move(silence))) {}
Judge::~Judge() = default;

bool Judge::feed(const Evidence& evidence) {
  State& s = *state_;
  switch (evidence.kind) {
  case Evidence::Kind::serial:
    s.text(s.serial, evidence, "serial");
    break;
  case Evidence::Kind::firmware:
    s.text(s.firmware, evidence, "firmware");
    break;
  case Evidence::Kind::screen:
    s.screen_changed(evidence);
    break;
  case Evidence::Kind::disk_write:
    s.last_activity = evidence.at;
    break;
  case Evidence::Kind::disk:
    s.disk(evidence);
    break;
  case Evidence::Kind::reset:
    s.restarted();
    break;
  case Evidence::Kind::shutdown:
    s.powered_off = true;
    break;
  case Evidence::Kind::fault:
    s.faulted = true;
    break;
  case Evidence::Kind::tick:
    if (evidence.text == "disk")
      s.last_activity = evidence.at;
    break;
  }
  s.settle(evidence.at);
  return !(s.proven || s.settled || s.hung || s.powered_off || s.faulted || s.resets >= resets_of_a_loop);
}

const std::vector<MilestoneHit>& Judge::reached() const {
  return state_->reached;
}

Verdict Judge::verdict(const EngineOutcome& outcome) const {
  Verdict v;
  v.proven = state_->proven;
  v.asked = state_->until;
  v.reached = state_->reached;
  v.wall = outcome.wall;
  v.cpu = outcome.cpu;
  if (!v.proven) {
    v.diagnosis = state_->diagnose(outcome);
    v.diagnosis->lines.insert(v.diagnosis->lines.end(), state_->contradicted.begin(), state_->contradicted.end());
    if (!outcome.detail.empty() && outcome.end != EngineOutcome::End::engine_failed)
      v.diagnosis->lines.push_back(plain_text(outcome.detail));
  }
  return v;
}

} // namespace kvmport
