// SPDX-License-Identifier: Apache-2.0
// Whole guests on one hub: they reach each other, and nothing of the host.
#include "base/hub.h"
#include "formats/probe.h"
#include "kvmboot/engine_qemu.h"
#include "tests/cli/support.h"
#include "tests/support/guests.h"
#include "tests/support/tempdir.h"

#include <arpa/inet.h>
#include <atomic>
#include <future>
#include <gmock/gmock.h>
#include <iostream>
#include <net/ethernet.h>
#include <netpacket/packet.h>
#include <set>
#include <sys/socket.h>
#include <unistd.h>

namespace fs = std::filesystem;
using testing::HasSubstr;

namespace kvmport::test {
namespace {

/// A frame's address as text; `at`: 0 for the receiver's, 6 for the sender's.
std::string mac_at(ByteSpan frame, std::size_t at) {
  std::string text;
  for (std::size_t i = 0; i < 6; i++) {
    std::array<char, 4> two{};
    std::snprintf(two.data(), two.size(), i == 0 ? "%02x" : ":%02x", std::to_integer<unsigned>(frame[at + i]));
    text += two.data();
  }
  return text;
}

/// Every frame on every interface of the host, from now on.
class HostInterfaces {
 public:
  HostInterfaces() : socket_(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(ETH_P_ALL))) {
    if (!socket_)
      std::cout << "the host's interfaces were not listened to: only root can\n";
  }
  /// The addresses of all frames so far.
  std::set<std::string> heard() const {
    std::set<std::string> macs;
    Bytes frame(65536);
    for (ssize_t size; (size = ::recv(socket_.get(), frame.data(), frame.size(), 0)) >= 0;)
      if (size >= static_cast<ssize_t>(min_frame))
        macs.insert({mac_at(frame, 0), mac_at(frame, 6)});
    return macs;
  }
  static std::set<std::string> names() {
    std::set<std::string> all;
    for (const auto& entry : fs::directory_iterator("/sys/class/net"))
      all.insert(entry.path().filename());
    return all;
  }

 private:
  UniqueFd socket_;
};

/// The guest mini on a hub, with a card and an address of its own. It asks for the other until that one answers, and
/// goes on until both have been heard.
std::string ping_from(const fs::path& hub, const BootNic& nic, const std::string& own, const std::string& other,
                      std::atomic<int>& done) {
  const TempDir temp;
  const auto image = open_image(make_guest("mini") / "sda.raw");
  Overlay overlay(*image, temp.path(), 1ULL << 30);
  BootSpec spec;
  spec.memory = 256U << 20;
  spec.timeout = std::chrono::minutes(20);
  spec.disks.push_back({&overlay, DiskBus::ide, 512, ""});
  spec.nics = {nic};
  spec.nics[0].hub = hub;
  spec.answers = {{"login: $", "root\n", 3},
                  {"Password: $", "kvmport\n", 3},
                  {"~ # ",
                   "ip addr flush dev eth0; ip addr add " + own + "/24 dev eth0; until ping -c 1 -W 1 " + other +
                       "; do :; done; echo the other \"answers\"\n",
                   1}};
  std::string serial;
  bool counted = false;
  StopToken stop;
  make_qemu_engine(false, 1.0, "test")
      ->run(
          spec,
          [&](const Evidence& e) {
            if (e.kind == Evidence::Kind::serial)
              serial += e.text;
            if (!counted && serial.find("the other answers") != std::string::npos) {
              counted = true;
              done++;
            }
            return done < 2;
          },
          stop);
  return serial;
}

TEST(Hub, TwoGuestsReachEachOtherAndTheHostSeesNothing) {
  const TempDir temp;
  const fs::path hub = temp.path() / "hub";
  const HostInterfaces host;
  const auto interfaces = HostInterfaces::names();
  const BootNic one{"52:54:00:4b:56:a1", "virtio"}, two{"52:54:00:4b:56:a2", "e1000"};
  std::atomic<int> done = 0;
  std::string serial_one, serial_two;
  std::thread thread([&] { serial_one = ping_from(hub, one, "10.9.8.1", "10.9.8.2", done); });
  serial_two = ping_from(hub, two, "10.9.8.2", "10.9.8.1", done);
  thread.join();
  EXPECT_THAT(serial_one, HasSubstr("bytes from 10.9.8.2: seq=0"));
  EXPECT_THAT(serial_two, HasSubstr("bytes from 10.9.8.1: seq=0"));
  EXPECT_EQ(HostInterfaces::names(), interfaces);
  const auto heard = host.heard();
  EXPECT_FALSE(heard.contains(one.mac));
  EXPECT_FALSE(heard.contains(two.mac));
}

/// "Who has 192.168.77.10?" (RFC 826), asked by 192.168.77.1.
Bytes arp_request() {
  constexpr std::array<unsigned char, 42> bytes{
      0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0,  0, 0, 1, 8, 6, // to all, from us, ARP
      0,    1,    8,    0,    6,    4,    0,    1,                       // Ethernet, IPv4, request
      0x52, 0x54, 0,    0,    0,    1,    192,  168,  77, 1, 0, 0, 0, 0, 0, 0, 192, 168, 77, 10};
  const auto span = std::as_bytes(std::span(bytes));
  return {span.begin(), span.end()};
}

TEST(KvmBoot, HubConnectsTheMachine) {
  const std::string name = "test-" + std::to_string(::getpid());
  HubPort port(hub_directory(name));
  const HostInterfaces host;
  auto boot = std::async(std::launch::async, [&] {
    return run("kvm-boot", {"--bus", "ide", "--memory", "256", "--hub", name, make_guest("mini") / "sda.raw"});
  });
  std::set<std::string> senders;
  while (boot.wait_for(std::chrono::milliseconds(20)) != std::future_status::ready) {
    port.send(arp_request());
    while (const auto frame = port.receive())
      senders.insert(mac_at(*frame, 6));
  }
  const ProcessResult result = boot.get();
  EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
  EXPECT_THAT(senders, testing::ElementsAre(testing::StartsWith("52:54:00:"))) << "the one card of a bare disk";
  for (const std::string& mac : senders)
    EXPECT_FALSE(host.heard().contains(mac));
}

TEST(KvmBoot, HubsNameIsChecked) {
  const auto boot = run("kvm-boot", {"--hub", "../x", "/nonexistent"});
  EXPECT_EQ(boot.exit_code, 1);
  EXPECT_THAT(boot.err, HasSubstr("USAGE: \"../x\""));
}

} // namespace
} // namespace kvmport::test
