// SPDX-License-Identifier: Apache-2.0
// The parts of the built-in machine by themselves, in memory that this test fills as a guest would, well-meaning or
// not.
#include "kvmboot/vmm/bus.h"
#include "kvmboot/vmm/fw_cfg.h"
#include "kvmboot/vmm/legacy.h"
#include "kvmboot/vmm/pci.h"
#include "kvmboot/vmm/uart16550.h"
#include "kvmboot/vmm/virtio_blk.h"
#include "tests/kvmboot/boot_sector.h"
#include "tests/support/tempdir.h"

#include <cstring>
#include <gmock/gmock.h>

namespace kvmport::vmm {
namespace {

constexpr std::uint64_t table_at = 0x1000, available_at = 0x2000, used_at = 0x3000, header_at = 0x4000,
                        data_at = 0x5000, status_at = 0x7000, memory_size = 1U << 20;
constexpr std::uint16_t next_flag = 1, write_flag = 2, indirect_flag = 4;

TEST(VmmMemory, SliceGivesTheWholeRangeOrNothing) {
  const GuestMemory memory(memory_size);
  EXPECT_TRUE(memory.slice(0, memory_size));
  EXPECT_TRUE(memory.slice(memory_size, 0));
  EXPECT_FALSE(memory.slice(memory_size - 1, 2));
  EXPECT_FALSE(memory.slice(~std::uint64_t{0}, 2));
  EXPECT_FALSE(memory.slice(1, ~std::uint64_t{0}));
  EXPECT_FALSE(memory.load<std::uint32_t>(memory_size - 3));
}

struct Echo final : Device {
  std::uint64_t read(std::uint64_t offset, unsigned size) override { return offset << 8 | size; }
  void write(std::uint64_t offset, unsigned, std::uint64_t value) override { last = {offset, value}; }
  std::pair<std::uint64_t, std::uint64_t> last;
};

TEST(VmmBus, FindsTheDeviceOfAnAddress) {
  Bus bus;
  Echo a, b;
  EXPECT_TRUE(bus.add(0x100, 8, a));
  EXPECT_TRUE(bus.add(0x108, 8, b));
  EXPECT_FALSE(bus.add(0x10f, 1, a)) << "overlaps";
  EXPECT_FALSE(bus.add(0xff, 2, a)) << "overlaps";
  EXPECT_FALSE(bus.add(~std::uint64_t{0}, 2, a)) << "wraps";
  EXPECT_EQ(bus.read(0x10a, 2), 0x202U);
  EXPECT_EQ(bus.read(0x107, 2), ~std::uint64_t{0}) << "half outside";
  EXPECT_EQ(bus.read(0x50, 1), ~std::uint64_t{0});
  bus.write(0x104, 1, 9);
  EXPECT_EQ(a.last, std::make_pair(std::uint64_t{4}, std::uint64_t{9}));
  bus.remove(0x100);
  EXPECT_EQ(bus.read(0x104, 1), ~std::uint64_t{0});
}

TEST(VmmUart, TellsWhenItCanSendAndWhatCame) {
  bool level = false;
  Uart16550 uart([&](bool on) { level = on; });
  uart.write(1, 1, 3); // both interrupts
  EXPECT_TRUE(level) << "the transmitter is empty";
  EXPECT_EQ(uart.read(2, 1) & 0x0f, 2U);
  EXPECT_FALSE(level) << "told";
  for (const char c : std::string("hi"))
    uart.write(0, 1, static_cast<std::uint8_t>(c));
  EXPECT_EQ(uart.take(), "hi");
  uart.read(2, 1);
  uart.type("x");
  EXPECT_TRUE(level);
  EXPECT_EQ(uart.read(2, 1) & 0x0f, 4U);
  EXPECT_EQ(uart.read(5, 1), 0x61U);
  EXPECT_EQ(uart.read(0, 1), 'x');
  EXPECT_FALSE(level);
}

TEST(VmmKeyboard, KeepsFewAnswersOfAGuestThatReadsNone) {
  I8042 keyboard([] {});
  for (unsigned i = 0; i < 10000; i++)
    keyboard.write(4, 1, 0x20); // its command byte
  unsigned answers = 0;
  for (; (keyboard.read(4, 1) & 1) != 0; answers++)
    EXPECT_EQ(keyboard.read(0, 1), 0x30U);
  EXPECT_GT(answers, 0U);
  EXPECT_LE(answers, 32U);
}

TEST(VmmFwCfg, ServesFilesByPortAndByDma) {
  const GuestMemory memory(memory_size);
  FwCfg config(memory);
  const auto content = as_bytes("content");
  ASSERT_TRUE(config.add_file("etc/test", Bytes(content.begin(), content.end())));
  EXPECT_FALSE(config.add_file(std::string(56, 'n'), {}));
  config.write(0, 2, 0);
  EXPECT_EQ(config.read(1, 4), 0x554d4551U) << "QEMU";

  const auto dma = [&](std::uint32_t control, std::uint32_t length, std::uint64_t to) {
    const auto access = *memory.slice(table_at, 16);
    store_be<std::uint32_t>(access, 0, control);
    store_be<std::uint32_t>(access, 4, length);
    store_be<std::uint64_t>(access, 8, to);
    config.write(4, 4, 0);
    config.write(8, 4, detail::swap_bytes(static_cast<std::uint32_t>(table_at)));
    return load_be<std::uint32_t>(access, 0);
  };
  constexpr std::uint32_t read = 2, select = 8, write = 16, file = 0x20U << 16;
  std::memset(memory.slice(data_at, 16)->data(), 0xee, 16);
  EXPECT_EQ(dma(file | select | read, 10, data_at), 0U);
  const auto got = *memory.slice(data_at, 11);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(got.data()), 7), "content");
  EXPECT_EQ(load_le<std::uint32_t>(got, 7) & 0xffffffU, 0U) << "zeros behind the end";
  EXPECT_EQ(got[10], std::byte{0xee});
  EXPECT_EQ(dma(read, 4, memory_size - 2), 1U) << "outside of RAM";
  EXPECT_EQ(dma(read, 0xffffffff, data_at), 1U);
  EXPECT_EQ(dma(write, 4, data_at), 1U);
}

