// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v_delivery.h"
#include "tests/support/tempdir.h"

#include <gtest/gtest.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

/// A machine whose medium was started by one firmware, and what its disk can be started by.
struct Started {
  const char* name;
  MachineFirmware by;
  bool esp, boot_code;
  bool grub; ///< a BIOS boot partition
  MachineFirmware result;
};

class DeliveredFirmware : public testing::TestWithParam<Started> {};

TEST_P(DeliveredFirmware, IsWhatTheDiskStartsBy) {
  const TempDir dir;
  ManifestMessage manifest;
  manifest.name = "m";
  manifest.wishes.convert = false;
  manifest.machine.firmware = GetParam().by;
  manifest.machine.memory = 512U << 20;
  manifest.machine.disks.resize(1);
  manifest.disks = {{64U << 20, 64U << 20, {}}};
  const fs::path disk = dir.path() / "sda.img";
  must_run({"truncate", "-s", "64M", disk.string()});
  must_run({"sh", "-c",
            std::string("echo 'label: gpt\\n,32M,") + (GetParam().esp ? "U" : "L") +
                (GetParam().grub ? "\\n,1M,21686148-6449-6E6F-744E-656564454649" : "") + "' | sfdisk -q " +
                disk.string()});
  if (GetParam().boot_code)
    write_exact(open_existing(disk).get(), 0, as_bytes("\xeb\x63\x90"), "sda.img");
  NullSink sink;
  const StopToken stop;
  make_delivery({})({manifest, {disk}, {{}}, dir.path(), dir.path()}, sink, stop);
  const std::string xml = read_file(dir.path() / "m.xml");
  EXPECT_EQ(xml.find("<loader") != std::string::npos, GetParam().result == MachineFirmware::uefi) << xml;
}

INSTANTIATE_TEST_SUITE_P(
    All, DeliveredFirmware,
    testing::Values(Started{"UefiBoth", MachineFirmware::uefi, true, true, true, MachineFirmware::uefi},
                    Started{"BiosBoth", MachineFirmware::bios, true, true, true, MachineFirmware::bios},
                    Started{"BiosCodeThatNothingFollows", MachineFirmware::bios, true, true, false,
                            MachineFirmware::uefi},
                    Started{"UefiCodeAlone", MachineFirmware::uefi, false, true, false, MachineFirmware::bios},
                    Started{"BiosEspAlone", MachineFirmware::bios, true, false, false, MachineFirmware::uefi},
                    Started{"UefiNothing", MachineFirmware::uefi, false, false, false, MachineFirmware::uefi},
                    Started{"BiosNothing", MachineFirmware::bios, false, false, false, MachineFirmware::bios}),
    [](const auto& param) { return param.param.name; });

} // namespace
} // namespace kvmport::test
