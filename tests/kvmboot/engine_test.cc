// SPDX-License-Identifier: Apache-2.0
// The engines on real, very small machines. QEMU by software translation always, the built-in one where there is a
// /dev/kvm, however slow: what counts is the machine, not its speed.
#include "base/file.h"
#include "base/firmware_files.h"
#include "base/hub.h"
#include "kvmboot/engine_kvm.h"
#include "kvmboot/engine_qemu.h"
#include "kvmboot/judge.h"
#include "kvmboot/probe.h"
#include "tests/kvmboot/boot_sector.h"
#include "tests/support/tempdir.h"

#include <cstring>
#include <gmock/gmock.h>

namespace kvmport {
namespace {

using test::BootSector;
using test::MemoryDisk;
using testing::HasSubstr;

class QemuEngine : public testing::Test {
 protected:
  QemuEngine() {
    spec_.memory = 64U << 20;
    spec_.timeout = std::chrono::seconds(120);
  }

  void disk(const Bytes& head, DiskBus bus = DiskBus::virtio_blk) {
    disks_.push_back(std::make_unique<MemoryDisk>(head));
    overlays_.push_back(std::make_unique<Overlay>(*disks_.back(), temp_.path(), 1U << 30));
    spec_.disks.push_back({overlays_.back().get(), bus, 512, ""});
  }
  virtual std::unique_ptr<Engine> make() const { return make_qemu_engine(false, 1.0, "test"); }
  Verdict prove(Milestone until) {
    NullSink sink;
    const auto engine = make();
    return prove_boot(*engine, spec_, until, temp_.path() / "serial", sink, stop_);
  }

