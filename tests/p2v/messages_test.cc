// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/link.h"
#include "libconvert/p2v/messages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace kvmport {
namespace {

using nlohmann::json;

ManifestMessage sample_manifest() {
  ManifestMessage m;
  m.run = "0123";
  m.name = "server1";
  m.machine.name = "server1";
  m.machine.uuid = "564d7088-01a1-4b7c-8d2e-000000000001";
  m.machine.memory = 96ULL << 30;
  m.machine.cpu = {2, 8, 2, "Xeon"};
  m.machine.firmware = MachineFirmware::uefi;
  MachineDisk disk;
  disk.controller = ControllerType::nvme;
  disk.source_name = "nvme0n1";
  disk.serial = "S123";
  disk.logical_sector = disk.physical_sector = 4096;
  disk.boot_order = 1;
  m.machine.disks = {disk};
  MachineNic nic;
  nic.mac = "00:1b:21:aa:bb:cc";
  nic.model = "ixgbe";
  m.machine.nics = {nic};
  m.disks = {{1ULL << 40, 1ULL << 38, {"clean ext4"}}};
  m.wishes.format = "raw";
  return m;
}

TEST(P2vMessages, ManifestComesBackAsItWas) {
  const ManifestMessage m = sample_manifest();
  const ManifestMessage back = decode_manifest(as_bytes(encode(m)));
  EXPECT_EQ(encode(back), encode(m));
  EXPECT_EQ(back.identity(), m.identity());
  EXPECT_EQ(back.machine.cpu.count(), 32U);
  EXPECT_EQ(back.machine.disks.at(0).boot_order, 1U);
}

TEST(P2vMessages, IdentityTellsMachinesApart) {
  const ManifestMessage m = sample_manifest();
  ManifestMessage again = m;
  again.run = "another start";
  again.disks[0].used = 5;
  EXPECT_EQ(again.identity(), m.identity());
  for (const auto& change : std::vector<std::function<void(ManifestMessage&)>>{
           [](auto& x) { x.machine.uuid.back() = '2'; }, [](auto& x) { x.disks[0].size += 512; },
           [](auto& x) { x.machine.disks[0].serial = "S124"; }, [](auto& x) { x.name = "server2"; }}) {
    ManifestMessage other = m;
    change(other);
    EXPECT_NE(other.identity(), m.identity());
  }
}

struct BadManifest {
  const char* name;
  json patch; ///< JSON merge patch
};

class BadManifests : public testing::TestWithParam<BadManifest> {};

TEST_P(BadManifests, AreRefused) {
  json j = json::parse(encode(sample_manifest()));
  j.merge_patch(GetParam().patch);
  try {
    decode_manifest(as_bytes(j.dump()));
    FAIL() << "taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "PROTOCOL_ERROR");
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, BadManifests,
    testing::Values(
        BadManifest{"Path", {{"name", "../../etc/passwd"}}}, BadManifest{"Dots", {{"name", ".."}}},
        BadManifest{"Absolute", {{"name", "/etc/x"}}}, BadManifest{"Empty", {{"name", ""}}},
        BadManifest{"Newline", {{"name", "a\nb"}}}, BadManifest{"Long", {{"name", std::string(300, 'a')}}},
        BadManifest{"NoName", {{"name", nullptr}}}, BadManifest{"NumberAsName", {{"name", 5}}},
        BadManifest{"NoDisks", {{"disks", json::array()}}},
        BadManifest{"OddSize", {{"disks", {{{"size", 1000}, {"used", 0}, {"notes", json::array()}}}}}},
        BadManifest{"HugeSize", {{"disks", {{{"size", 1ULL << 63}, {"used", 0}, {"notes", json::array()}}}}}},
        BadManifest{"MoreUsedThanThere", {{"disks", {{{"size", 512}, {"used", 1024}, {"notes", json::array()}}}}}},
        BadManifest{"NegativeSize", {{"disks", {{{"size", -512}, {"used", 0}, {"notes", json::array()}}}}}},
        BadManifest{"NoCpus", {{"machine", {{"cpu", {{"sockets", 0}}}}}}},
        BadManifest{"ManyCpus", {{"machine", {{"cpu", {{"sockets", 65536}, {"cores", 65536}}}}}}},
        BadManifest{"Memory", {{"machine", {{"memory", 1ULL << 60}}}}},
        BadManifest{"Uuid", {{"machine", {{"uuid", "x'/><evil/>"}}}}},
        BadManifest{"Mac", {{"machine", {{"nics", {{{"mac", "00:11"}}}}}}}},
        BadManifest{"Format", {{"wishes", {{"format", "vmdk"}}}}},
        BadManifest{"CompressedRaw", {{"wishes", {{"compress", "zstd"}}}}},
        BadManifest{"Forever", {{"wishes", {{"timeout", 1000000}}}}}),
    [](const auto& param) { return param.param.name; });

TEST(P2vMessages, ChunkComesBackAsItWas) {
  Bytes data(8192 + 512, std::byte{7});
  ChunkMessage m;
  m.disk = 3;
  m.index = 1ULL << 40;
  m.digest = digest_of(data);
  m.extents = {{0, 8192}, {p2v_chunk_size - 512, 512}};
  m.plain = static_cast<std::uint32_t>(data.size());
  m.patch = true;
  Bytes wire = encode_head(m);
  wire.insert(wire.end(), data.begin(), data.end());
  const ChunkMessage back = decode_chunk(wire);
  EXPECT_EQ(back.disk, m.disk);
  EXPECT_EQ(back.index, m.index);
  EXPECT_EQ(back.digest, m.digest);
  EXPECT_TRUE(back.patch && !back.compressed);
  EXPECT_FALSE(decode_ack(encode(AckMessage{3, 4, false})).stored);
  EXPECT_TRUE(decode_ack(encode(AckMessage{3, 4})).stored);
  EXPECT_TRUE(std::equal(back.data.begin(), back.data.end(), data.begin(), data.end()));
  for (std::size_t cut = 0; cut < wire.size(); cut += cut < 64 ? 1 : 997)
    EXPECT_THROW(decode_chunk(ByteSpan(wire).first(cut)), Error) << cut;
}

struct BadExtents {
  const char* name;
  std::vector<ChunkExtent> extents;
};

class BadChunks : public testing::TestWithParam<BadExtents> {};

TEST_P(BadChunks, AreRefused) {
  ChunkMessage m;
  m.extents = GetParam().extents;
  std::uint64_t sum = 0;
  for (const auto& extent : m.extents)
    sum += extent.length;
  m.plain = static_cast<std::uint32_t>(sum);
  Bytes wire = encode_head(m);
  wire.resize(wire.size() + std::min<std::uint64_t>(sum, 4U << 20));
  EXPECT_THROW(decode_chunk(wire), Error);
}

INSTANTIATE_TEST_SUITE_P(All, BadChunks,
                         testing::Values(BadExtents{"BeyondTheChunk", {{p2v_chunk_size - 512, 1024}}},
                                         BadExtents{"FarBeyond", {{0xfffffe00, 512}}},
                                         BadExtents{"Wraps", {{0xfffffe00, 0xfffffe00}}},
                                         BadExtents{"Overlap", {{0, 1024}, {512, 512}}},
                                         BadExtents{"Backwards", {{4096, 512}, {0, 512}}},
                                         BadExtents{"Empty", {{0, 0}}}, BadExtents{"Unaligned", {{1, 512}}},
                                         BadExtents{"OddLength", {{0, 100}}}),
                         [](const auto& param) { return param.param.name; });

TEST(P2vMessages, FindsWhatIsNotZero) {
  Bytes chunk(5 * 4096 + 512);
  chunk[4096] = chunk[2 * 4096 + 5] = chunk.back() = std::byte{1};
  const auto extents = find_extents(chunk);
  ASSERT_EQ(extents.size(), 2U);
  EXPECT_EQ(extents[0].offset, 4096U);
  EXPECT_EQ(extents[0].length, 8192U);
  EXPECT_EQ(extents[1].offset, 5U * 4096);
  EXPECT_EQ(extents[1].length, 512U);
  EXPECT_TRUE(find_extents(Bytes(10000)).empty());
}

TEST(P2vMessages, ErrorsOfTheOtherSideAreHarmless) {
  const Error sent("DISK_FULL", "no\x1b[2Jroom", std::string(100000, 'x'), "buy a disk");
  const Error back = decode_error(as_bytes(encode(sent)));
  EXPECT_EQ(back.code(), "DISK_FULL");
  EXPECT_EQ(back.summary().find('\x1b'), std::string::npos);
  EXPECT_LT(back.why().size(), 1100U);
  EXPECT_EQ(decode_error(as_bytes(R"({"code":"rm -rf","what":"x"})")).code(), "PROTOCOL_ERROR");
}

struct Address {
  const char* text;
  const char *user, *host;
  unsigned port;
  const char* directory;
};

class Addresses : public testing::TestWithParam<Address> {};

TEST_P(Addresses, AreTakenApart) {
  const Address& a = GetParam();
  const LinkTarget target = parse_link_target(a.text);
  EXPECT_EQ(target.user, a.user);
  EXPECT_EQ(target.host, a.host);
  EXPECT_EQ(target.port, a.port);
  EXPECT_EQ(target.directory, a.directory);
}

INSTANTIATE_TEST_SUITE_P(All, Addresses,
                         testing::Values(Address{"/srv/p2v", "", "", 0, "/srv/p2v"}, Address{"out", "", "", 0, "out"},
                                         Address{"ssh://h/d", "", "h", 0, "/d"},
                                         Address{"ssh://u@h:2222/srv/x", "u", "h", 2222, "/srv/x"},
                                         Address{"ssh://u@[fe80::1]:22/d", "u", "fe80::1", 22, "/d"},
                                         Address{"ssh://h/~/p2v", "", "h", 0, "/~/p2v"}));

TEST(P2vLink, RefusesAddressesThatMeanSomethingElse) {
  for (const char* text : {"", "http://x/y", "ssh://", "ssh://h", "ssh://h/", "ssh:///d", "ssh://-oProxyCommand=x/d",
                           "ssh://u:secret@h/d", "ssh://h:0/d", "ssh://h:99999/d", "ssh://h x/d", "ssh://[::1/d",
                           "ssh://[::1]x/d", "ssh://[10.0.0.1]/d", "ssh://@h/d", "ssh://$(id)@h/d", "ssh://h/a\nb"})
    EXPECT_THROW(parse_link_target(text), Error) << text;
}

TEST(P2vLink, QuotesForTheServersShell) {
  LinkTarget target = parse_link_target("ssh://h/it's $(here)");
  EXPECT_THAT(Link(target, false).argv(), testing::Contains("'kvm-p2v' receive -- '/it'\\''s $(here)'"));
  target.directory = "/~/p2v";
  EXPECT_THAT(Link(target, false).argv(), testing::Contains("'kvm-p2v' receive -- \"$HOME\"'/p2v'"));
}

} // namespace
} // namespace kvmport
