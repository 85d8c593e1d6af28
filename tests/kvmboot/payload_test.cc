// SPDX-License-Identifier: Apache-2.0
// Guests of our own (tests/kvmboot/payload) that try the machine from inside: processor modes, clock, timer, interrupts
// and the disk, booted directly and through SeaBIOS. QEMU runs the same bytes, so that a payload can't be wrong in the
// same way as our own devices.
#include "base/file.h"
#include "kvmboot/engine_kvm.h"
#include "kvmboot/engine_qemu.h"
#include "kvmboot/probe.h"
#include "tests/kvmboot/boot_sector.h"

#include <algorithm>
#include <ctime>
#include <fmt/format.h>
#include <gmock/gmock.h>

namespace kvmport {
namespace {

namespace fs = std::filesystem;
using End = EngineOutcome::End;
using test::MemoryDisk;
using testing::HasSubstr;

constexpr std::size_t sector = 512;

/// Beside the directory of this program.
fs::path payload(const std::string& name) {
  return fs::read_symlink("/proc/self/exe").parent_path().parent_path().parent_path() / "payload" / name;
}

/// "20261127080645", in UTC.
std::string clock_text(std::time_t at) {
  std::tm t{};
  ::gmtime_r(&at, &t);
  std::array<char, 16> text{};
  std::strftime(text.data(), text.size(), "%Y%m%d%H%M%S", &t);
  return text.data();
}

/// The lines that begin with `name` and a blank, without these.
std::vector<std::string> values(const std::string& text, const std::string& name) {
  std::vector<std::string> found;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    if (line.starts_with(name + " "))
      found.push_back(line.substr(name.size() + 1));
    at = end + 1;
  }
  return found;
}

class Payload : public testing::TestWithParam<const char*> {
 protected:
  Payload() {
    spec_.memory = 64U << 20;
    spec_.timeout = std::chrono::seconds(120);
  }
  bool built_in() const { return std::string_view(GetParam()) == "kvm"; }
  void SetUp() override {
    if (built_in() && host_probe().kvm == Probe::Class::none)
      GTEST_SKIP() << "the built-in engine was not tested: " << host_probe().reasons.at(0);
  }

  void disk(Bytes head) {
    disk_ = std::make_unique<MemoryDisk>(std::move(head));
    overlay_ = std::make_unique<Overlay>(*disk_, temp_.path(), 1U << 30);
    spec_.disks = {{overlay_.get(), DiskBus::virtio_blk, 512, ""}};
  }
  /// What came over the serial port until the guest switched itself off.
  std::string run() {
    const auto engine = built_in() ? make_kvm_engine() : make_qemu_engine(false, 1.0, "test");
    std::string text;
    const EngineOutcome outcome = engine->run(
        spec_,
        [&](const Evidence& evidence) {
          if (evidence.kind == Evidence::Kind::serial)
            text += evidence.text;
          if (evidence.kind == Evidence::Kind::disk_write)
            writes_.push_back(evidence.text);
          return evidence.kind != Evidence::Kind::reset;
        },
        stop_);
    EXPECT_EQ(outcome.end, End::shutdown) << outcome.detail;
    EXPECT_THAT(text, testing::EndsWith("done\n")) << text;
    return text;
  }
  std::string run(const std::string& kernel, const std::string& command_line = {}) {
    spec_.linux = LinuxBoot{payload(kernel), {}, command_line};
    return run();
  }
  /// Sector `number` was written, with `content`, and only in the layer over the disk.
  void expect_written(std::size_t number, ByteSpan content) {
    EXPECT_THAT(writes_, testing::ElementsAre(fmt::format("0 {} {}", number * sector, sector)));
    Bytes above(sector), below(sector);
    overlay_->read(number * sector, above);
    disk_->read(number * sector, below);
    // The built-in engine's process has the layer for itself.
    EXPECT_TRUE(built_in() || std::ranges::equal(above, content));
    EXPECT_TRUE(is_zero(below)) << "the base was written";
  }
  /// A copy of a payload with other bytes at these offsets.
  fs::path patched(const std::string& name, const std::map<std::size_t, char>& bytes) {
    std::string content = read_file(payload(name));
    for (const auto& [at, byte] : bytes)
      content.at(at) = byte;
    write_file_durably(temp_.path() / name, content);
    return temp_.path() / name;
  }

