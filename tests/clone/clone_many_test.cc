// SPDX-License-Identifier: Apache-2.0
// Many clones of one run: they differ, one that fails does not stop the others, and a repeated run does the rest.
#include "base/process.h"
#include "libconvert/clone/clone_list.h"
#include "tests/clone/clone_fixture.h"

#include <set>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

using State = CloneOutcome::State;

std::set<std::string> values_of(const CloneResult& result, const std::string& rule) {
  std::set<std::string> values;
  for (const CloneOutcome& clone : result.clones)
    if (clone.description)
      for (const auto& change : clone.description->changes)
        if (change.rule == rule)
          values.insert(change.after);
  return values;
}

TEST_F(Clone, ManyDifferAndARepeatedRunDoesTheRest) {
  CloneOptions o = options();
  o.mode = CloneMode::linked;
  o.workers = 2;
  const auto requests = numbered_clones("web-{:02}", 8, 1);
  // Stopped after some clones.
  sink.on_progress = [&](const std::string& name, std::uint64_t done) {
    if (name == "clones" && done >= 3)
      stop.request();
  };
  const CloneResult first = clone(o, requests);
  const auto done = std::ranges::count_if(first.clones, [](const auto& c) { return c.state == State::done; });
  EXPECT_GE(done, 2);
  EXPECT_LT(done, 8);
  StopToken go;
  sink.on_progress = {};
  const CloneResult second = clone_guest(o, requests, sink, go);
  for (std::size_t i = 0; i < requests.size(); i++)
    EXPECT_EQ(second.clones[i].state, first.clones[i].state == State::done ? State::before : State::done)
        << requests[i].name;
  std::set<std::string> uuids, macs, hostnames;
  for (const auto& request : requests) {
    const std::string xml = read_file(out(request.name + ".xml"));
    uuids.insert(xml.substr(xml.find("<uuid>"), 50));
    macs.insert(xml.substr(xml.find("<mac address"), 32));
    hostnames.insert(guest_file(out(request.name + ".qcow2"), "/etc/hostname"));
  }
  EXPECT_EQ(uuids.size(), 8U);
  EXPECT_EQ(macs.size(), 8U);
  EXPECT_EQ(hostnames.size(), 8U);
  // What was planned for a clone in the first run is what it got in the second.
  for (std::size_t i = 0; i < requests.size(); i++)
    if (second.clones[i].state == State::done) {
      EXPECT_EQ(second.clones[i].description->uuid, first.clones[i].description->uuid);
    }
  for (const auto& name : names(out()))
    EXPECT_THAT(name, testing::Not(testing::HasSubstr("partial")));
}

TEST_F(Clone, OneThatFailsDoesNotStopTheOthers) {
  CloneOptions o = options();
  fs::create_directories(out("web-2.qcow2.partial") / "in the way");
  const auto requests = numbered_clones("web-{}", 3, 1);
  const CloneResult first = clone(o, requests);
  EXPECT_EQ(first.clones[0].state, State::done);
  EXPECT_EQ(first.clones[1].state, State::failed);
  EXPECT_EQ(first.clones[2].state, State::done);
  EXPECT_FALSE(fs::exists(out("web-2.xml")));
  fs::remove_all(out("web-2.qcow2.partial"));
  const CloneResult second = clone(o, requests);
  EXPECT_EQ(second.clones[0].state, State::before);
  EXPECT_EQ(second.clones[1].state, State::done);
  expect_own_machine(out("web-2.qcow2"), "web-2");
}

TEST_F(Clone, ASeedMakesTheSameAddresses) {
  CloneOptions o = options();
  o.mode = CloneMode::linked;
  o.mac_seed = "rack 4";
  o.dry_run = true;
  const auto requests = numbered_clones("web-{}", 3, 1);
  const auto macs = values_of(clone(o, requests), "mac");
  EXPECT_EQ(macs.size(), 3U);
  EXPECT_EQ(values_of(clone(o, requests), "mac"), macs);
  o.mac_seed = "rack 5";
  EXPECT_NE(values_of(clone(o, requests), "mac"), macs);
}

// --- proofs -------------------------------------------------------------------------------------------------------

TEST_F(Clone, AProofThatCannotBeginEndsItsCloneOnly) {
  CloneOptions o = options();
  o.boot_together = 2;
  o.timeout = std::chrono::seconds(1);
  o.engine = "qemu";
  sink.on_progress = [&](const std::string& name, std::uint64_t done) {
    if (name == "clones" && done == 2) // both are made, and their boots follow
      fs::remove(out("web-1.qcow2.partial"));
  };
  const CloneResult result = clone(o, numbered_clones("web-{}", 2, 1));
  EXPECT_EQ(result.clones[0].state, State::failed);
  ASSERT_TRUE(result.clones[0].error);
  EXPECT_EQ(result.clones[0].error->code(), "NOT_FOUND");
  EXPECT_FALSE(result.clones[0].verdict);
  EXPECT_EQ(result.clones[1].state, State::done);
  ASSERT_TRUE(result.clones[1].verdict);
  EXPECT_FALSE(result.clones[1].verdict->proven) << "nothing in it boots";
  expect_own_machine(out("web-2.qcow2"), "web-2");
  for (const std::string& name : names(out()))
    EXPECT_THAT(name, testing::Not(testing::HasSubstr("web-1"))) << name;
}

} // namespace
} // namespace kvmport::test
