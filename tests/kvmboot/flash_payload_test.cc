// SPDX-License-Identifier: Apache-2.0
// A firmware of our own drives the flash chip from inside, on the built-in machine and on QEMU's.
#include "base/process.h"
#include "kvmboot/probe.h"
#include "kvmboot/vmm/pc.h"
#include "tests/support/tempdir.h"

#include <gmock/gmock.h>

namespace kvmport {
namespace {

namespace fs = std::filesystem;

constexpr const char* expected = "flash ff 00 80 5a 80 ff a7\ndone\n";
constexpr std::size_t variables_size = 64U << 10;

fs::path firmware() {
  return fs::read_symlink("/proc/self/exe").parent_path().parent_path().parent_path() / "payload" / "flash.bin";
}

TEST(FlashPayload, BuiltInMachine) {
  if (host_probe().kvm == Probe::Class::none)
    GTEST_SKIP() << "the built-in engine was not tested: " << host_probe().reasons.at(0);
  const std::string code = read_file(firmware());
  vmm::FirmwareImages images;
  images.code.assign(as_bytes(code).begin(), as_bytes(code).end());
  images.variables.assign(variables_size, std::byte{0xff});
  const UniqueFd kvm = vmm::open_kvm();
  const vmm::VideoMemory video;
  BootSpec spec;
  spec.firmware = Firmware::uefi;
  spec.memory = 64U << 20;
  vmm::Pc pc(spec, {images, kvm.get(), video.fd(), {}, [](std::size_t, Range, bool) {}});
  pc.start();
  EXPECT_EQ(pc.wait(std::chrono::minutes(1)), vmm::Pc::End::power_off) << pc.failure();
  EXPECT_EQ(pc.take_news().serial, expected);
  EXPECT_EQ(images.variables, Bytes(variables_size, std::byte{0xff})) << "the machine has its own copy";
}

TEST(FlashPayload, Qemu) {
  const TempDir temp;
  const fs::path variables = temp.path() / "variables";
  write_file_durably(variables, std::string(variables_size, '\xff'));
  const ProcessResult result =
      run_process({"qemu-system-x86_64", "-accel", "tcg", "-machine", "pc", "-nodefaults", "-display", "none",
                   "-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4", "-drive",
                   "if=pflash,unit=0,format=raw,readonly=on,file=" + firmware().string(), "-drive",
                   "if=pflash,unit=1,format=raw,file=" + variables.string()},
                  std::chrono::minutes(1));
  EXPECT_EQ(result.out, expected) << result.err;
  EXPECT_EQ(read_file(variables)[0x1123], '\xa7');
}

} // namespace
} // namespace kvmport
