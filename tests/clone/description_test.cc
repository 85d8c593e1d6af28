// SPDX-License-Identifier: Apache-2.0
// A machine that has every identity, cloned twice in one run: nothing is shared, everything else stays as it was, and
// the result is what libvirt's schema and our own reader take.
#include "base/error.h"
#include "libconvert/machine/machine.h"
#include "libconvert/machine/text.h"
#include "tests/clone/description_support.h"

#include <algorithm>
#include <random>
#include <sstream>
#include <tinyxml2.h>

namespace kvmport {
namespace {

using namespace test;

/// Where a machine's identities stand, written down apart from the code: kind, and the end of the element's path with
/// '@' and the attribute, or the text without one.
constexpr std::pair<const char*, const char*> places[] = {
    {"name", "domain/name"},
    {"id", "domain@id"},
    {"title", "domain/title"},
    {"uuid", "domain/uuid"},
    {"uuid", "domain/genid"},
    {"uuid", "system/entry"},
    {"uuid", "memory/uuid"},
    {"uuid", "virtualport/parameters@interfaceid"},
    {"uuid", "virtualport/parameters@instanceid"},
    {"uuid", "virtualport/parameters@profileid"},
    {"uuid", "source@portid"},
    {"serial", "baseBoard/entry"},
    {"serial", "chassis/entry"},
    {"serial", "oemStrings/entry"},
    {"serial", "disk/serial"},
    {"wwn", "disk/wwn"},
    {"iqn", "initiator/iqn@name"},
    {"mac", "interface/mac@address"},
    {"device", "interface/target@dev"},
    {"cid", "vsock/cid@address"},
    {"cloud", "metadata/nova:instance"},
    {"path", "disk/source@file"},
    {"path", "disk/source@dev"},
    {"path", "backingStore/source@file"},
    {"path", "filesystem/source@dir"},
    {"path", "filesystem/source@socket"},
    {"path", "source/path"},
    {"path", "interface/source@path"},
    {"path", "interface/backend@logFile"},
    {"path", "serial/source@path"},
    {"path", "serial/log@file"},
    {"path", "parallel/source@path"},
    {"path", "console/source@path"},
    {"path", "console@tty"},
    {"path", "channel/source@path"},
    {"path", "backend/source@path"},
    {"path", "shmem/server@path"},
    {"path", "audio@path"},
    {"path", "listen@socket"},
    {"path", "os/nvram"},
    {"port", "source@service"},
    {"port", "source/local@port"},
    {"port", "graphics@port"},
    {"port", "graphics@tlsPort"},
    {"port", "graphics@websocket"},
    {"shmem", "shmem@name"},
    {"label", "seclabel/label"},
    {"label", "seclabel/imagelabel"},
};

/// What source and clone may share, each for a reason.
const std::set<std::string> shared = {
    "path /srv/iso/debian.iso",               // readonly
    "port 2446",                              // the far end of a connection
    "port 4000",                              // the same
    "port -1",                                // chosen at each start
    "serial what only the guest understands", // warned of
    "serial board",                           // a product's name
    "uuid example",
    "uuid sku-1",    // of the product too
    "label 107:107", // static, warned of
};

using Found = std::map<std::string, std::set<std::string>>; // place → "kind value"

void collect(const tinyxml2::XMLElement& element, const std::string& path, Found& found) {
  const std::string here = path + "/" + element.Name();
  for (const auto& [kind, place] : places) {
    const std::string_view view = place;
    const std::size_t at = view.find('@');
    const std::string end = "/" + std::string(view.substr(0, at));
    if (here.size() < end.size() || here.compare(here.size() - end.size(), end.size(), end) != 0)
      continue;
    const char* value = at == std::string_view::npos ? element.GetText() : element.Attribute(&place[at + 1]);
    if (value == nullptr && at == std::string_view::npos)
      value = "";
    if (value != nullptr)
      found[place].insert(std::string(kind) + " " + lower(trimmed(value)));
  }
  for (const auto* child = element.FirstChildElement(); child != nullptr; child = child->NextSiblingElement())
    collect(*child, here, found);
}

Found identities(const std::string& xml) {
  tinyxml2::XMLDocument document;
  EXPECT_EQ(document.Parse(xml.data(), xml.size()), tinyxml2::XML_SUCCESS) << document.ErrorStr();
  Found found;
  collect(*document.RootElement(), "", found);
  return found;
}

std::set<std::string> values(const Found& found) {
  std::set<std::string> all;
  for (const auto& [place, set] : found)
    all.insert(set.begin(), set.end());
  return all;
}

void expect_disjoint(const Found& a, const Found& b, const char* what) {
  const std::set<std::string> others = values(b);
  for (const auto& [place, set] : a)
    for (const std::string& value : set)
      EXPECT_TRUE(!others.contains(value) || shared.contains(value)) << what << " share " << value << " of " << place;
}

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> result;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);)
    result.push_back(line);
  return result;
}

