// SPDX-License-Identifier: Apache-2.0
// Lists and patterns of clones, the state of a run, and whom a DHCP request is from.
#include "base/error.h"
#include "libconvert/clone/clone_list.h"
#include "libconvert/clone/clone_proof.h"
#include "libconvert/clone/clone_state.h"
#include "libconvert/clone/network_watch.h"
#include "tests/support/tempdir.h"

#include <functional>
#include <gmock/gmock.h>

namespace kvmport::test {
namespace {

using testing::ElementsAre;

Error error_of(const std::function<void()>& what) {
  try {
    what();
  } catch (const Error& error) {
    return error;
  }
  return {"", ""};
}

std::vector<std::string> names_of(const std::vector<CloneRequest>& clones) {
  std::vector<std::string> names;
  for (const auto& clone : clones)
    names.push_back(clone.name);
  return names;
}

TEST(NumberedClones, FollowThePattern) {
  EXPECT_THAT(names_of(numbered_clones("web-{:03}", 3, 9)), ElementsAre("web-009", "web-010", "web-011"));
  EXPECT_THAT(names_of(numbered_clones("{}.rack", 2, 1)), ElementsAre("1.rack", "2.rack"));
  EXPECT_THAT(names_of(numbered_clones("one", 1, 1)), ElementsAre("one"));
  for (const char* wrong : {"same", "web-{", "{} {}", "{:s}", "{:1000000000}"})
    EXPECT_EQ(error_of([&] { numbered_clones(wrong, 2, 1); }).code(), "USAGE") << wrong;
  EXPECT_EQ(error_of([] { numbered_clones("web-{}", most_clones + 1, 1); }).code(), "USAGE");
}

TEST(CloneList, CsvAsSpreadsheetsWriteIt) {
  const auto clones = clones_from_csv(
      "name,mac,hostname\r\nweb1,52:54:00:00:00:01 52:54:00:00:00:02,\"a\"\r\n\r\nweb2,,\r\n", "clones.csv");
  ASSERT_THAT(names_of(clones), ElementsAre("web1", "web2"));
  EXPECT_THAT(clones[0].macs, ElementsAre("52:54:00:00:00:01", "52:54:00:00:00:02"));
  EXPECT_EQ(clones[0].hostname, "a");
  EXPECT_THAT(clones[1].macs, ElementsAre());
}

TEST(CloneList, StaticAddresses) {
  const auto csv = clones_from_csv("name,address,gateway,dns\na,192.0.2.7/24 2001:db8::7/64,192.0.2.1,192.0.2.53 ::2\n"
                                   "b,,,\n",
                                   "clones.csv");
  EXPECT_EQ(csv[0].address.text(), "192.0.2.7/24 2001:db8::7/64 gateway 192.0.2.1 dns 192.0.2.53 dns ::2");
  EXPECT_TRUE(csv[1].address.empty());
  const auto toml = clones_from_toml("[[clone]]\nname = 'a'\naddress = '192.0.2.7/24'\ngateway = ['192.0.2.1']\n"
                                     "dns = ['192.0.2.53', '192.0.2.54']\n",
                                     "clones.toml");
  EXPECT_EQ(toml[0].address.text(), "192.0.2.7/24 gateway 192.0.2.1 dns 192.0.2.53 dns 192.0.2.54");
  const Error wrong = error_of([] { clones_from_csv("name,address\na,192.0.2.7/24\nb,192.0.2.8\n", "l.csv"); });
  EXPECT_EQ(wrong.code(), "LIST_INVALID");
  EXPECT_THAT(std::string(wrong.what()), testing::HasSubstr("l.csv, line 3: \"192.0.2.8\""));
  EXPECT_EQ(error_of([] { clones_from_toml("[[clone]]\nname='a'\ndns=['::1']\n", "l.toml"); }).code(), "LIST_INVALID");
}

TEST(CloneList, Toml) {
  const auto clones =
      clones_from_toml("[[clone]]\nname = 'web1'\nmac = ['52:54:00:00:00:01']\n[[clone]]\nname = 'web2'\n"
                       "hostname = 'two.example'\nmac = '52:54:00:00:00:02'\n",
                       "clones.toml");
  ASSERT_THAT(names_of(clones), ElementsAre("web1", "web2"));
  EXPECT_THAT(clones[0].macs, ElementsAre("52:54:00:00:00:01"));
  EXPECT_THAT(clones[1].macs, ElementsAre("52:54:00:00:00:02"));
  EXPECT_EQ(clones[1].hostname, "two.example");
}

TEST(CloneList, FaultsNameTheLine) {
  struct Case {
    const char *text, *line;
    bool toml = false;
  };
  for (const auto& [text, line, toml] :
       {Case{"name,colour\nweb,red\n", "line 1"}, Case{"name\nweb,1\n", "line 2"}, Case{"name,mac\n,x\n", "line 2"},
        Case{"name\n\"web\n", "line"}, Case{"[[clone]]\nname = 1\n", "line 2", true},
        Case{"[[clone]]\nhostname = 'x'\n", "line 1", true}, Case{"name = 'x'\n", "line 1", true},
        Case{"[[clone]]\nname = 'x'\ncolour = 'red'\n", "line 1", true}, Case{"[[clone]\n", "line 1", true},
        Case{"clone = [1]\n", "line 1", true}, Case{"[[clone]]\nname='x'\nmac=[1]\n", "line 1", true}}) {
    const Error error = error_of(
        [&, text = text, is_toml = toml] { is_toml ? clones_from_toml(text, "list") : clones_from_csv(text, "list"); });
    EXPECT_EQ(error.code(), "LIST_INVALID") << text;
    EXPECT_THAT(error.summary(), testing::HasSubstr(line)) << text;
  }
  const TempDir dir;
  for (const char* name : {"list.txt", "list.csv"}) {
    write_file_durably(dir.path() / name, "name\n");
    EXPECT_EQ(error_of([&] { clones_from_file(dir.path() / name); }).code(), "LIST_INVALID");
  }
}

TEST(CloneRunState, IsKeptForTheSameSettingsAlone) {
  const TempDir dir;
  const auto file = dir.path() / "run.sqlite";
  std::string seed;
  {
    CloneRunState state(file, "a");
    seed = state.seed();
    EXPECT_FALSE(seed.empty());
    EXPECT_FALSE(state.uuid("web"));
    state.remember_uuid("web", "u-1");
    EXPECT_FALSE(state.done("web"));
    state.remember_done("web");
    state.remember_uuid("web2", "u-2");
    state.remember_failed("web2", "DISK_FULL: it's full");
  }
  {
    const CloneRunState state(file, "a");
    EXPECT_EQ(state.seed(), seed);
    EXPECT_TRUE(state.done("web"));
    EXPECT_FALSE(state.done("web2"));
    EXPECT_EQ(state.uuid("web2"), "u-2");
  }
  const CloneRunState other(file, "b");
  EXPECT_NE(other.seed(), seed);
  EXPECT_FALSE(other.done("web"));
  write_file_durably(dir.path() / "no.sqlite", "this is no database, however long it may be");
  EXPECT_EQ(error_of([&] { CloneRunState(dir.path() / "no.sqlite", "a"); }).code(), "STATE_FAILED");
}

/// A DHCPDISCOVER as Ethernet carries it.
Bytes discover(const std::vector<unsigned>& options) {
  Bytes frame(14 + 20 + 8 + 236 + 4);
  store_be<std::uint16_t>(frame, 12, 0x0800);
  frame[14] = std::byte{0x45};
  frame[14 + 9] = std::byte{17};
  store_be<std::uint16_t>(frame, 14 + 20 + 2, 67);
  frame[14 + 28] = std::byte{1};
  for (unsigned i = 0; i < 6; i++)
    frame[14 + 28 + 28 + i] = std::byte{static_cast<unsigned char>(0x52 + i)};
  store_be<std::uint32_t>(frame, 14 + 28 + 236, 0x63825363);
  for (const unsigned option : options)
    frame.push_back(static_cast<std::byte>(option));
  return frame;
}

TEST(DhcpClient, IsReadFromDiscovers) {
  const auto plain = dhcp_client(discover({53, 1, 1, 255}));
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->first, "52:53:54:55:56:57");
  EXPECT_EQ(plain->second, "01:52:53:54:55:56:57");
  EXPECT_EQ(dhcp_client(discover({0, 0, 53, 1, 1, 61, 3, 255, 0, 9, 255}))->second, "ff:00:09");
  for (const auto& cut : {std::vector<unsigned>{61}, {61, 200, 1}, {}}) // lies about its length
    EXPECT_EQ(dhcp_client(discover(cut))->second, "01:52:53:54:55:56:57");
  const Bytes whole = discover({53, 1, 1, 255});
  for (std::size_t size = 0; size < whole.size() - 4; size++)
    EXPECT_FALSE(dhcp_client(ByteSpan(whole).first(size))) << size;
  for (const auto& [at, value] : {std::pair<std::size_t, unsigned>{12, 6},
                                  {14, 0x44},
                                  {14, 0x4f},
                                  {14 + 9, 6},
                                  {14 + 20 + 3, 68},
                                  {14 + 28, 2},
                                  {14 + 28 + 236, 0}}) {
    Bytes other = whole;
    other[at] = static_cast<std::byte>(value);
    EXPECT_FALSE(dhcp_client(other)) << at;
  }
}

/// Ethernet's source.
void come_from_guest(Bytes& frame) {
  for (unsigned i = 0; i < 6; i++)
    frame[6 + i] = std::byte{static_cast<unsigned char>(0x52 + i)};
}

/// One of several addresses of a card, and of another card, is shared all the same.
TEST(SharedAfterBoot, AddressesAreComparedOneByOne) {
  CloneOutcome a, b;
  a.name = "a";
  a.identity = {{"heard-address", "192.0.2.1, 2001:db8::5"}, {"mac", "52:54:00:00:00:01"}};
  b.name = "b";
  b.identity = {{"heard-address", "192.0.2.2"}, {"heard-address 2", "2001:db8::5"}, {"mac", "52:54:00:00:00:02"}};
  EXPECT_EQ(shared_after_boot({}, {a, b}), std::vector<std::string>{"heard-address: a, b"});
}

TEST(AddressHolder, AnswersArp) {
  const IpAddress asked = parse_ip("192.0.2.7").value();
  const Bytes question = address_question(asked, parse_ip("192.0.2.1").value());
  EXPECT_EQ(address_holder(question)->second.text(), "192.0.2.1") << "who asks has an address, too";
  Bytes answer = question; // as a kernel does: what was asked for becomes the sender's
  come_from_guest(answer);
  answer[21] = std::byte{2};
  std::copy_n(question.begin() + 38, 4, answer.begin() + 28);
  const auto holder = address_holder(answer);
  ASSERT_TRUE(holder);
  EXPECT_EQ(holder->first, "52:53:54:55:56:57");
  EXPECT_EQ(holder->second, asked);
  for (std::size_t size = 0; size < 42; size++)
    EXPECT_FALSE(address_holder(ByteSpan(answer).first(size))) << size;
  std::fill_n(answer.begin() + 28, 4, std::byte{0});
  EXPECT_FALSE(address_holder(answer)) << "it only makes sure that nobody has it";
  answer[28] = std::byte{169};
  answer[29] = std::byte{254};
  EXPECT_FALSE(address_holder(answer)) << "of the link alone";
}

TEST(AddressHolder, AdvertisesNeighbours) {
  const IpAddress asked = parse_ip("2001:db8::7").value();
  Bytes frame = address_question(asked, {});
  EXPECT_FALSE(address_holder(frame)) << "it asks";
  std::uint32_t sum = 32 + 58; // RFC 4443, section 2.3: with its checksum all is ones
  for (std::size_t at = 14 + 8; at < frame.size(); at += 2)
    sum += load_be<std::uint16_t>(frame, at);
  EXPECT_EQ((sum & 0xffff) + (sum >> 16), 0xffffU);
  frame[14 + 40] = std::byte{136};
  come_from_guest(frame);
  const auto holder = address_holder(frame);
  ASSERT_TRUE(holder);
  EXPECT_EQ(holder->first, "52:53:54:55:56:57");
  EXPECT_EQ(holder->second, asked);
  for (std::size_t size = 0; size < 14 + 40 + 24; size++)
    EXPECT_FALSE(address_holder(ByteSpan(frame).first(size))) << size;
}

} // namespace
} // namespace kvmport::test
