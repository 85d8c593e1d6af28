// SPDX-License-Identifier: Apache-2.0
// The boot medium, built and booted in QEMU by every way that there is, up to the inventory on the serial console.
#include "base/file.h"
#include "base/firmware_files.h"
#include "base/process.h"
#include "libconvert/p2v/enrol.h"
#include "tests/support/guests.h"
#include "tests/support/sshd.h"
#include "tests/support/tempdir.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

using testing::HasSubstr;

class Media : public testing::Test {
 protected:
  // A busy host emulates the timer too late for the kernel's check of it.
  void build(const std::vector<std::string>& more,
             const std::string& kernel_arguments = "p2v.inventory no_timer_check") {
    std::vector<std::string> argv{command("kvm-p2v"), "media", "--json", "--kernel-args", kernel_arguments};
    argv.insert(argv.end(), more.begin(), more.end());
    const ProcessResult r = run_process(argv, std::chrono::minutes(20));
    ASSERT_EQ(r.exit_code, 0) << r.out << r.err;
    result_ = nlohmann::json::parse(r.out.substr(r.out.rfind('\n', r.out.size() - 2) + 1));
    std::printf("initramfs %.1f MiB, image %.1f MiB\n", result_["initramfs_size"].get<double>() / 1048576,
                result_["image_size"].get<double>() / 1048576);
    EXPECT_LT(result_["initramfs_size"].get<std::uint64_t>(), 150U << 20);
    EXPECT_LT(result_["image_size"].get<std::uint64_t>(), 150U << 20);
  }

  /// The command line of a machine with a serial port, SMBIOS and a SATA disk; `drive`: where the disk lies.
  static std::vector<std::string> machine(const fs::path& serial, const std::string& drive) {
    return {find_program("qemu-system-x86_64").value(),
            "-machine",
            "q35,accel=tcg",
            "-nodefaults",
            "-display",
            "none",
            "-vga",
            "std",
            "-serial",
            "file:" + serial.string(),
            "-smbios",
            "type=1,uuid=564d7088-01a1-4b5c-8d6e-102030405060,serial=P2V-TEST-1",
            "-no-reboot",
            "-drive",
            "if=none,id=d," + drive,
            "-device",
            "ide-hd,drive=d,bus=ide.0,serial=DISK-SERIAL-1"};
  }

  /// Boots a machine with a SATA disk, `more` of it, and returns what its serial port said until it went off.
  std::string boot(const std::vector<std::string>& more) {
    const fs::path disk = dir_.path() / "disk.raw", serial = dir_.path() / "serial";
    make_pattern_file(disk, 64U << 20, 7);
    const std::string before = sha256_of(disk);
    std::vector<std::string> argv = machine(serial, "format=raw,file=" + disk.string());
    argv.insert(argv.end(), {"-m", "768"});
    argv.insert(argv.end(), more.begin(), more.end());
    const ProcessResult r = run_process(argv, std::chrono::minutes(15));
    std::string text = fs::exists(serial) ? read_file(serial) : "";
    EXPECT_EQ(r.exit_code, 0) << r.err << text;
    EXPECT_FALSE(r.timed_out);
    EXPECT_EQ(sha256_of(disk), before) << "the machine's disk was written";
    return text;
  }

  static void expect_inventory(const std::string& serial) {
    const auto begin = serial.find("{\"");
    ASSERT_NE(begin, std::string::npos) << serial;
    const auto inventory =
        nlohmann::json::parse(serial.substr(begin, serial.find('\n', begin) - begin), nullptr, false);
    ASSERT_TRUE(inventory.is_object()) << serial;
    ASSERT_FALSE(inventory["disks"].empty()) << serial;
    EXPECT_EQ(inventory["disks"][0]["name"], "sda");
    EXPECT_EQ(inventory["disks"][0]["size"], 64U << 20);
    EXPECT_THAT(serial, HasSubstr("network cards: eth0"));
  }

  TempDir dir_{guest_cache()};
  nlohmann::json result_;
};

const std::vector<std::string> card{"-netdev", "user,id=n,restrict=on", "-device",
                                    "e1000,netdev=n,mac=52:54:00:4b:56:99"};

std::vector<std::string> with_card(std::vector<std::string> argv) {
  argv.insert(argv.end(), card.begin(), card.end());
  return argv;
}

