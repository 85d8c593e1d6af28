// SPDX-License-Identifier: Apache-2.0
#include "kvmboot/vmm/msix.h"

#include <gmock/gmock.h>
#include <linux/virtio_pci.h>

namespace kvmport::vmm {
namespace {

using Messages = std::vector<std::pair<std::uint64_t, std::uint32_t>>;

class MsiXTest : public testing::Test {
 protected:
  void program(unsigned vector, std::uint64_t address, std::uint32_t data, bool masked = false) {
    msix_.table_write(vector * 16, 8, address);
    msix_.table_write(vector * 16 + 8, 4, data);
    msix_.table_write(vector * 16 + 12, 4, masked ? 1 : 0);
  }
  Messages sent_;
  MsiX msix_{2, [this](std::uint64_t address, std::uint32_t data) { sent_.emplace_back(address, data); }};
};

TEST_F(MsiXTest, SendsTheMessageOfAVector) {
  program(1, 0x1fee00000, 0x41);
  msix_.signal(1);
  EXPECT_THAT(sent_, testing::IsEmpty()) << "not enabled";
  msix_.set_control(0x8000);
  EXPECT_EQ(sent_, (Messages{{0x1fee00000, 0x41}})) << "what was pending comes";
  msix_.signal(1);
  msix_.signal(VIRTIO_MSI_NO_VECTOR);
  msix_.signal(2);
  EXPECT_EQ(sent_.size(), 2U);
}

TEST_F(MsiXTest, MaskedVectorsWait) {
  msix_.set_control(0x8000);
  msix_.signal(0); // entries are masked at first
  EXPECT_TRUE(sent_.empty());
  EXPECT_EQ(msix_.pending_read(0), 1U);
  program(0, 0xfee00000, 7);
  EXPECT_EQ(sent_, (Messages{{0xfee00000, 7}}));
  EXPECT_EQ(msix_.pending_read(0), 0U);
  msix_.set_control(0xc000);
  msix_.signal(0);
  EXPECT_EQ(sent_.size(), 1U) << "the whole function is masked";
  msix_.set_control(0x8000);
  EXPECT_EQ(sent_.size(), 2U);
}

TEST_F(MsiXTest, TableIsReadBackAndEndsWhereItEnds) {
  program(1, 0x12345678fee01000, 0xabcd, true);
  EXPECT_EQ(msix_.table_read(16, 8), 0x12345678fee01000U);
  EXPECT_EQ(msix_.table_read(20, 4), 0x12345678U);
  EXPECT_EQ(msix_.table_read(24, 8), 0x10000abcdU);
  EXPECT_EQ(msix_.table_read(32, 8), 0U);
  EXPECT_EQ(msix_.table_read(28, 8), 1U) << "half outside";
  EXPECT_EQ(msix_.table_read(~std::uint64_t{3}, 8), 0U);
  msix_.table_write(28, 8, ~std::uint64_t{0});
  msix_.table_write(16, 2, 0); // no whole word
  msix_.table_write(18, 4, 0);
  msix_.table_write(4096, 8, 1);
  EXPECT_EQ(msix_.table_read(16, 8), 0x12345678fee01000U);
  EXPECT_EQ(msix_.pending_read(8), 0U);
}

} // namespace
} // namespace kvmport::vmm
