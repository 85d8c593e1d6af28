// SPDX-License-Identifier: Apache-2.0
// Clones of a libvirt connection (its test driver): a domain is defined when its files are there, also by the run after
// one that was killed or whose definition was refused.
#include "base/late_library.h"
#include "libconvert/host/connection.h"
#include "tests/clone/clone_fixture.h"

#include <libvirt/libvirt.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

using State = CloneOutcome::State;

class CloneInLibvirt : public Clone {
 protected:
  /// The test driver keeps its state in the process as long as one connection is open.
  CloneInLibvirt() : connection_("test:///default") {}
  CloneOptions of(const std::string& name) {
    connection_.define(std::string(domain(name, disk().string(), "qcow2")).replace(14, 3, "test"));
    CloneOptions o = options();
    o.sources.clear();
    o.connection = "test:///default";
    o.domain = name;
    return o;
  }
  bool defined(const std::string& name) const {
    return std::ranges::any_of(connection_.all_domains(), [&](const std::string& xml) {
      return xml.find("<name>" + name + "</name>") != std::string::npos;
    });
  }
  /// Another machine takes the clone's name while its disks are made: libvirt refuses the clone's definition.
  void refuse_definition_of(const std::string& name) {
    sink.on_stage = [this, name](const std::string& text) {
      if (text.starts_with("cloning "))
        connection_.define(std::string(domain(name, "/nowhere/x.img", "qcow2"))
                               .replace(14, 3, "test")
                               .replace(domain(name, "/nowhere/x.img", "qcow2").find("11111111") + 1, 8, "99999999"));
    };
  }
  static void undefine(const std::string& name) {
    const auto call = [](auto function) { return function; };
    virConnectPtr connection = call(KVMPORT_LATE("libvirt.so.0", virConnectOpen))("test:///default");
    virDomainPtr found = call(KVMPORT_LATE("libvirt.so.0", virDomainLookupByName))(connection, name.c_str());
    EXPECT_EQ(call(KVMPORT_LATE("libvirt.so.0", virDomainUndefine))(found), 0);
    call(KVMPORT_LATE("libvirt.so.0", virDomainFree))(found);
    call(KVMPORT_LATE("libvirt.so.0", virConnectClose))(connection);
  }
  LibvirtConnection connection_;
};

TEST_F(CloneInLibvirt, AClonedDomainIsDefinedWhenItsDisksAreThere) {
  ASSERT_NO_FATAL_FAILURE(clone(of("in-libvirt"), {{"web2"}}));
  EXPECT_TRUE(defined("web2"));
  expect_own_machine(out("web2.qcow2"), "web2");
  EXPECT_EQ(code_of([&] { clone(of("in-libvirt"), {{"web2"}}); }), "FILE_EXISTS");
}

TEST_F(CloneInLibvirt, AFailedCloneIsNotDefined) {
  const CloneOptions o = of("in-libvirt-2");
  fs::create_directories(out("web3.qcow2.partial") / "in the way");
  EXPECT_EQ(clone(o, {{"web3"}}).clones.at(0).state, State::failed);
  EXPECT_FALSE(defined("web3"));
}

TEST_F(CloneInLibvirt, RefusalsNameTheDomain) {
  EXPECT_EQ(code_of([] { LibvirtConnection("nonsense:///"); }), "LIBVIRT_FAILED");
  EXPECT_EQ(code_of([&] { connection_.shut_off_domain("nobody"); }), "DOMAIN_NOT_FOUND");
  EXPECT_EQ(code_of([&] { connection_.shut_off_domain("test"); }), "SOURCE_RUNNING"); // the driver's own, which runs
}

TEST_F(CloneInLibvirt, ARefusedDefinitionIsMadeUpForByTheNextRun) {
  const CloneOptions o = of("in-libvirt-3");
  refuse_definition_of("web4");
  const CloneResult first = clone(o, {{"web4"}});
  ASSERT_EQ(first.clones.at(0).state, State::failed);
  EXPECT_EQ(first.clones[0].error->code(), "LIBVIRT_FAILED");
  EXPECT_TRUE(fs::exists(out("web4.report.json.intent.partial")));
  undefine("web4");
  ASSERT_FALSE(defined("web4"));
  // As if that run had been killed between two renames.
  const std::string report = read_file(out("web4.report.json"));
  fs::rename(out("web4.qcow2"), out("web4.qcow2.partial"));
  fs::remove(out("web4.report.json"));
  fs::remove(out("web4.xml"));
  sink.on_stage = {};
  const CloneResult second = clone(o, {{"web4"}});
  EXPECT_EQ(second.clones.at(0).state, State::before);
  EXPECT_TRUE(defined("web4"));
  EXPECT_EQ(names(out()), (std::vector<std::string>{"web4.qcow2", "web4.report.json", "web4.xml"}));
  EXPECT_EQ(read_file(out("web4.report.json")), report);
  expect_own_machine(out("web4.qcow2"), "web4");
}

TEST_F(CloneInLibvirt, AnIntentOfOtherSettingsIsForgotten) {
  CloneOptions o = of("in-libvirt-4");
  refuse_definition_of("web5");
  ASSERT_EQ(clone(o, {{"web5"}}).clones.at(0).state, State::failed);
  undefine("web5");
  sink.on_stage = {};
  o.force = true;
  const CloneResult other = clone(o, {{"web5", "other-name"}});
  ASSERT_EQ(other.clones.at(0).state, State::done) << "made anew, not rolled forward";
  EXPECT_TRUE(defined("web5"));
  EXPECT_EQ(guest_file(out("web5.qcow2"), "/etc/hostname"), "other-name\n");
  EXPECT_FALSE(fs::exists(out("web5.report.json.intent.partial")));
}

} // namespace
} // namespace kvmport::test