TEST_F(Media, KernelAndInitramfsStartDirectly) {
  ASSERT_NO_FATAL_FAILURE(build({"--pxe", (dir_.path() / "pxe").string()}));
  const std::string serial =
      boot(with_card({"-kernel", dir_.path() / "pxe/vmlinuz", "-initrd", dir_.path() / "pxe/initrd.img", "-append",
                      "console=ttyS0,115200 no_timer_check p2v.inventory"}));
  expect_inventory(serial);
  // Nothing but its own file system is mounted, and the disk refuses writes.
  EXPECT_THAT(serial, HasSubstr("looking for disks and network cards"));
}

/// CD, UEFI and PXE: PhysicalMachine.
TEST_F(Media, ImageStartsFromUsb) {
  KVMPORT_ONLY_SLOW();
  const fs::path image = dir_.path() / "p2v.iso";
  ASSERT_NO_FATAL_FAILURE(build({"-o", image.string()}));
  expect_inventory(
      boot(with_card({"-device", "qemu-xhci", "-drive", "if=none,id=usb,readonly=on,format=raw,file=" + image.string(),
                      "-device", "usb-storage,drive=usb,bootindex=0"})));
}

TEST_F(Media, SameInputGivesTheSameInitramfs) {
  KVMPORT_ONLY_SLOW();
  ASSERT_NO_FATAL_FAILURE(build({"--pxe", (dir_.path() / "a").string()}));
  ASSERT_NO_FATAL_FAILURE(build({"--pxe", (dir_.path() / "b").string()}));
  EXPECT_EQ(sha256_of(dir_.path() / "a/initrd.img"), sha256_of(dir_.path() / "b/initrd.img"));
}

/// A real sshd of this host, which lets in the medium with the right key, or whom `kvm-p2v accept` does.
class Server {
 public:
  Server(const fs::path& dir, bool enrol) : sshd_(dir), out_(dir / "out") {
    fs::create_directories(out_);
    if (!enrol)
      return;
    write_file_durably(sshd_.authorized_keys(), "");
    enrol_port_ = EnrolListener("127.0.0.1", 0).port(); // free a moment ago
  }
  std::string kernel_arguments() const {
    return fmt::format("p2v.server=ssh://root@10.0.2.2:{}{} ", sshd_.port(), fs::canonical(out_).string()) +
           (enrol_port_ != 0 ? fmt::format("p2v.enrol={}", enrol_port_) : "p2v.host_key=" + sshd_.fingerprint());
  }
  fs::path identity() const { return sshd_.identity(); }
  /// What the operator does with the code that the medium shows.
  ProcessResult accept(const std::string& code) const {
    return run_process({command("kvm-p2v"), "accept", "--dir", out_, "--listen",
                        fmt::format("127.0.0.1:{}", enrol_port_), "--host-key", sshd_.fingerprint(),
                        "--authorized-keys", sshd_.authorized_keys(), "--code", code},
                       std::chrono::minutes(5));
  }
  const fs::path& out() const { return out_; }

 private:
  Sshd sshd_;
  fs::path out_;
  std::uint16_t enrol_port_ = 0;
};

/// Waits until the serial port has said this, and returns what follows on the line.
std::string wait_for(const fs::path& serial, const std::string& words, std::chrono::minutes patience) {
  const auto until = std::chrono::steady_clock::now() + patience;
  while (std::chrono::steady_clock::now() < until) {
    const std::string text = fs::exists(serial) ? read_file(serial) : "";
    if (const auto at = text.find(words); at != std::string::npos && text.find('\n', at) != std::string::npos)
      return text.substr(at + words.size(), text.find('\n', at) - at - words.size());
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
  }
  return {};
}

/// A way to bring the medium to a machine, and the guest on its disk.
struct Road {
  const char* name;
  const char* guest;
  enum class Start { kernel, cd, cd_uefi, pxe } start;
  const char* fixed_network = nullptr; ///< p2v.net; the medium then has a key, too, and asks nobody
};

