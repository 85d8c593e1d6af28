// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"
#include "base/firmware_files.h"

#include <gtest/gtest.h>

namespace kvmport {
namespace {

TEST(UefiImages, VariablesOfAnotherSizeAreRefused) {
  const TempDir temp;
  write_file_durably(temp.path() / "vmware.nvram", "not a variable store");
  try {
    find_uefi_images(false, temp.path() / "vmware.nvram");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), "NVRAM_UNSUPPORTED");
  }
}

TEST(Seabios, MissingImageIsNamed) {
  try {
    find_seabios({"kvmport-has-no-such.bin"});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), "FIRMWARE_MISSING");
    EXPECT_NE(e.summary().find("kvmport-has-no-such.bin"), std::string::npos);
  }
}

} // namespace
} // namespace kvmport
