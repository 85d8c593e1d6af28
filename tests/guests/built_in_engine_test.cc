// SPDX-License-Identifier: Apache-2.0
// Real converted disks on the built-in engine, as far as any KVM carries them: firmware, boot sector, GRUB and its
// menu.
#include "base/file.h"
#include "kvmboot/engine_kvm.h"
#include "kvmboot/judge.h"
#include "kvmboot/probe.h"
#include "tests/support/guests.h"
#include "tests/support/tempdir.h"

#include <gmock/gmock.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

class BuiltInEngine : public testing::Test {
 protected:
  void SetUp() override {
    if (host_probe().kvm == Probe::Class::none)
      GTEST_SKIP() << "the built-in engine was not tested: " << host_probe().reasons.at(0);
    std::printf("KVM is %s: %s\n", to_string(host_probe().kvm).c_str(), host_probe().reasons.at(0).c_str());
  }

  /// The disk of mini, converted to `format`.
  void convert(const std::string& format) {
    const auto sources = package_guest(make_guest("mini"), "vmx", dir_.path() / "source");
    const ProcessResult result =
        run_process(convert_argv(sources, dir_.path() / "out", {"--no-boot", "--name", "m", "--format", format}),
                    std::chrono::minutes(10));
    ASSERT_EQ(result.exit_code, 3) << result.out << result.err;
    image_ = open_image(dir_.path() / "out" / ("m-sda." + (format == "raw" ? std::string("img") : format)));
    overlay_ = std::make_unique<Overlay>(*image_, dir_.path(), 1ULL << 30);
    spec_.disks = {{overlay_.get(), DiskBus::virtio_blk, 512, ""}};
    spec_.memory = 256U << 20;
    spec_.timeout = std::chrono::minutes(20);
  }
  Verdict prove(Milestone until) {
    NullSink sink;
    return prove_boot(*make_kvm_engine(), spec_, until, {}, sink, stop_);
  }

  TempDir dir_{guest_cache()};
  std::unique_ptr<Image> image_;
  std::unique_ptr<Overlay> overlay_;
  BootSpec spec_;
  StopToken stop_;
};

class BuiltInEngineFormats : public BuiltInEngine, public testing::WithParamInterface<const char*> {};

TEST_P(BuiltInEngineFormats, ConvertedDiskReachesItsBootSector) {
  ASSERT_NO_FATAL_FAILURE(convert(GetParam()));
  std::string firmware, screen;
  make_kvm_engine()->run(
      spec_,
      [&](const Evidence& e) {
        firmware += e.kind == Evidence::Kind::firmware ? e.text : "";
        screen = e.kind == Evidence::Kind::screen ? e.text : screen;
        return screen.find("GRUB") == std::string::npos;
      },
      stop_);
  EXPECT_THAT(firmware, testing::HasSubstr("Booting from Hard Disk")) << "port 0x402";
  EXPECT_THAT(screen, testing::HasSubstr("GRUB loading"));
}

INSTANTIATE_TEST_SUITE_P(All, BuiltInEngineFormats, testing::Values("raw", "qcow2"),
                         [](const auto& info) { return std::string(info.param); });

TEST_F(BuiltInEngine, GrubShowsItsMenuFromAConvertedDisk) {
  ASSERT_NO_FATAL_FAILURE(convert("qcow2"));
  std::string screen;
  make_kvm_engine()->run(
      spec_,
      [&](const Evidence& e) {
        screen = e.kind == Evidence::Kind::screen ? e.text : screen;
        return screen.find("GNU GRUB") == std::string::npos && screen.find("Loading Linux") == std::string::npos;
      },
      stop_);
  EXPECT_THAT(screen, testing::AnyOf(testing::HasSubstr("GNU GRUB"), testing::HasSubstr("Loading Linux")));
}

/// GRUB's core is there, but not the filesystem with the rest of it.
TEST_F(BuiltInEngine, GrubRescueIsDiagnosed) {
  ASSERT_NO_FATAL_FAILURE(convert("raw"));
  constexpr std::uint64_t partition = 1U << 20, superblock = 1024;
  overlay_->zero({partition + superblock, 1024});
  const Verdict v = prove(Milestone::kernel);
  EXPECT_FALSE(v.proven);
  ASSERT_TRUE(v.diagnosis);
  EXPECT_EQ(v.diagnosis->code, "GRUB_RESCUE") << testing::PrintToString(v.diagnosis->lines);
}

} // namespace
} // namespace kvmport::test