class PhysicalMachine : public Media, public testing::WithParamInterface<Road> {
 protected:
  /// Builds the medium and returns what QEMU needs to start from it.
  std::vector<std::string> prepare(const std::string& kernel_arguments, const fs::path& identity) {
    const fs::path image = dir_.path() / "p2v.iso", pxe = dir_.path() / "pxe";
    const bool cd = GetParam().start == Road::Start::cd || GetParam().start == Road::Start::cd_uefi;
    if (cd)
      build({"-o", image.string()}, kernel_arguments);
    else if (identity.empty())
      build({"--pxe", pxe.string()}, kernel_arguments);
    else
      build({"--pxe", pxe.string(), "--identity", identity.string()}, kernel_arguments);
    std::vector<std::string> argv{"-netdev", "user,id=n"};
    if (GetParam().start == Road::Start::pxe)
      argv = {"-netdev", "user,id=n,bootfile=boot.ipxe,tftp=" + pxe.string()};
    const bool net_first = GetParam().start == Road::Start::pxe;
    argv.insert(argv.end(),
                {"-device", std::string("e1000,netdev=n,mac=52:54:00:4b:56:99") + (net_first ? ",bootindex=0" : "")});
    if (cd)
      argv.insert(argv.end(), {"-drive", "if=none,id=cd,media=cdrom,readonly=on,format=raw,file=" + image.string(),
                               "-device", "ide-cd,drive=cd,bus=ide.1,bootindex=0"});
    if (GetParam().start == Road::Start::cd_uefi) {
      const UefiImages uefi = find_uefi_images(false, {});
      fs::copy_file(uefi.vars, dir_.path() / "vars.fd");
      argv.insert(argv.end(), {"-drive", "if=pflash,format=raw,readonly=on,file=" + uefi.code.string(), "-drive",
                               "if=pflash,format=raw,file=" + (dir_.path() / "vars.fd").string()});
    }
    if (GetParam().start == Road::Start::kernel)
      argv.insert(argv.end(), {"-kernel", pxe / "vmlinuz", "-initrd", pxe / "initrd.img", "-append",
                               "console=ttyS0,115200 " + kernel_arguments});
    return argv;
  }
};

TEST_P(PhysicalMachine, BecomesAProvenGuest) {
  KVMPORT_ONLY_SLOW();
  const fs::path source = make_guest(GetParam().guest) / "sda.raw", serial = dir_.path() / "serial";
  const std::string before = sha256_of(source);
  const bool enrol = GetParam().fixed_network == nullptr;
  const Server server(dir_.path(), enrol);
  std::string arguments = "no_timer_check loglevel=4 p2v.name=m p2v.fail=poweroff " + server.kernel_arguments();
  if (!enrol)
    arguments += std::string(" p2v.net=") + GetParam().fixed_network;
  const auto start = prepare(arguments, enrol ? fs::path() : server.identity());
  ASSERT_FALSE(HasFatalFailure());
  std::vector<std::string> argv = machine(serial, "format=raw,snapshot=on,file=" + source.string());
  argv.insert(argv.end(), {"-m", "1000", "-cpu", "Nehalem", "-smp", "4,sockets=2,cores=1,threads=2"});
  argv.insert(argv.end(), start.begin(), start.end());
  Child running(argv, {});
  if (enrol) {
    const std::string code = wait_for(serial, "compare the code: ", std::chrono::minutes(10));
    ASSERT_GE(code.size(), 11U) << read_file(serial);
    const ProcessResult accepted = server.accept(code.substr(0, 11));
    ASSERT_EQ(accepted.exit_code, 0) << accepted.err;
  }
  const auto ended = running.wait(std::chrono::minutes(25));
  std::printf("%s\n", read_file(serial).c_str());
  ASSERT_EQ(ended, 0);
  EXPECT_THAT(read_file(serial), HasSubstr("done"));
  EXPECT_EQ(sha256_of(source), before);
  const auto report = nlohmann::json::parse(read_file(server.out() / "m.report.json"));
  EXPECT_TRUE(report["proven"].get<bool>()) << report.dump(1);
  const std::string xml = read_file(server.out() / "m.xml");
  for (const char* part : {"564d7088-01a1-4b5c-8d6e-102030405060", "52:54:00:4b:56:99", "P2V-TEST-1", "sockets=\"2\"",
                           "threads=\"2\"", ">1024000<"})
    EXPECT_THAT(xml, HasSubstr(part));
}

INSTANTIATE_TEST_SUITE_P(
    All, PhysicalMachine,
    testing::Values(Road{"Kernel", "mini", Road::Start::kernel}, Road{"Cd", "reference", Road::Start::cd},
                    Road{"CdUefi", "reference", Road::Start::cd_uefi}, Road{"Pxe", "reference", Road::Start::pxe},
                    Road{"FixedNetworkAndKey", "mini", Road::Start::kernel, "10.0.2.77/24,gw=10.0.2.2,dns=10.0.2.3"}),
    [](const auto& param) { return param.param.name; });

} // namespace
} // namespace kvmport::test
