// SPDX-License-Identifier: Apache-2.0
// The virtio network card on a real cable, driven through its registers and rings in memory that this test fills as a
// guest would, well-meaning or not.
#include "base/hub.h"
#include "kvmboot/vmm/virtio_net.h"

#include <array>
#include <cstring>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

namespace kvmport::vmm {
namespace {

constexpr std::uint64_t bar = 0xe0000000, memory_size = 1U << 20, buffer_size = 2048, buffers_at = 0x10000;
constexpr std::uint16_t next_flag = 1, write_flag = 2, indirect_flag = 4;
constexpr std::size_t header_size = 12;
constexpr std::uint16_t rx = VirtioNet::receive_queue, tx = VirtioNet::transmit_queue;

Bytes frame(std::size_t size, char content) {
  return Bytes(size, static_cast<std::byte>(content));
}

void wait_for(int fd) {
  pollfd polled{fd, POLLIN, 0};
  ::poll(&polled, 1, 30000);
}

class Net : public testing::Test {
 protected:
  Net() {
    std::array<int, 2> pair{};
    if (::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair.data()) != 0)
      throw std::runtime_error("socketpair");
    cable_ = UniqueFd(pair[0]);
    far_ = UniqueFd(pair[1]);
    plug(cable_.get());
  }
  void plug(int cable) {
    net_.emplace("52:54:00:a1:B2:c3", cable);
    put_into_slot(*net_);
  }
  void put_into_slot(VirtioDevice& device) {
    if (pci_)
      pci_->config_write(0x04, 2, 0); // off the bus
    pci_.emplace(
        device, memory_, mmio_, [this](bool on) { level_ = on; }, [](std::uint64_t, std::uint32_t) {});
    pci_->config_write(0x10, 4, static_cast<std::uint32_t>(bar));
    pci_->config_write(0x04, 2, 6);
  }
  std::uint64_t table(unsigned queue) const { return 0x1000 + queue * 0x4000; }
  std::uint64_t available(unsigned queue) const { return table(queue) + 0x1000; }
  std::uint64_t used(unsigned queue) const { return table(queue) + 0x2000; }

  /// What a driver does until it is ready.
  void start() {
    offered_ = {};
    mmio_.write(bar + 0x14, 1, 0);
    for (const unsigned queue : {rx, tx}) {
      std::memset(memory_.slice(table(queue), 0x3000)->data(), 0, 0x3000);
      mmio_.write(bar + 0x16, 2, queue);
      mmio_.write(bar + 0x20, 8, table(queue));
      mmio_.write(bar + 0x28, 8, available(queue));
      mmio_.write(bar + 0x30, 8, used(queue));
      mmio_.write(bar + 0x1c, 2, 1);
    }
    mmio_.write(bar + 0x14, 1, 0x0f);
  }
  void descriptor(unsigned queue, unsigned index, std::uint64_t address, std::uint64_t length, std::uint16_t flags,
                  std::uint16_t next = 0) {
    const auto d = *memory_.slice(table(queue) + index * 16, 16);
    store_le<std::uint64_t>(d, 0, address);
    store_le<std::uint32_t>(d, 8, static_cast<std::uint32_t>(length));
    store_le<std::uint16_t>(d, 12, flags);
    store_le<std::uint16_t>(d, 14, next);
  }
  void offer(unsigned queue, std::uint16_t head) {
    std::uint16_t& count = offered_.at(queue);
    memory_.store<std::uint16_t>(available(queue) + 4 + count % Virtqueue::max_size * 2U, head);
    memory_.store<std::uint16_t>(available(queue) + 2, ++count);
  }
  void ring(unsigned queue) { mmio_.write(bar + 0x3000 + queue * 4, 2, queue); }
  void offer_buffers(unsigned count) {
    for (unsigned i = 0; i < count; i++) {
      descriptor(rx, i, buffers_at + i * buffer_size, buffer_size, write_flag);
      offer(rx, static_cast<std::uint16_t>(i));
    }
    ring(rx);
  }
  void transmit(const Bytes& what) {
    const auto to = *memory_.slice(buffers_at, header_size + what.size());
    std::memset(to.data(), 0, header_size);
    std::copy(what.begin(), what.end(), to.begin() + header_size);
    descriptor(tx, 0, buffers_at, header_size, next_flag, 1);
    descriptor(tx, 1, buffers_at + header_size, what.size(), 0);
    offer(tx, 0);
    ring(tx);
  }
  /// Frames come over the cable.
  void arrive(const std::vector<Bytes>& frames) {
    for (const Bytes& f : frames) {
      EXPECT_EQ(::send(far_.get(), f.data(), f.size(), 0), static_cast<ssize_t>(f.size()));
      net_->take_frames();
    }
    pci_->serve(rx);
  }
  /// What left over the cable; empty: nothing.
  Bytes left() {
    Bytes buffer(65536);
    const ssize_t size = ::recv(far_.get(), buffer.data(), buffer.size(), 0);
    buffer.resize(size < 0 ? 0 : static_cast<std::size_t>(size));
    return buffer;
  }
  std::uint16_t used_count(unsigned queue) const { return *memory_.load<std::uint16_t>(used(queue) + 2); }
  std::uint32_t used_length(unsigned queue, unsigned n) const {
    return *memory_.load<std::uint32_t>(used(queue) + 8 + n * 8U);
  }
  Bytes received(unsigned n) const {
    const auto id = *memory_.load<std::uint32_t>(used(rx) + 4 + n * 8U);
    const auto bytes = *memory_.slice(buffers_at + id * buffer_size, used_length(rx, n));
    return Bytes(bytes.begin(), bytes.end());
  }
  bool needs_reset() { return (mmio_.read(bar + 0x14, 1) & 0x40) != 0; }