class Blk : public testing::Test {
 protected:
  Blk() {
    queue_.descriptors = table_at;
    queue_.available = available_at;
    queue_.used = used_at;
    queue_.enabled = true;
  }
  void descriptor(unsigned index, std::uint64_t address, std::uint32_t length, std::uint16_t flags,
                  std::uint16_t next) {
    const auto d = *memory_.slice(table_at + index * 16, 16);
    store_le<std::uint64_t>(d, 0, address);
    store_le<std::uint32_t>(d, 8, length);
    store_le<std::uint16_t>(d, 12, flags);
    store_le<std::uint16_t>(d, 14, next);
  }
  void offer(std::uint16_t head) {
    memory_.store<std::uint16_t>(available_at + 4 + std::uint64_t{offered_} % queue_.size * 2, head);
    memory_.store<std::uint16_t>(available_at + 2, ++offered_);
  }
  /// One request with a buffer of `length` bytes; its status.
  unsigned request(std::uint32_t type, std::uint64_t sector, std::uint32_t length, bool device_writes) {
    memory_.store<std::uint32_t>(header_at, type);
    memory_.store<std::uint64_t>(header_at + 8, sector);
    memory_.store<std::uint8_t>(status_at, 0xff);
    descriptor(0, header_at, 16, next_flag, 1);
    descriptor(1, data_at, length, static_cast<std::uint16_t>(next_flag | (device_writes ? write_flag : 0)), 2);
    descriptor(2, status_at, 1, write_flag, 0);
    offer(0);
    const auto chain = queue_.pop(memory_);
    if (!chain)
      return 0xfe;
    queue_.push(memory_, chain->head, blk_.handle(0, *chain));
    return *memory_.load<std::uint8_t>(status_at);
  }