  TempDir temp_;
  std::vector<std::unique_ptr<MemoryDisk>> disks_;
  std::vector<std::unique_ptr<Overlay>> overlays_;
  BootSpec spec_;
  StopToken stop_;
};

/// What both engines must do.
class EveryEngine : public QemuEngine, public testing::WithParamInterface<const char*> {
 protected:
  bool built_in() const { return std::string_view(GetParam()) == "kvm"; }
  void SetUp() override {
    if (built_in() && host_probe().kvm == Probe::Class::none)
      GTEST_SKIP() << "the built-in engine was not tested: " << host_probe().reasons.at(0);
  }
  std::unique_ptr<Engine> make() const override {
    if (!built_in())
      return QemuEngine::make();
    KvmEngineOptions options;
    options.reason = [] { return std::string("test"); };
    return make_kvm_engine(std::move(options));
  }
};

INSTANTIATE_TEST_SUITE_P(All, EveryEngine, testing::Values("qemu-tcg", "kvm"), [](const auto& info) {
  return std::string(info.param).substr(0, 4) == "qemu" ? "qemu" : "kvm";
});

TEST_P(EveryEngine, SerialTextBecomesMilestonesAndALog) {
  disk(BootSector().serial("Linux version 1\r\nhost login: ").halt().sector());
  const Verdict v = prove(Milestone::login);
  EXPECT_TRUE(v.proven);
  EXPECT_EQ(v.engine, GetParam());
  EXPECT_EQ(v.engine_reason, "test");
  EXPECT_GT(v.cpu.count(), 0);
  EXPECT_GT(v.wall.count(), 0);
  ASSERT_GE(v.reached.size(), 3U);
  EXPECT_EQ(v.reached.front().milestone, Milestone::firmware);
  EXPECT_EQ(v.reached.front().source, "firmware");
  EXPECT_EQ(v.reached.back().source, "serial");
  EXPECT_THAT(read_file(temp_.path() / "serial"), HasSubstr("Linux version 1\r\nhost login:"));
}

TEST_P(EveryEngine, TextScreenIsReadAndPictured) {
  disk(BootSector().screen("\r\nhost login: ").halt().sector());
  spec_.screenshot = temp_.path() / "shot.png";
  const Verdict v = prove(Milestone::login);
  EXPECT_TRUE(v.proven);
  EXPECT_EQ(v.reached.back().source, "screen");
}

TEST_P(EveryEngine, SecondVirtioDiskIsNotBooted) {
  disk(BootSector().serial("Loading Linux one\n").halt().sector());
  disk(BootSector().serial("Loading Linux two\n").halt().sector());
  EXPECT_EQ(prove(Milestone::bootloader).reached.back().evidence, "Loading Linux one");
}

TEST_P(EveryEngine, EmptyDiskIsNotBootable) {
  disk({});
  const Verdict v = prove(Milestone::login);
  EXPECT_FALSE(v.proven);
  EXPECT_EQ(v.diagnosis.value().code, "NO_BOOTABLE_DEVICE");
}

TEST_F(QemuEngine, FirstDiskIsBooted) {
  disk(BootSector().serial("Loading Linux one\n").halt().sector(), DiskBus::sata);
  disk(BootSector().serial("Loading Linux two\n").halt().sector(), DiskBus::virtio_blk);
  const Verdict v = prove(Milestone::bootloader);
  EXPECT_TRUE(v.proven);
  EXPECT_EQ(v.reached.back().evidence, "Loading Linux one");
}

TEST_P(EveryEngine, RestartingMachineIsALoop) {
  disk(BootSector().reset().halt().sector());
  EXPECT_EQ(prove(Milestone::login).diagnosis.value().code, "BOOT_LOOP");
}

TEST_P(EveryEngine, PowerOffIsNoProof) {
  disk(BootSector().serial("Linux version 1\r\n").power_off().halt().sector());
  const Verdict v = prove(Milestone::login);
  EXPECT_EQ(v.diagnosis.value().code, "POWERED_OFF");
  EXPECT_EQ(v.reached.back().milestone, Milestone::kernel);
}

TEST_P(EveryEngine, AnswersAreTypedOnTheSerialConsole) {
  disk(BootSector().serial("Passphrase: ").wait_serial().serial("\r\nhost login: ").halt().sector());
  spec_.answers.push_back({"Passphrase: $", "x\n", 1});
  EXPECT_TRUE(prove(Milestone::login).proven);
}

TEST_P(EveryEngine, UnansweredMachineTimesOut) {
  disk(BootSector().serial("Passphrase: ").wait_serial().serial("\r\nhost login: ").halt().sector());
  spec_.timeout = std::chrono::seconds(3);
  const Verdict v = prove(Milestone::login);
  EXPECT_FALSE(v.proven);
  EXPECT_EQ(v.diagnosis.value().code, "BOOT_TIMEOUT");
}

TEST_P(EveryEngine, WritesStayInTheOverlayAndAreEvidence) {
  const Bytes sector = BootSector().write_sector(9).serial("host login: ").halt().sector();
  disk(sector);
  std::vector<std::string> writes;
  const auto engine = make();
  engine->run(
      spec_,
      [&](const Evidence& e) {
        if (e.kind == Evidence::Kind::disk_write)
          writes.push_back(e.text);
        return writes.empty();
      },
      stop_);
  EXPECT_THAT(writes, testing::ElementsAre("0 4096 512"));
  Bytes written(512), below(512);
  overlays_[0]->read(4096, written);
  disks_[0]->read(4096, below);
  // The built-in engine's process has the overlay for itself.
  EXPECT_EQ(written, built_in() ? Bytes(512) : sector);
  EXPECT_TRUE(is_zero(below));
}

TEST_P(EveryEngine, CardsArePluggedIntoTheirHubAndUnpluggedAtTheEnd) {
  const std::filesystem::path hub = temp_.path() / "hub";
  disk(BootSector().serial("Loading Linux one\n").halt().sector());
  spec_.nics = {{"52:54:00:00:00:01", "virtio", hub}, {"52:54:00:00:00:02", "virtio", {}}, {"", "virtio", hub}};
  const auto ports = [&] {
    std::error_code none;
    return std::distance(std::filesystem::directory_iterator(hub, none), {});
  };
  std::ptrdiff_t most = 0;
  std::string serial;
  const auto outcome = make()->run(
      spec_,
      [&](const Evidence& e) {
        most = std::max(most, ports());
        serial += e.kind == Evidence::Kind::serial ? e.text : "";
        return serial.find("one") == std::string::npos;
      },
      stop_);
  EXPECT_EQ(outcome.end, EngineOutcome::End::judged) << outcome.detail;
  EXPECT_EQ(most, 2);
  EXPECT_FALSE(std::filesystem::exists(hub));
}

/// The guest sends a frame and writes what it gets for an answer to the serial port.
TEST_P(EveryEngine, FramesGoToTheHubAndComeFromIt) {
  const std::string object = temp_.path() / "network.o", sector = temp_.path() / "network";
  test::must_run({"as", "--32", "tests/kvmboot/data/network.s", "-o", object});
  test::must_run({"ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", object, "-o", sector});
  const std::string code = read_file(sector), text = "answer";
  disk(Bytes(as_bytes(code).begin(), as_bytes(code).end()));
  HubPort port(temp_.path() / "hub");
  spec_.nics = {{"52:54:00:00:00:01", "virtio", temp_.path() / "hub"}};
  Bytes question, answer(60);
  std::memcpy(answer.data() + min_frame, text.data(), text.size());
  std::memset(answer.data(), 0xff, 6); // to all
  std::string serial;
  const auto outcome = make()->run(
      spec_,
      [&](const Evidence& e) {
        if (auto frame = port.receive()) {
          question = std::move(*frame);
          port.send(answer);
        }
        serial += e.kind == Evidence::Kind::serial ? e.text : "";
        return serial.find(text) == std::string::npos;
      },
      stop_);
  EXPECT_EQ(outcome.end, EngineOutcome::End::judged) << outcome.detail;
  Bytes expected(60);
  std::memcpy(expected.data() + min_frame, "ping", 4);
  EXPECT_EQ(question, expected);
}

class EveryBus : public QemuEngine, public testing::WithParamInterface<DiskBus> {};

TEST_P(EveryBus, Boots) {
  disk(BootSector().serial("GRUB loading").halt().sector(), GetParam());
  EXPECT_TRUE(prove(Milestone::bootloader).proven);
}

INSTANTIATE_TEST_SUITE_P(All, EveryBus,
                         testing::Values(DiskBus::virtio_blk, DiskBus::virtio_scsi, DiskBus::sata, DiskBus::ide));

TEST_F(QemuEngine, UefiWithoutLoaderIsDiagnosedAndTheVariablesStay) {
  disk({});
  const UefiImages images = find_uefi_images(false, {});
  spec_.firmware = Firmware::uefi;
  spec_.memory = 128U << 20;
  spec_.nvram = temp_.path() / "vars.fd";
  std::filesystem::copy_file(images.vars, spec_.nvram);
  const std::string before = test::sha256_of(spec_.nvram);
  const Verdict v = prove(Milestone::login);
  EXPECT_THAT(v.diagnosis.value().code, testing::AnyOf("UEFI_NO_BOOT_OPTION", "UEFI_SHELL"));
  EXPECT_EQ(v.reached.front().milestone, Milestone::firmware);
  EXPECT_EQ(test::sha256_of(spec_.nvram), before);
}

TEST_F(QemuEngine, BuiltInEngineRefusesWhatItHasNot) {
  const auto engine = make_kvm_engine();
  const auto code = [&] {
    try {
      engine->run(
          spec_, [](const Evidence&) { return true; }, stop_);
    } catch (const Error& error) {
      return error.code();
    }
    return std::string("ran");
  };
  if (host_probe().kvm == Probe::Class::none)
    GTEST_SKIP() << "the built-in engine was not tested: " << host_probe().reasons.at(0);
  disk({}, DiskBus::sata);
  EXPECT_EQ(code(), "BOOT_UNSUPPORTED");
  spec_.disks[0].bus = DiskBus::virtio_blk;
  spec_.nics = {{"52:54:00:00:00:01", "e1000", {}}};
  EXPECT_EQ(code(), "BOOT_UNSUPPORTED");
  spec_.nics = {{"no address", "virtio", {}}};
  EXPECT_EQ(code(), "BOOT_UNSUPPORTED");
  spec_.nics.clear();
  spec_.firmware = Firmware::uefi;
  spec_.secure_boot = true;
  EXPECT_EQ(code(), "BOOT_UNSUPPORTED");
}

TEST_F(QemuEngine, FailureOfQemuIsNotTheGuests) {
  disk({});
  spec_.memory = 1ULL << 60;
  const Verdict v = prove(Milestone::login);
  EXPECT_EQ(v.diagnosis.value().code, "ENGINE_FAILED");
  EXPECT_THAT(v.diagnosis->lines.at(0), HasSubstr("memory"));
}

TEST_P(EveryEngine, StopEndsTheRun) {
  disk(BootSector().halt().sector());
  stop_.request();
  EXPECT_EQ(prove(Milestone::login).diagnosis.value().code, "INTERRUPTED");
}

} // namespace
} // namespace kvmport