class TwoClones : public ::testing::Test {
 protected:
  const std::string source = everything();
  TakenIdentities taken;
  DescriptionResult one = clone_description(source, "web.xml", everything_request("web-one"), taken);
  DescriptionResult two = clone_description(source, "web.xml", everything_request("web-two"), taken);
};

TEST_F(TwoClones, TheSourceHasEveryIdentity) {
  const Found found = identities(source);
  for (const auto& [kind, place] : places)
    EXPECT_TRUE(found.contains(place)) << place;
}

TEST_F(TwoClones, ShareNoIdentity) {
  const Found from = identities(source), first = identities(one.xml), second = identities(two.xml);
  expect_disjoint(from, first, "source and clone");
  expect_disjoint(from, second, "source and clone");
  expect_disjoint(first, second, "the clones");
}

TEST_F(TwoClones, NoOldValueStandsAnywhereUnnoticed) {
  for (const std::string& value : values(identities(source))) {
    const std::string plain = value.substr(value.find(' ') + 1);
    if (shared.contains(value) || plain.size() < 6)
      continue;
    const std::vector<std::string> all = lines(source);
    for (std::size_t i = 0; i < all.size(); i++) {
      const bool kept = contains(lower(all[i]), plain) && contains("\n" + one.xml, "\n" + all[i] + "\n");
      const bool warned = std::any_of(one.warnings.begin(), one.warnings.end(),
                                      [&](const DescriptionWarning& warning) { return warning.line == i + 1; });
      EXPECT_TRUE(!kept || warned) << "line " << i + 1 << ": " << all[i];
    }
  }
}

TEST_F(TwoClones, LeaveAllOtherLinesAsTheyWere) {
  const std::vector<std::string> before = lines(source), after = lines(one.xml);
  std::set<std::size_t> changed;
  for (const DescriptionChange& change : one.changes) {
    const auto span = static_cast<std::size_t>(std::count(change.before.begin(), change.before.end(), '\n'));
    for (std::size_t line = change.line; line <= change.line + span; line++)
      changed.insert(line);
  }
  std::size_t at = 0, unexplained = 0;
  for (std::size_t i = 0; i < before.size(); i++) {
    if (changed.contains(i + 1))
      continue;
    while (at < after.size() && after[at] != before[i])
      at++, unexplained++;
    ASSERT_LT(at, after.size()) << "line " << i + 1 << " is gone: " << before[i];
    at++;
  }
  EXPECT_LE(unexplained, changed.size());
  EXPECT_TRUE(contains(one.xml, "<app:colour   shade = \"dark\" >blue</app:colour></app:unknown>"));
  EXPECT_TRUE(contains(one.xml, "<!-- A machine with everything that tells it from others. Not for running. -->"));
}

TEST_F(TwoClones, SayWhatTheyDid) {
  std::set<std::string> known = {"leftover"}, used;
  for (const DescriptionRule& rule : description_rules())
    EXPECT_TRUE(known.insert(rule.name).second) << rule.name;
  const std::vector<std::string> text = lines(source);
  for (const DescriptionChange& change : one.changes) {
    EXPECT_TRUE(known.contains(change.rule));
    EXPECT_FALSE(change.reason.empty());
    EXPECT_NE(change.before, change.after);
    ASSERT_TRUE(change.line >= 1 && change.line <= text.size());
    const std::string first = change.before.substr(0, change.before.find('\n'));
    EXPECT_TRUE(contains(text[change.line - 1], first)) << change.what << ": " << first;
    used.insert(change.rule);
  }
  for (const DescriptionWarning& warning : one.warnings) {
    EXPECT_TRUE(known.contains(warning.rule));
    EXPECT_FALSE(contains(warning.quote, "geheim"));
    EXPECT_TRUE(warning.quote == trimmed(text.at(warning.line - 1)) || contains(warning.quote, "passwd='***'"));
    used.insert(warning.rule);
  }
  // The domain has no host device and no pstore, and libvirt keeps the state of its TPM by its UUID.
  for (const std::string& rule : known)
    EXPECT_TRUE(used.contains(rule) || rule == "host-device" || rule == "pstore" || rule == "tpm") << rule;
}

TEST_F(TwoClones, WarnOfWhatTheyCanNotDecide) {
  for (const auto& [rule, quote] : {std::pair{"command-line", "path=/run/web-mon.sock"},
                                    {"command-line", "WEB_ID"},
                                    {"pinning", "cpuset='0-3'"},
                                    {"pinning", "emulatorpin"},
                                    {"pinning", "nodeset='0'"},
                                    {"secret", "usage='libvirtiscsi'"},
                                    {"secret", "6dd3e4a5"},
                                    {"lease", "<lease>"},
                                    {"seclabel", "type='static'"},
                                    {"graphics-password", "passwd='***'"},
                                    {"net-address", "value='10.0.0.7'"},
                                    {"oem-strings", "what only the guest"},
                                    {"host-identity", "fibrechannel"},
                                    {"channel", "service='2446'"},
                                    {"leftover", "First floor"},
                                    {"disk-source", "type='network'"}})
    EXPECT_TRUE(has_warning(one, rule, quote)) << rule << " " << quote;
}