  TempDir temp_;
  test::MemoryDisk disk_{Bytes(4096, std::byte{'d'}), 1U << 20};
  Overlay overlay_{disk_, temp_.path(), 1U << 24};
  std::vector<Range> writes_;
  VirtioBlk blk_{overlay_, 512, "serial-1", [this](Range range, bool write) {
                   if (write)
                     writes_.push_back(range);
                 }};
  GuestMemory memory_{memory_size};
  Virtqueue queue_;
  std::uint16_t offered_ = 0;
};

TEST_F(Blk, ReadsWritesAndZeroesTheOverlay) {
  EXPECT_EQ(request(0, 1, 512, true), 0U);
  EXPECT_EQ(memory_.slice(data_at, 1)->front(), std::byte{'d'});
  EXPECT_EQ(*memory_.load<std::uint32_t>(used_at + 8), 513U) << "the data and the status";
  std::memset(memory_.slice(data_at, 1024)->data(), 'w', 1024);
  EXPECT_EQ(request(1, 2, 1024, false), 0U);
  EXPECT_EQ(request(0, 3, 512, true), 0U);
  EXPECT_EQ(memory_.slice(data_at, 1)->front(), std::byte{'w'});
  memory_.store<std::uint64_t>(data_at, 2);
  memory_.store<std::uint64_t>(data_at + 8, 1);
  EXPECT_EQ(request(13, 0, 16, false), 0U);
  EXPECT_EQ(request(0, 2, 512, true), 0U);
  EXPECT_EQ(memory_.slice(data_at, 1)->front(), std::byte{0});
  EXPECT_EQ(writes_, (std::vector<Range>{{1024, 1024}, {1024, 512}}));
  EXPECT_EQ(request(8, 0, 20, true), 0U);
  EXPECT_EQ(std::memcmp(memory_.slice(data_at, 8)->data(), "serial-1", 8), 0);
  EXPECT_EQ(request(8, 0, 0, true), 0U) << "a name without room for it";
  EXPECT_EQ(request(4, 0, 0, false), 0U);
}

TEST_F(Blk, RefusesWhatIsOutsideOfTheDisk) {
  const std::uint64_t sectors = overlay_.size() / 512;
  EXPECT_EQ(request(0, sectors, 512, true), 1U);
  EXPECT_EQ(request(0, sectors - 1, 1024, true), 1U);
  EXPECT_EQ(request(0, ~std::uint64_t{0}, 512, true), 1U);
  EXPECT_EQ(request(1, (1ULL << 55), 512, false), 1U) << "sector * 512 would wrap";
  EXPECT_EQ(request(0, 0, 100, true), 1U) << "not a whole sector";
  EXPECT_EQ(request(99, 0, 512, true), 2U);
  memory_.store<std::uint64_t>(data_at, sectors);
  memory_.store<std::uint64_t>(data_at + 8, 0xffffffff);
  EXPECT_EQ(request(11, 0, 16, false), 1U);
  EXPECT_TRUE(writes_.empty());
}

struct Hostile {
  const char* name;
  std::uint64_t address;
  std::uint32_t length;
  std::uint16_t flags, next;
};

class HostileChains : public Blk, public testing::WithParamInterface<Hostile> {};

TEST_P(HostileChains, BreakTheQueueAndNothingElse) {
  descriptor(0, header_at, 16, next_flag, 1);
  descriptor(1, GetParam().address, GetParam().length, GetParam().flags, GetParam().next);
  descriptor(2, header_at, 16, 0, 0);
  offer(0);
  EXPECT_FALSE(queue_.pop(memory_));
  EXPECT_TRUE(queue_.broken());
  EXPECT_FALSE(queue_.pop(memory_)) << "until it is reset";
}

INSTANTIATE_TEST_SUITE_P(All, HostileChains,
                         testing::Values(Hostile{"outside", memory_size, 1, 0, 0},
                                         Hostile{"reaches_outside", memory_size - 8, 16, 0, 0},
                                         Hostile{"wraps", ~std::uint64_t{7}, 16, 0, 0},
                                         Hostile{"loop", data_at, 16, next_flag, 1},
                                         Hostile{"next_too_large", data_at, 16, next_flag, 200},
                                         Hostile{"indirect", data_at, 16, indirect_flag, 0},
                                         Hostile{"readable_after_writable", data_at, 16, next_flag | write_flag, 2}),
                         [](const auto& info) { return info.param.name; });

