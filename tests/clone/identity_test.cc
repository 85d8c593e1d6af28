// SPDX-License-Identifier: Apache-2.0
// Every identity rule by itself: what it matches goes, what it edits changes; how rules are chosen and described.
#include "base/error.h"
#include "libconvert/report.h"
#include "tests/clone/clone_tree.h"

#include <gmock/gmock.h>
#include <set>

namespace kvmport::test {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

using Files = std::map<std::string, std::string>;

/// A path that a pattern matches.
std::string sample_of(std::string pattern) {
  const auto replace = [&](const std::string& what, const std::string& with) {
    for (std::size_t at = pattern.find(what); at != std::string::npos; at = pattern.find(what))
      pattern.replace(at, what.size(), with);
  };
  replace("**", "sub/file");
  replace("[0-9]", "1");
  replace("*", "x");
  return pattern;
}

/// What rules that edit or warn find, and (edited) what must no longer stand there.
struct Sample {
  Files files;
  std::string gone; ///< in the first file
};
const std::map<std::string, Sample>& edited_samples() {
  static const std::map<std::string, Sample> samples{
      {"hostname", {{{"/etc/hostname", "db1\n"}}, "db1"}},
      {"mac-addresses", {{{"/etc/iftab", std::string("eth0 mac ") + old_mac + "\n"}}, old_mac}},
      {"persistent-net-rules",
       {{{"/etc/udev/rules.d/70-persistent-net.rules",
          std::string("SUBSYSTEM==\"net\", ATTR{address}==\"") + old_mac + "\", NAME=\"eth0\"\n"}},
        old_mac}},
      {"connection-uuids",
       {{{"/etc/NetworkManager/system-connections/a.nmconnection",
          "[connection]\nuuid=1b2c3d4e-0000-4111-8222-333344445555\n"}},
        "1b2c3d4e"}},
      {"snakeoil-certificate",
       {{{"/etc/ssl/private/ssl-cert-snakeoil.key", "key"},
         {"/etc/ssl/certs/ssl-cert-snakeoil.pem", "certificate"},
         {"/usr/sbin/make-ssl-cert", "#!/bin/bash\n"}},
        "key"}},
      {"iscsi-initiator",
       {{{"/etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.1993-08.org.debian:01:abcdef012345\n"}},
        "abcdef012345"}},
      {"nvme-host",
       {{{"/etc/nvme/hostnqn", "nqn.2014-08.org.nvmexpress:uuid:1b2c3d4e-0000-4111-8222-333344445555\n"},
         {"/etc/nvme/hostid", "1b2c3d4e-0000-4111-8222-333344445555\n"}},
        "1b2c3d4e"}},
      {"popularity-contest", {{{"/etc/popularity-contest.conf", "MY_HOSTID=\"00ff\"\nDAY=\"3\"\n"}}, "00ff"}},
      {"snapd-device",
       {{{"/var/lib/snapd/state.json", R"({"data":{"auth":{"device":{"model":"pc","serial":"5e71a1"}}}})"}}, "5e71a1"}},
      {"snmp-engine", {{{"/var/lib/snmp/snmpd.conf", "oldEngineID 0x8000\nkeep 1\n"}}, "0x8000"}},
      {"machine-id", {{{"/etc/machine-id", "0123456789abcdef0123456789abcdef\n"}}, "0123"}},
      {"static-address", {{{"/etc/network/interfaces.d/lan", "iface eth0 inet static\n  address 10.0.0.4/24\n"}}, {}}},
      {"crowdstrike", {{{"/opt/CrowdStrike/falconstore", "x"}}, {}}},
      {"wireguard", {{{"/etc/wireguard/wg0.conf", "[Interface]\nPrivateKey = aaaa\n"}}, {}}},
      {"cluster-members", {{{"/etc/corosync/corosync.conf", "x"}}, {}}},
  };
  return samples;
}

/// All that the rules find, in one guest with systemd.
void fill(CloneTree& tree) {
  tree.file("/usr/lib/systemd/systemd", "").file("/usr/bin/ssh-keygen", "");
  for (const IdentityRule& rule : identity_rules())
    for (const std::string& pattern : rule.paths)
      tree.file(sample_of(pattern), "of the original: " + pattern);
  for (const auto& [rule, sample] : edited_samples())
    tree.files(sample.files);
}

TEST(IdentityRules, EachOneAloneDoesWhatItSays) {
  for (const IdentityRule& rule : identity_rules()) {
    SCOPED_TRACE(rule.name);
    const auto edited = edited_samples().find(rule.name);
    ASSERT_TRUE(!rule.paths.empty() || edited != edited_samples().end()) << "the test has no files for this rule";
    CloneTree tree;
    tree.file("/usr/lib/systemd/systemd", "");
    for (const std::string& pattern : rule.paths)
      tree.file(sample_of(pattern), "of the original");
    if (edited != edited_samples().end())
      tree.files(edited->second.files);
    const Plan plan = tree.apply(db2(), rule.name);
    for (const std::string& pattern : rule.paths)
      EXPECT_TRUE(tree.cleaned(sample_of(pattern))) << pattern;
    for (const Change& change : plan.changes) {
      EXPECT_EQ(change.step, rule.name);
      EXPECT_FALSE(change.reason.empty());
    }
    if (edited == edited_samples().end())
      continue;
    if (edited->second.gone.empty()) {
      EXPECT_THAT(plan.changes, IsEmpty());
      EXPECT_FALSE(plan.warnings.empty());
    } else if (const std::string& path = edited->second.files.begin()->first; tree.exists(path)) {
      EXPECT_THAT(tree.read(path), Not(HasSubstr(edited->second.gone)));
    }
  }
}

TEST(IdentityRules, RemovedSecretsAreReplacedNotOnlyRemoved) {
  CloneTree tree;
  fill(tree);
  tree.apply(db2(), "none,snakeoil-certificate,iscsi-initiator,nvme-host,popularity-contest,snmp-engine");
  EXPECT_FALSE(tree.exists("/etc/ssl/private/ssl-cert-snakeoil.key"));
  EXPECT_THAT(tree.read("/etc/systemd/system/kvmport-snakeoil.service"), HasSubstr("make-ssl-cert"));
  EXPECT_THAT(tree.read("/etc/iscsi/initiatorname.iscsi"),
              testing::MatchesRegex("InitiatorName=iqn.1993-08.org.debian:01:[0-9a-f]+\n"));
  const std::string id = tree.read("/etc/nvme/hostid");
  EXPECT_EQ(tree.read("/etc/nvme/hostnqn"), "nqn.2014-08.org.nvmexpress:uuid:" + id);
  EXPECT_THAT(tree.read("/etc/popularity-contest.conf"), testing::MatchesRegex("MY_HOSTID=\"[0-9a-f]+\"\nDAY=\"3\"\n"));
  EXPECT_EQ(tree.read("/var/lib/snmp/snmpd.conf"), "keep 1\n");
}

TEST(IdentityRules, TheMachineIdIsLastAndEmptyWhateverElseRuns) {
  EXPECT_EQ(identity_rules().back().name, "machine-id");
  CloneTree tree;
  fill(tree);
  const Plan plan = tree.apply(db2(), "all");
  EXPECT_EQ(tree.read("/etc/machine-id"), "");
  EXPECT_EQ(plan.changes.back().path, "/etc/machine-id");
  EXPECT_EQ(plan.changes.back().kind, Change::Kind::empty);
}

TEST(IdentityRules, WhatIsOffByDefaultIsLeft) {
  CloneTree tree;
  fill(tree);
  const Plan plan = tree.apply(db2(), "defaults");
  std::set<std::string> off;
  for (const IdentityRule& rule : identity_rules())
    if (!rule.by_default)
      off.insert(rule.name);
  EXPECT_THAT(off, Contains("histories"));
  EXPECT_THAT(off, Contains("ssh-user-keys"));
  for (const Change& change : plan.changes)
    EXPECT_FALSE(off.contains(change.step)) << change.step;
  EXPECT_FALSE(tree.cleaned("/root/.bash_history"));
  EXPECT_FALSE(tree.cleaned("/var/log/x.log"));
}

TEST(IdentityRules, NothingIsLeftAfterAllAndASecondRunFindsNothing) {
  CloneTree tree;
  fill(tree);
  const auto before = tree.report();
  std::set<std::string> reported;
  for (const IdentityFinding& finding : before)
    reported.insert(finding.rule);
  for (const IdentityRule& rule : identity_rules())
    if (!rule.trace && rule.name != "persistent-net-rules") { // its addresses are reported with the others
      EXPECT_THAT(reported, Contains(rule.name));
    }

  tree.apply(db2(), "all");
  for (const IdentityFinding& finding : shared_identity(before, tree.report())) {
    // These rules only warn.
    EXPECT_THAT((std::set<std::string>{"static-address", "crowdstrike", "wireguard", "cluster-members"}),
                Contains(finding.rule))
        << finding.path << " " << finding.value;
  }
  CloneIdentity keep = db2();
  keep.hostname.clear();
  // Values that were made new would be made new again.
  EXPECT_THAT(tree.apply(keep, "all,-connection-uuids,-iscsi-initiator,-nvme-host,-popularity-contest").changes,
              IsEmpty());
}

TEST(IdentityRules, GuardedRulesAreLeftOutWithAWarning) {
  for (const IdentityRule& rule : identity_rules())
    for (const auto& [guard, why] : rule.unless) {
      CloneTree tree;
      for (const std::string& pattern : rule.paths)
        tree.file(sample_of(pattern), "x");
      tree.file(sample_of(guard), "x");
      const Plan plan = tree.apply(db2(), rule.name);
      EXPECT_THAT(plan.changes, IsEmpty()) << rule.name;
      EXPECT_THAT(warnings_of(plan), HasSubstr("the rule " + rule.name + " was left out: " + why));
    }
}

TEST(IdentityRules, NoSecretReachesTheReport) {
  CloneTree tree;
  fill(tree);
  tree.file("/etc/ssh/ssh_host_rsa_key", "SECRET1", 0600)
      .file("/etc/NetworkManager/system-connections/a.nmconnection",
            "[connection]\nuuid=1b2c3d4e-0000-4111-8222-333344445555\n[wifi-security]\npsk=SECRET2\n", 0600)
      .file("/etc/netplan/01.yaml", std::string("macaddress: ") + old_mac + "\npassword: SECRET3\n", 0600)
      .file("/etc/wireguard/wg0.conf", "PrivateKey=SECRET4\n", 0600)
      .file("/var/lib/snapd/state.json", R"({"data":{"auth":{"device":{"serial":"s","key-id":"SECRET5"}}}})", 0600);
  std::string text;
  for (const IdentityFinding& finding : tree.report())
    text += finding.path + finding.value;
  const Plan plan = tree.apply(db2(), "all");
  text += to_json(plan).dump();
  EXPECT_THAT(text, Not(HasSubstr("SECRET")));
  EXPECT_THAT(text, HasSubstr("/etc/netplan/01.yaml"));
  EXPECT_EQ(tree.read("/var/lib/snapd/state.json"), R"({"data":{"auth":{"device":{}}}})");
}

TEST(IdentityRules, LinksLeadNowhere) {
  CloneTree tree;
  tree.file("/etc/passwd", "root")
      .file("/data/inside", "kept")
      .file("/var/log2/x.log", "real log")
      .link("/etc/passwd", "/home/eve/.bash_history")
      .link("/data", "/home/eve/.ssh")
      .link("/data", "/tmp/d")
      .link("round", "/tmp/round")
      .link("/etc/passwd", "/var/log2/y.log")
      .link("log2", "/var/log")
      .file("/keys/krb5.keytab", "kept")
      .link("/keys/krb5.keytab", "/etc/krb5.keytab");
  const Plan plan = tree.apply(db2(), "histories,ssh-user-keys,tmp-files,logs,kerberos-keytab");
  EXPECT_EQ(tree.read("/etc/passwd"), "root");
  EXPECT_EQ(tree.read("/data/inside"), "kept");
  EXPECT_EQ(tree.read("/keys/krb5.keytab"), "kept");
  EXPECT_FALSE(tree.exists("/home/eve/.bash_history"));
  EXPECT_FALSE(tree.exists("/tmp/d"));
  EXPECT_TRUE(tree.exists("/tmp"));
  EXPECT_TRUE(tree.exists("/home/eve/.ssh"));
  EXPECT_EQ(tree.read("/var/log2/x.log"), ""); // the system's own link is followed
  EXPECT_THAT(warnings_of(plan), HasSubstr("kerberos-keytab: /etc/krb5.keytab is a link"));
}

TEST(IdentityRules, MountPointsAndLostFoundStay) {
  CloneTree tree;
  tree.file("/tmp/lost+found/x", "x").file("/tmp/mounted/file", "x").file("/tmp/dir/file", "x");
  GuestInfo info;
  info.mounts = {{"/", "", "ext4", ""}, {"/tmp/mounted", "", "ext4", ""}};
  tree.apply(db2(), "tmp-files", info);
  EXPECT_TRUE(tree.exists("/tmp/lost+found/x"));
  EXPECT_TRUE(tree.exists("/tmp/mounted"));
  EXPECT_FALSE(tree.exists("/tmp/mounted/file"));
  EXPECT_FALSE(tree.exists("/tmp/dir"));
}

std::set<std::string> selected(const std::string& text) {
  std::set<std::string> names;
  for (const IdentityRule* rule : select_rules(text))
    names.insert(rule->name);
  return names;
}

TEST(SelectRules, NamesAndGroupsFromLeftToRight) {
  const auto defaults = selected("defaults");
  EXPECT_EQ(selected("all").size(), identity_rules().size());
  EXPECT_EQ(selected("none"), std::set<std::string>{});
  EXPECT_EQ(selected("machine-id,hostname"), (std::set<std::string>{"machine-id", "hostname"}));
  EXPECT_EQ(selected("defaults,-ssh-host-keys").size(), defaults.size() - 1);
  EXPECT_EQ(selected("-ssh-host-keys"), selected("defaults,-ssh-host-keys"));
  EXPECT_EQ(selected("+histories").size(), defaults.size() + 1);
  EXPECT_THAT(selected("defaults,-ssh-host-keys,+traces"), Contains("journal"));
  EXPECT_EQ(selected("traces,-traces,logs"), std::set<std::string>{"logs"});
  EXPECT_EQ(select_rules("machine-id,hostname").back()->name, "machine-id");
}

TEST(SelectRules, AnUnknownNameIsRefusedWithTheNearest) {
  for (const auto& [text, nearest] : std::map<std::string, std::string>{{"defaults,-ssh-hostkeys", "ssh-host-keys"},
                                                                        {"machineid", "machine-id"},
                                                                        {"default", "defaults"},
                                                                        {"defaults,", ""},
                                                                        {"", ""}})
    try {
      (void)select_rules(text);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), "RULE_UNKNOWN");
      EXPECT_THAT(error.hint(), HasSubstr(nearest));
    }
}

TEST(IdentityRules, TheirManualNamesEachOnce) {
  const std::string text = rules_as_mdoc();
  std::set<std::string> names;
  for (const IdentityRule& rule : identity_rules()) {
    EXPECT_TRUE(names.insert(rule.name).second) << rule.name;
    EXPECT_THAT(text, HasSubstr(".It Cm " + rule.name + (rule.by_default ? "\n" : " Pq off\n")));
    EXPECT_FALSE(rule.summary.empty());
    EXPECT_EQ(rule.summary.find('\n'), std::string::npos);
    EXPECT_EQ(rule.summary.find(". "), std::string::npos) << rule.summary; // mdoc(7): a sentence, a line
  }
  EXPECT_THAT(text, HasSubstr(".Pa /etc/krb5.keytab .\n"));
}

} // namespace
} // namespace kvmport::test
