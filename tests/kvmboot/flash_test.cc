// SPDX-License-Identifier: Apache-2.0
// The flash chip through the commands that OVMF's driver gives it (edk2 OvmfPkg/QemuFlashFvbServicesRuntimeDxe).
#include "kvmboot/vmm/flash.h"

#include <gmock/gmock.h>

namespace kvmport::vmm {
namespace {

class FlashTest : public testing::Test {
 protected:
  Bytes array_ = Bytes(4 * Flash::block, std::byte{0xff});
  bool shown_ = true;
  Flash flash_{array_, [this](bool on) { shown_ = on; }};
  void put(std::uint64_t at, std::uint8_t value) { flash_.write(at, 1, value); }
  std::uint64_t get(std::uint64_t at, unsigned size = 1) { return flash_.read(at, size); }
};

/// OVMF tells flash from ROM and RAM by this.
TEST_F(FlashTest, IsRecognisedByItsProbe) {
  array_[0] = std::byte{0xaa};
  put(0, 0x50);
  EXPECT_NE(get(0), 0x50U) << "RAM would keep it";
  put(0, 0x70);
  EXPECT_FALSE(shown_);
  EXPECT_EQ(get(0), 0U) << "cleared status";
  put(0, 0xff);
  EXPECT_TRUE(shown_);
  EXPECT_EQ(get(0), 0xaaU);
}

TEST_F(FlashTest, ProgramsClearsBitsAndErasesSetsThem) {
  put(5000, 0x10);
  put(5000, 0xf0);
  EXPECT_EQ(get(0) & 0x80U, 0x80U) << "ready";
  put(5000, 0x40);
  put(5000, 0x3c);
  put(0, 0xff);
  EXPECT_EQ(get(5000), 0x30U);
  put(Flash::block + 3, 0x20);
  put(Flash::block + 3, 0xd0);
  EXPECT_EQ(get(0), 0x80U);
  put(0, 0xff);
  EXPECT_EQ(array_, Bytes(4 * Flash::block, std::byte{0xff}));
}

TEST_F(FlashTest, EraseWithoutConfirmationIsAFailure) {
  array_[1] = std::byte{1};
  put(0, 0x20);
  put(0, 0xff);
  EXPECT_EQ(get(0) & 0x20U, 0x20U);
  EXPECT_EQ(array_[1], std::byte{1});
}

TEST_F(FlashTest, BufferedProgram) {
  put(0, 0xe8);
  EXPECT_EQ(get(0), 0x80U);
  put(0, 2); // three bytes
  put(8, 1);
  put(9, 2);
  put(10, 3);
  put(0, 0xd0);
  EXPECT_EQ(get(0), 0x80U);
  put(0, 0xff);
  EXPECT_EQ(get(8, 4), 0xff030201U);
}

TEST_F(FlashTest, TellsWhatItIs) {
  put(0, 0x98);
  EXPECT_EQ(get(0x10, 4) & 0xffffffU, 0x595251U) << "QRY";
  EXPECT_EQ(get(0x27), 14U) << "2^14 bytes";
  EXPECT_EQ(get(0x2d, 4), 0x00100003U) << "four blocks of 4096";
  put(0, 0x90);
  EXPECT_EQ(get(0), 0x89U);
}

TEST_F(FlashTest, NothingOutsideOfTheArrayIsTouched) {
  put(0, 0x40);
  flash_.write(array_.size() - 1, 4, 0);
  EXPECT_EQ(get(0) & 0x10U, 0x10U) << "program error";
  put(0, 0x20);
  put(array_.size(), 0xd0);
  EXPECT_EQ(get(0) & 0x20U, 0x20U);
  put(0, 0xff);
  EXPECT_EQ(get(array_.size() - 1, 8), 0xffU);
  EXPECT_EQ(array_, Bytes(4 * Flash::block, std::byte{0xff}));
}

} // namespace
} // namespace kvmport::vmm