TEST_F(Blk, HostileRingsBreakTheQueue) {
  memory_.store<std::uint16_t>(available_at + 2, 200); // more than the queue holds
  EXPECT_FALSE(queue_.pop(memory_));
  EXPECT_TRUE(queue_.broken());
  queue_.reset();
  queue_.enabled = true;
  queue_.available = memory_size - 2;
  EXPECT_FALSE(queue_.pop(memory_));
  EXPECT_TRUE(queue_.broken());
}

/// The transport as a driver goes through it: find the BAR, set up the queue, read a sector, get the interrupt.
TEST_F(Blk, TransportServesADriver) {
  Bus mmio;
  bool level = false, reset = false;
  PciHost pci([&] { reset = true; });
  pci.add(2, 0,
          std::make_unique<VirtioPci>(
              blk_, memory_, mmio, [&](bool on) { level = on; }, [](std::uint64_t, std::uint32_t) {}));
  const auto config = [&](unsigned offset, std::uint32_t value) {
    pci.write(0, 4, 0x80000000U | 2U << 11 | offset);
    pci.write(4, 4, value);
  };
  const auto config_read = [&](unsigned offset) {
    pci.write(0, 4, 0x80000000U | 2U << 11 | offset);
    return static_cast<std::uint32_t>(pci.read(4, 4));
  };
  EXPECT_EQ(config_read(0), 0x10421af4U);
  config(0x10, 0xffffffff);
  EXPECT_EQ(config_read(0x10), 0xffff8000U) << "32 KiB";
  constexpr std::uint64_t bar = 0xe0000000;
  config(0x10, bar);
  EXPECT_EQ(mmio.read(bar + 0x12, 2), ~std::uint64_t{0}) << "memory is not enabled";
  config(0x04, 0x6);
  EXPECT_EQ(mmio.read(bar + 0x12, 2), 1U) << "one queue";
  EXPECT_EQ(mmio.read(bar + 0x2000, 8), overlay_.size() / 512);

  mmio.write(bar + 0x20, 4, table_at);
  mmio.write(bar + 0x28, 4, available_at);
  mmio.write(bar + 0x30, 8, used_at);
  mmio.write(bar + 0x1c, 2, 1);
  mmio.write(bar + 0x20, 4, 0); // refused: the queue is enabled
  memory_.store<std::uint32_t>(header_at, 0);
  memory_.store<std::uint64_t>(header_at + 8, 0);
  descriptor(0, header_at, 16, next_flag, 1);
  descriptor(1, data_at, 512, next_flag | write_flag, 2);
  descriptor(2, status_at, 1, write_flag, 0);
  offer(0);
  mmio.write(bar + 0x3000, 2, 0);
  EXPECT_EQ(*memory_.load<std::uint16_t>(used_at + 2), 0U) << "the driver is not ready";
  mmio.write(bar + 0x14, 1, 0x0f);
  mmio.write(bar + 0x3000, 2, 0);
  EXPECT_EQ(*memory_.load<std::uint16_t>(used_at + 2), 1U);
  EXPECT_EQ(memory_.slice(data_at, 1)->front(), std::byte{'d'});
  EXPECT_TRUE(level);
  EXPECT_EQ(mmio.read(bar + 0x1000, 1), 1U);
  EXPECT_FALSE(level);

  offer(77); // no such descriptor chain
  descriptor(77, ~std::uint64_t{0}, 1, 0, 0);
  mmio.write(bar + 0x3000, 2, 0);
  EXPECT_EQ(mmio.read(bar + 0x14, 1) & 0x40U, 0x40U) << "needs a reset";
  mmio.write(bar + 0x14, 1, 0);
  EXPECT_EQ(mmio.read(bar + 0x1c, 2), 0U);
  EXPECT_FALSE(reset);
  pci.write(1, 1, 6);
  EXPECT_TRUE(reset) << "port 0xCF9";
}

} // namespace
} // namespace kvmport::vmm