TEST_F(TwoClones, TellTheCallerWhichFilesToCopy) {
  ASSERT_TRUE(one.nvram && one.tpm);
  EXPECT_EQ(one.nvram->from, "/var/lib/libvirt/qemu/nvram/web_VARS.fd");
  EXPECT_EQ(one.nvram->to, "/var/lib/libvirt/qemu/nvram/web-one_VARS.fd");
  EXPECT_EQ(one.tpm->from_uuid, "3e3fce45-4f53-4fa7-bb32-11f34168b82b");
  EXPECT_EQ(one.tpm->to_uuid, one.uuid);
  EXPECT_TRUE(one.tpm->from_path.empty());
}

TEST_F(TwoClones, KeepWhatWasOneThingOneThing) {
  // The first console is the first serial port, and one asset tag stands on board and chassis.
  const auto channels = changes_of(one, "channel");
  std::set<std::string> ports, assets;
  for (const DescriptionChange& change : channels)
    if (change.before == "4555")
      ports.insert(change.after);
  for (const DescriptionChange& change : changes_of(one, "sysinfo"))
    if (change.before == "ASSET-0001")
      assets.insert(change.after);
  EXPECT_EQ(ports.size(), 1U);
  EXPECT_EQ(assets.size(), 1U);
}

TEST_F(TwoClones, AreClonableThemselves) {
  DescriptionRequest request = everything_request("web-three");
  request.disks["vda"] = {"/srv/three.qcow2", "", false};
  request.disks["/srv/web-one.nvdimm"] = {"/srv/three.nvdimm", "", false};
  request.disks["/srv/web-one.data"] = {"/srv/three.data", "", false};
  const DescriptionResult three = clone_description(one.xml, "web-one.xml", request, taken);
  expect_disjoint(identities(one.xml), identities(three.xml), "clone and its clone");
  expect_disjoint(identities(two.xml), identities(three.xml), "the clones");
}

TEST_F(TwoClones, AreReadAsMachines) {
  TempDir directory;
  write_file_durably(directory.path() / "web-one.xml", one.xml);
  ReadOptions options;
  for (const char* disk : {"vda", "sda", "sdb"}) {
    options.disk_paths[disk] = directory.path() / disk;
    write_file_durably(directory.path() / disk, "x");
  }
  const Machine machine = read_libvirt_xml(directory.path() / "web-one.xml", options);
  EXPECT_EQ(machine.name, "web-one");
  EXPECT_EQ(machine.uuid, one.uuid);
  EXPECT_EQ(machine.disks.size(), 3U);
  EXPECT_EQ(machine.nics.size(), 6U);
  EXPECT_TRUE(machine.tpm);
}

TEST_F(TwoClones, AreValidForLibvirt) {
  if (std::system("command -v virt-xml-validate >/dev/null 2>&1") != 0)
    GTEST_SKIP() << "NOT TESTED: virt-xml-validate (libvirt-clients) is not installed";
  TempDir directory;
  for (const DescriptionResult* clone : {&one, &two}) {
    write_file_durably(directory.path() / "clone.xml", clone->xml);
    EXPECT_NO_THROW(must_run({"virt-xml-validate", (directory.path() / "clone.xml").string(), "domain"}));
  }
}

// Lines dropped, doubled, moved, cut and with bytes changed: a clone or a refusal, nothing else.
TEST(DescriptionMutations, AreClonedOrRefused) {
  std::mt19937 random(20240611);
  const std::vector<std::string> original = lines(everything());
  int cloned = 0;
  for (int round = 0; round < 1500; round++) {
    std::vector<std::string> text = original;
    for (unsigned edits = 1 + random() % 4; edits > 0; edits--) {
      const std::size_t at = random() % text.size(), other = random() % text.size();
      std::string& line = text[at];
      switch (random() % 6) {
      case 0:
        text.erase(text.begin() + static_cast<std::ptrdiff_t>(at));
        break;
      case 1:
        text.insert(text.begin() + static_cast<std::ptrdiff_t>(other), line);
        break;
      case 2:
        std::swap(line, text[other]);
        break;
      case 3:
        line += text[other];
        break;
      case 4:
        line = line.substr(0, random() % (line.size() + 1));
        break;
      default:
        if (!line.empty())
          line[random() % line.size()] = "'<>/&=\"a0 \xFF"[random() % 11];
      }
    }
    std::string xml;
    for (const std::string& line : text)
      xml += line + "\n";
    const std::string code = code_of([&] {
      const DescriptionResult result = clone_of(xml, everything_request("web-clone"));
      TakenIdentities taken;
      EXPECT_NO_THROW(taken.add_domain(result.xml, "the clone")) << xml;
      cloned++;
    });
    EXPECT_TRUE(code.empty() || code == "DESCRIPTION_INVALID" || code == "DISK_NOT_MAPPED" || code == "PATH_IN_USE" ||
                code == "DESCRIPTION_UNSUPPORTED" || code == "HOSTDEV_PRESENT")
        << code;
  }
  EXPECT_GT(cloned, 100);
}

} // namespace
} // namespace kvmport