  UniqueFd cable_, far_;
  GuestMemory memory_{memory_size};
  Bus mmio_;
  std::optional<VirtioNet> net_;
  std::optional<VirtioPci> pci_;
  std::array<std::uint16_t, 2> offered_{};
  bool level_ = false;
};

TEST_F(Net, TellsWhatItIs) {
  EXPECT_EQ(pci_->get(0, 4), 0x10411af4U);
  EXPECT_EQ(pci_->get(8, 4) >> 16, 0x0200U) << "an Ethernet controller";
  EXPECT_EQ(mmio_.read(bar + 0x12, 2), 2U) << "queues";
  mmio_.write(bar, 4, 0);
  EXPECT_EQ(mmio_.read(bar + 4, 4), 1U << 5 | 1U << 16) << "MAC and STATUS, no offload";
  mmio_.write(bar, 4, 1);
  EXPECT_EQ(mmio_.read(bar + 4, 4), 1U) << "VERSION_1";
  EXPECT_EQ(mmio_.read(bar + 0x2000, 4), 0xa1005452U);
  EXPECT_EQ(mmio_.read(bar + 0x2004, 2), 0xc3b2U);
  EXPECT_EQ(mmio_.read(bar + 0x2006, 2), 1U) << "link up";
  EXPECT_EQ(VirtioNet("", -1).features(), 1U << 16) << "the driver chooses the address";
  for (const char* mac :
       {"52:54:00:00:00", "52:54:00:00:00:0g", "52-54-00-00-00-00", "52:54:00:00:00:00:00", "52:54:00:00:00:0:"})
    EXPECT_THROW(VirtioNet(mac, -1), Error) << mac;
}

TEST_F(Net, SendsWhatTheDriverGives) {
  start();
  transmit(frame(60, 's'));
  EXPECT_EQ(left(), frame(60, 's'));
  EXPECT_EQ(used_count(tx), 1U);
  EXPECT_EQ(used_length(tx, 0), 0U);
  EXPECT_TRUE(level_);
  EXPECT_EQ(mmio_.read(bar + 0x1000, 1), 1U);
  EXPECT_FALSE(level_);
  transmit(frame(max_frame, 'l'));
  EXPECT_EQ(left(), frame(max_frame, 'l'));
}

TEST_F(Net, FramesOfWrongSizeAreDroppedAndTheBuffersComeBack) {
  start();
  transmit(frame(max_frame + 1, 'x'));
  transmit(frame(min_frame - 1, 'x'));
  transmit({});
  descriptor(tx, 0, buffers_at, header_size - 1, 0); // not even a header
  offer(tx, 0);
  descriptor(tx, 1, 0, memory_size, next_flag, 2); // much more than a frame
  descriptor(tx, 2, 0, memory_size, 0);
  offer(tx, 1);
  descriptor(tx, 3, buffers_at, 2048, write_flag); // nothing to read
  offer(tx, 3);
  ring(tx);
  EXPECT_EQ(used_count(tx), 6U);
  EXPECT_FALSE(needs_reset());
  transmit(frame(60, 'g'));
  EXPECT_EQ(left(), frame(60, 'g')) << "the first that left";
}

TEST_F(Net, GivesTheDriverWhatComes) {
  start();
  offer_buffers(2);
  EXPECT_EQ(used_count(rx), 0U) << "nothing came";
  EXPECT_FALSE(level_);
  arrive({frame(60, 'a'), frame(max_frame, 'b')});
  ASSERT_EQ(used_count(rx), 2U);
  EXPECT_TRUE(level_);
  Bytes expected(header_size);
  expected[10] = std::byte{1}; // num_buffers
  const Bytes content = frame(60, 'a');
  expected.insert(expected.end(), content.begin(), content.end());
  EXPECT_EQ(received(0), expected);
  EXPECT_EQ(received(1).size(), header_size + max_frame);
  EXPECT_EQ(received(1).back(), std::byte{'b'});
}

TEST_F(Net, FrameSpreadsOverTheBuffersOfAChain) {
  start();
  descriptor(rx, 0, buffers_at, header_size, write_flag | next_flag, 1);
  descriptor(rx, 1, buffers_at + 0x100, 10, write_flag | next_flag, 2);
  descriptor(rx, 2, buffers_at + 0x200, 2000, write_flag);
  offer(rx, 0);
  arrive({frame(60, 'a')});
  ASSERT_EQ(used_count(rx), 1U);
  EXPECT_EQ(used_length(rx, 0), header_size + 60);
  EXPECT_EQ(*memory_.load<std::uint8_t>(buffers_at + 0x200 + 49), 'a');
  EXPECT_EQ(*memory_.load<std::uint8_t>(buffers_at + 0x200 + 50), 0);
}

TEST_F(Net, FramesWaitForBuffers) {
  arrive({frame(60, '1')}); // no driver yet
  start();
  arrive({frame(60, '2')});
  EXPECT_EQ(used_count(rx), 0U);
  offer_buffers(3);
  ASSERT_EQ(used_count(rx), 2U);
  EXPECT_EQ(received(0).back(), std::byte{'1'});
  EXPECT_EQ(received(1).back(), std::byte{'2'});
  arrive({frame(60, '3')});
  EXPECT_EQ(used_count(rx), 3U);
}

TEST_F(Net, FloodIsBoundedAndTheOldestAreLost) {
  start();
  std::vector<Bytes> frames;
  for (std::size_t i = 0; i < VirtioNet::most_waiting + 10; i++)
    frames.push_back(frame(60, static_cast<char>(i < 10 ? 'x' : 'a' + i % 2)));
  arrive(frames);
  std::size_t got = 0;
  for (unsigned round = 0; round < 8; round++) {
    offer_buffers(64);
    const std::size_t now = (round + 1U) * 64;
    for (; got < std::min<std::size_t>(now, VirtioNet::most_waiting); got++)
      ASSERT_EQ(received(static_cast<unsigned>(got % Virtqueue::max_size)).back(),
                static_cast<std::byte>('a' + got % 2));
    ASSERT_EQ(used_count(rx), got);
    if (got == VirtioNet::most_waiting)
      break;
  }
  EXPECT_EQ(got, VirtioNet::most_waiting);
}

TEST_F(Net, WrongSizesFromTheCableAndTooSmallBuffersAreLost) {
  start();
  descriptor(rx, 0, buffers_at, 40, write_flag);
  offer(rx, 0);
  descriptor(rx, 1, buffers_at, 2048, 0); // not writable
  offer(rx, 1);
  arrive({frame(max_frame + 1, 'x'), frame(min_frame - 1, 'x'), frame(60, 'a'), frame(60, 'b')});
  ASSERT_EQ(used_count(rx), 2U);
  EXPECT_EQ(used_length(rx, 0), 0U);
  EXPECT_EQ(used_length(rx, 1), 0U);
  EXPECT_EQ(*memory_.load<std::uint8_t>(buffers_at + 40), 0) << "behind the buffer";
}

TEST_F(Net, WithoutACableTheLinkIsDown) {
  plug(-1);
  EXPECT_EQ(mmio_.read(bar + 0x2006, 2), 0U);
  start();
  transmit(frame(60, 's'));
  EXPECT_EQ(used_count(tx), 1U) << "taken, and lost";
  offer_buffers(1);
  net_->take_frames();
  pci_->serve(rx);
  EXPECT_EQ(used_count(rx), 0U);
}

TEST_F(Net, CableWhoseOtherEndIsGoneIsNoFault) {
  start();
  offer_buffers(1);
  far_.reset();
  transmit(frame(60, 's'));
  EXPECT_EQ(used_count(tx), 1U);
  net_->take_frames();
  pci_->serve(rx);
  EXPECT_EQ(used_count(rx), 0U);
}

struct Hostile {
  const char* name;
  std::uint64_t address;
  std::uint32_t length;
  std::uint16_t flags, next;
};

class HostileNet : public Net, public testing::WithParamInterface<std::tuple<Hostile, unsigned>> {};

TEST_P(HostileNet, ChainsNeedAReset) {
  const auto& [hostile, queue] = GetParam();
  start();
  descriptor(queue, 0, buffers_at, 64, static_cast<std::uint16_t>(next_flag | (queue == rx ? write_flag : 0)), 1);
  descriptor(queue, 1, hostile.address, hostile.length, hostile.flags, hostile.next);
  offer(queue, 0);
  arrive({frame(60, 'a')});
  ring(queue);
  EXPECT_TRUE(needs_reset());
  EXPECT_EQ(used_count(queue), 0U);
  EXPECT_EQ(left(), Bytes());
  start();
  EXPECT_FALSE(needs_reset());
  offer_buffers(1);
  EXPECT_EQ(used_count(rx), 1U) << "it works again";
}

INSTANTIATE_TEST_SUITE_P(
    All, HostileNet,
    testing::Combine(testing::Values(Hostile{"outside", memory_size, 1, write_flag, 0},
                                     Hostile{"wraps", ~std::uint64_t{7}, 16, write_flag, 0},
                                     Hostile{"loop", buffers_at, 16, next_flag | write_flag, 1},
                                     Hostile{"next_too_large", buffers_at, 16, next_flag | write_flag, 200},
                                     Hostile{"indirect", buffers_at, 16, indirect_flag, 0}),
                     testing::Values(rx, tx)),
    [](const auto& info) {
      return std::string(std::get<0>(info.param).name) + (std::get<1>(info.param) == rx ? "_rx" : "_tx");
    });

/// A device during whose work another processor of the guest adds request after request.
struct Flooded final : VirtioDevice {
  explicit Flooded(std::function<void()> add) : add_(std::move(add)) {}
  std::uint16_t id() const override { return 1; }
  std::uint32_t pci_class() const override { return 0x020000; }
  std::uint64_t features() const override { return 0; }
  ByteSpan config() const override { return {}; }
  std::size_t queues() const override { return 2; }
  std::uint32_t handle(std::size_t, const Virtqueue::Chain&) override {
    add_();
    return 0;
  }
  std::function<void()> add_;
};

TEST_F(Net, EndlessRequestsDoNotHoldUpTheMachine) {
  Flooded device([this] { offer(tx, 0); });
  put_into_slot(device);
  start();
  descriptor(tx, 0, buffers_at, 64, 0);
  offer(tx, 0);
  ring(tx);
  EXPECT_EQ(used_count(tx), Virtqueue::max_size);
  EXPECT_FALSE(needs_reset());
}

TEST_F(Net, TalksThroughAHub) {
  const TempDir temp;
  HubPort port(temp.path() / "hub"), other(temp.path() / "hub");
  plug(port.fd());
  start();
  offer_buffers(1);
  transmit(frame(60, 'q'));
  wait_for(other.fd());
  EXPECT_EQ(other.receive(), frame(60, 'q'));
  other.send(frame(60, 'r'));
  wait_for(port.fd());
  net_->take_frames();
  pci_->serve(rx);
  ASSERT_EQ(used_count(rx), 1U);
  EXPECT_EQ(received(0).back(), std::byte{'r'});
}

} // namespace
} // namespace kvmport::vmm
