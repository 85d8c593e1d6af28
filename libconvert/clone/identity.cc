// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/identity.h"

#include "base/error.h"
#include "libconvert/clone/identity_glob.h"
#include "libconvert/clone/identity_rules.h"

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <numeric>
#include <random>

namespace kvmport {
namespace {

using namespace identity;

/// Groups of rules and which belong to them.
struct Group {
  const char* name;
  bool (*has)(const IdentityRule&);
};
constexpr Group groups[] = {{"defaults", [](const IdentityRule& rule) { return rule.by_default; }},
                            {"all", [](const IdentityRule&) { return true; }},
                            {"traces", [](const IdentityRule& rule) { return rule.trace; }},
                            {"none", [](const IdentityRule&) { return false; }}};

/// Levenshtein's distance.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); i++) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); j++) {
      const std::size_t cost = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({cost, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

Error unknown_rule(const std::string& name) {
  std::vector<std::string> names;
  for (const Group& group : groups)
    names.emplace_back(group.name);
  for (const IdentityRule& rule : identity_rules())
    names.push_back(rule.name);
  const auto nearest = std::ranges::min_element(names, {}, [&](const auto& known) { return distance(name, known); });
  return {"RULE_UNKNOWN", "there is no identity rule named \"" + name + "\"",
          "groups are defaults, all, traces and none; the manual page lists the rules",
          "did you mean \"" + *nearest + "\"?"};
}

std::string random_seed() {
  std::random_device device;
  return fmt::format("{:08x}{:08x}{:08x}{:08x}", device(), device(), device(), device());
}

/// Removes or empties what one pattern of a rule matches.
void clean(const IdentityRule& rule, const GuestInfo& info, const std::string& pattern, Draft& draft) {
  const auto found = find_paths(info, draft, pattern);
  if (found.size() == most_found)
    draft.warn(fmt::format("{}: {} matches more than {} files; the rest were left", rule.name, pattern, most_found));
  for (const FoundPath& path : found) {
    if (rule.action == IdentityRule::Action::empty) {
      if (path.type == FileType::regular)
        draft.empty(path.path, rule.summary);
    } else if (path.type == FileType::directory) {
      // Sockets and devices stay, and so do the directories that hold them.
      if (draft.list(path.path).empty())
        draft.remove_directory(path.path, rule.summary);
    } else if (path.type != FileType::other) {
      const bool named = pattern.find_first_of("*?[") == std::string::npos;
      const auto target = named && path.type == FileType::symlink ? draft.guest().stat(path.path) : std::nullopt;
      if (target && target->type == FileType::regular)
        draft.warn(rule.name + ": " + path.path + " is a link; the file that it points to (" +
                   draft.readlink(path.path) + ") was left");
      draft.remove(path.path, rule.summary);
    }
  }
}

void run_rule(const IdentityRule& rule, const GuestInfo& info, const CloneIdentity& identity, Draft& draft) {
  for (const auto& [path, why] : rule.unless)
    if (!find_paths(info, draft, path).empty()) {
      draft.warn("the rule " + rule.name + " was left out: " + why);
      return;
    }
  for (const std::string& pattern : rule.paths)
    clean(rule, info, pattern, draft);
  if (rule.edit)
    rule.edit(info, identity, draft);
}

std::vector<IdentityRule> all_rules() {
  std::vector<IdentityRule> rules;
  for (const auto part : {hostname_rules, network_rules, connection_rules, address_rules, ssh_rules, storage_rules,
                          account_rules, agent_rules, cluster_rules, trace_rules, machine_rules})
    std::ranges::move(part(), std::back_inserter(rules));
  return rules;
}

} // namespace

const std::vector<IdentityRule>& identity_rules() {
  static const std::vector<IdentityRule> rules = all_rules();
  return rules;
}

RuleSelection select_rules(const std::string& text) {
  const auto& rules = identity_rules();
  std::vector<bool> chosen(rules.size(), false);
  const auto apply = [&](const std::string& name, bool on) {
    const auto group = std::ranges::find_if(groups, [&](const Group& g) { return name == g.name; });
    bool known = group != std::end(groups);
    for (std::size_t i = 0; i < rules.size(); i++)
      if (group != std::end(groups) ? group->has(rules[i]) : rules[i].name == name) {
        chosen[i] = on;
        known = true;
      }
    if (!known)
      throw unknown_rule(name);
  };
  if (text.starts_with('+') || text.starts_with('-'))
    apply("defaults", true);
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t comma = std::min(text.find(',', at), text.size());
    std::string item = text.substr(at, comma - at);
    at = comma + 1;
    const bool off = item.starts_with('-');
    if (off || item.starts_with('+'))
      item.erase(0, 1);
    apply(item, !off);
  }
  RuleSelection selection;
  for (std::size_t i = 0; i < rules.size(); i++)
    if (chosen[i])
      selection.push_back(&rules[i]);
  return selection;
}

Plan plan_identity(const GuestInfo& info, const GuestFilesystem& guest, const CloneIdentity& identity,
                   const RuleSelection& rules) {
  CloneIdentity clone = identity;
  if (clone.seed.empty())
    clone.seed = random_seed();
  Plan plan;
  Draft draft(guest, plan);
  for (const IdentityRule* rule : rules) {
    draft.step = rule->name;
    run_rule(*rule, info, clone, draft);
  }
  return plan;
}

std::vector<IdentityFinding> identity_report(const GuestInfo& info, const GuestFilesystem& guest) {
  Plan unused;
  const Draft draft(guest, unused);
  std::vector<IdentityFinding> found;
  for (const IdentityRule& rule : identity_rules()) {
    if (rule.report)
      rule.report(info, draft, found);
    else if (!rule.trace)
      for (const std::string& path : find_files(info, draft, rule.paths))
        report_digest(rule.name, path, draft, found);
  }
  return found;
}

std::vector<IdentityFinding> shared_identity(const std::vector<IdentityFinding>& a,
                                             const std::vector<IdentityFinding>& b) {
  std::vector<IdentityFinding> shared;
  for (const IdentityFinding& finding : a)
    if (std::ranges::any_of(
            b, [&](const auto& other) { return other.rule == finding.rule && other.value == finding.value; }))
      shared.push_back(finding);
  return shared;
}

std::map<std::string, std::string> main_identity(const GuestInfo& info, const GuestFilesystem& guest) {
  Plan unused;
  const Draft draft(guest, unused);
  std::map<std::string, std::string> values{{"hostname", configured_hostname(draft)},
                                            {"dhcp-duid", stored_duid(info, draft)}};
  std::size_t addresses = 0;
  for (const IdentityFinding& finding : identity_report(info, guest)) {
    if (finding.rule == "machine-id")
      values.emplace("machine-id", finding.value);
    if (finding.rule == "static-address")
      values[++addresses == 1 ? "address" : fmt::format("address {}", addresses)] = finding.value;
  }
  for (const auto& [type, print] : host_key_fingerprints(info, draft))
    values["ssh-host-key " + type] = print;
  std::erase_if(values, [](const auto& value) { return value.second.empty(); });
  return values;
}

std::string rules_as_mdoc() {
  std::string text = ".Bl -tag -width Ds\n";
  for (const IdentityRule& rule : identity_rules()) {
    text += ".It Cm " + rule.name + (rule.by_default ? "" : " Pq off") + "\n" + rule.summary + ".\n";
    if (rule.paths.empty())
      continue;
    text += rule.action == IdentityRule::Action::empty ? "Empties" : "Removes";
    text += fmt::format("\n.Pa {} .\n", fmt::join(rule.paths, " ,\n.Pa "));
  }
  return text + ".El\n";
}

} // namespace kvmport