  TempDir temp_;
  std::unique_ptr<MemoryDisk> disk_;
  std::unique_ptr<Overlay> overlay_;
  BootSpec spec_;
  StopToken stop_;
  std::vector<std::string> writes_;
};

std::string name_of(const testing::TestParamInfo<const char*>& info) {
  return std::string(info.param).substr(0, 4) == "qemu" ? "qemu" : "kvm";
}

INSTANTIATE_TEST_SUITE_P(All, Payload, testing::Values("qemu-tcg", "kvm"), name_of);

/// Both readings are times of this run.
void expect_clock(const std::vector<std::string>& readings, std::time_t begin) {
  std::string last = clock_text(begin - 1);
  for (const std::string& reading : readings) {
    EXPECT_LE(last, reading);
    last = reading;
  }
  EXPECT_LE(last, clock_text(std::time(nullptr) + 1));
}

TEST_P(Payload, RealModeThroughTheBios) {
  const std::string image = read_file(payload("real16.bin"));
  disk({as_bytes(image).begin(), as_bytes(image).end()});
  const std::time_t begin = std::time(nullptr);
  const std::string text = run();
  EXPECT_THAT(text, HasSubstr("16-bit mode\ntwo ticks\nrtc "));
  EXPECT_THAT(text, HasSubstr("\nthis is the second sector\n"));
  EXPECT_EQ(values(text, "rtc").size(), 1U);
  expect_clock(values(text, "rtc"), begin);
  expect_written(8, as_bytes(image).subspan(sector));
}

TEST_P(Payload, ProtectedModeWithoutPaging) {
  const std::time_t begin = std::time(nullptr);
  const std::string text = run("pm32.elf");
  EXPECT_THAT(text, HasSubstr("32-bit mode, cr0 00000001\nscratch 0000005a bridge 00008086\n"));
  EXPECT_EQ(values(text, "rtc").size(), 2U);
  expect_clock(values(text, "rtc"), begin);
}

TEST_P(Payload, PvhIsToldCommandLineInitrdAndMemory) {
  write_file_durably(temp_.path() / "initrd", "what the initrd holds");
  spec_.linux = LinuxBoot{payload("boot.elf"), temp_.path() / "initrd", "root=/dev/vda quiet"};
  const std::string text = run();
  EXPECT_THAT(text, HasSubstr(fmt::format("entered by PVH\nmagic {}\n", 0x336ec578)));
  EXPECT_THAT(text,
              HasSubstr("command line: root=/dev/vda quiet\ninitrd: what the initrd holds\nacpi RSD PTR sum 0\n"));
  if (!built_in())
    return; // QEMU's map has its firmware's tables in it
  EXPECT_THAT(values(text, "ram"),
              testing::ElementsAre(fmt::format("0 {}", 0x9fc00), fmt::format("{} {}", 1U << 20, 63U << 20)));
}

TEST_P(Payload, TimerInterrupts) {
  EXPECT_EQ(run("timer.elf"), "ticks by PIC 3\nticks by APIC 3\ndone\n");
}

/// The other protocols of Linux: QEMU knows the first not at all and the others only behind real mode.
class LinuxPayload : public Payload {};

INSTANTIATE_TEST_SUITE_P(All, LinuxPayload, testing::Values("kvm"), name_of);

TEST_P(LinuxPayload, VmlinuxIsEnteredInLongModeWithAZeroPage) {
  const std::string elf = read_file(payload("boot.elf"));
  const std::size_t note = elf.find(std::string("\x12\0\0\0Xen\0", 8));
  ASSERT_NE(note, std::string::npos);
  write_file_durably(temp_.path() / "initrd", "what the initrd holds");
  spec_.linux = LinuxBoot{patched("boot.elf", {{note, '\x11'}}), temp_.path() / "initrd", "quiet"};
  EXPECT_EQ(run(),
            fmt::format("entered by the 64-bit protocol\nheader {}\ncommand line: quiet\ninitrd: what the initrd "
                        "holds\nacpi RSD PTR sum 0\nram 0 {}\nram {} {}\ndone\n",
                        0x53726448, 0x9fc00, 1U << 20, 63U << 20));
}

TEST_P(LinuxPayload, BzImageIsEnteredInLongMode) {
  EXPECT_EQ(run("bzimage.bin", "one two"), "64-bit entry: one two\ndone\n");
}

TEST_P(LinuxPayload, BzImageWithout64BitEntryIsEnteredInProtectedMode) {
  constexpr std::size_t xloadflags = 0x236;
  spec_.linux = LinuxBoot{patched("bzimage.bin", {{xloadflags, '\0'}}), {}, "one two"};
  EXPECT_EQ(run(), "32-bit entry: one two\ndone\n");
}

/// How a disk's requests are waited for.
class DiskPayload : public Payload {
 protected:
  static std::byte pattern(std::size_t i) { return static_cast<std::byte>(i * 7 + 3); }

  void serve(const std::string& way, unsigned interrupts) {
    Bytes head(2 * sector);
    for (std::size_t i = 0; i < sector; i++)
      head[sector + i] = pattern(i);
    disk(std::move(head));
    EXPECT_EQ(run("disk.elf", way),
              fmt::format("sectors {}\nread 0\nas expected 1\nwrite 0\nread back 0\nas written 1\npast the end "
                          "1\ninterrupts {}\ndone\n",
                          disk_->size() / sector, interrupts));
    Bytes inverted(sector);
    for (std::size_t i = 0; i < sector; i++)
      inverted[i] = ~pattern(i);
    expect_written(5, inverted);
  }
};

INSTANTIATE_TEST_SUITE_P(All, DiskPayload, testing::Values("qemu-tcg", "kvm"), name_of);

TEST_P(DiskPayload, Polled) {
  serve("polled", 0);
}

TEST_P(DiskPayload, ByInterruptLine) {
  serve("intx", 4);
}

TEST_P(DiskPayload, ByMessage) {
  serve("msix", 4);
}

} // namespace
} // namespace kvmport
