// SPDX-License-Identifier: Apache-2.0
// The parts of the boot medium that need no boot: the initramfs' bytes, which drivers it takes, which libraries.
#include "base/process.h"
#include "libconvert/guest/linux/initramfs_image.h"
#include "libconvert/p2v/host_programs.h"
#include "libconvert/p2v/initramfs_writer.h"
#include "libconvert/p2v/media.h"
#include "libconvert/p2v/medium_actions.h"
#include "libconvert/p2v/medium_kernel.h"
#include "tests/support/tempdir.h"

#include <gmock/gmock.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

using linux_guest::CpioEntry;
using testing::ElementsAre;

TEST(Initramfs, IsReadBackAndBelongsToRoot) {
  const TempDir dir;
  write_file_durably(dir.path() / "source", std::string(100000, 'x'));
  InitramfsTreeWriter tree;
  tree.symlink("bin", "usr/bin");
  tree.copy("usr/bin/tool", dir.path() / "source", 0755);
  tree.file("etc/key", "old");
  tree.file("etc/key", "secret", 0600);
  tree.directory("etc", 0700);
  const std::uint64_t packed = tree.write(dir.path() / "a", 1000000000, 3);
  EXPECT_EQ(packed, 100000U + 6U);
  tree.write(dir.path() / "b", 1000000000, 3);
  const std::string image = read_file(dir.path() / "a");
  EXPECT_EQ(image, read_file(dir.path() / "b")) << "the same content gives the same bytes";
  EXPECT_LT(image.size(), 2000U);
  std::vector<std::string> names;
  const auto parts = linux_guest::walk_initramfs(image, [&](const CpioEntry& e, const auto& content) {
    names.push_back(e.name);
    if (e.name == "etc/key") {
      EXPECT_EQ(e.mode, 0100600U);
      EXPECT_EQ(content(), "secret");
    } else if (e.name == "etc") {
      EXPECT_EQ(e.mode, 0040700U);
    } else if (e.name == "bin") {
      EXPECT_EQ(content(), "usr/bin");
    } else if (e.name == "usr/bin/tool") {
      EXPECT_EQ(content(), std::string(100000, 'x'));
      EXPECT_EQ(e.mode, 0100755U);
    }
  });
  EXPECT_THAT(names, ElementsAre("bin", "etc", "etc/key", "usr", "usr/bin", "usr/bin/tool"));
  ASSERT_EQ(parts.size(), 1U);
  EXPECT_EQ(parts[0].compression, "zstd");
  // Owner and time, as another reader of the format sees them.
  const std::string listing = must_run({"python3", "-c", R"(
import subprocess, sys
d = subprocess.run(["zstd", "-dc", sys.argv[1]], capture_output=True, check=True).stdout
assert d[:6] == b"070701"
print([int(d[6 + 8 * i:14 + 8 * i], 16) for i in (2, 3, 5)])
)",
                                        dir.path() / "a"});
  EXPECT_EQ(listing, "[0, 0, 1000000000]\n");
}

TEST(Initramfs, AFileThatIsGoneIsAnError) {
  const TempDir dir;
  InitramfsTreeWriter tree;
  tree.copy("x", dir.path() / "missing");
  EXPECT_THROW(tree.write(dir.path() / "a", 0, 3), Error);
}

TEST(MediumKernel, TakesWhatStandsBeforeDisksNetworkAndKeyboard) {
  for (const char* path :
       {"kernel/drivers/ata/ahci.ko", "kernel/drivers/scsi/megaraid/megaraid_sas.ko",
        "kernel/drivers/nvme/host/nvme.ko", "kernel/drivers/md/raid456.ko",
        "kernel/drivers/net/ethernet/intel/ixgbe/ixgbe.ko", "kernel/drivers/net/bonding/bonding.ko",
        "kernel/drivers/usb/storage/uas.ko", "kernel/drivers/hid/hid-generic.ko", "kernel/drivers/watchdog/iTCO_wdt.ko",
        "kernel/fs/efivarfs/efivarfs.ko", "kernel/net/8021q/8021q.ko", "kernel/drivers/message/fusion/mptsas.ko"})
    EXPECT_TRUE(wanted_on_medium(path)) << path;
  for (const char* path :
       {"kernel/drivers/gpu/drm/i915/i915.ko", "kernel/drivers/net/wireless/intel/iwlwifi/iwlwifi.ko",
        "kernel/sound/core/snd.ko", "kernel/drivers/media/mc/mc.ko", "kernel/net/bluetooth/bluetooth.ko",
        "kernel/drivers/usb/gadget/udc/dummy_hcd.ko", "updates/dkms/odd.ko"})
    EXPECT_FALSE(wanted_on_medium(path)) << path;
}

TEST(MediumKernel, FindsTheHostsOwn) {
  const TempDir dir;
  const MediumKernel kernel = find_medium_kernel({}, dir.path());
  EXPECT_EQ(kernel.version.find("cloud"), std::string::npos);
  const MediumModules modules = choose_medium_modules(kernel);
  for (const char* name : {"ahci", "e1000", "libata", "mdio", "sd_mod", "virtio_blk", "dm_mod", "xhci_pci"})
    EXPECT_TRUE(modules.chosen.contains(name)) << name;
  EXPECT_FALSE(modules.chosen.contains("i915"));
  for (const auto& [name, path] : modules.chosen)
    EXPECT_TRUE(fs::exists(kernel.modules / path)) << path;
}

TEST(MediumKernel, UnpacksAPackageWhereNoneIsInstalled) {
  const TempDir dir;
  const std::string version = "5.10.0-1-amd64";
  const fs::path tree = dir.path() / "tree", cache = dir.path() / "root/var/cache/apt/archives";
  write_file_durably((fs::create_directories(tree / "boot"), tree / "boot" / ("vmlinuz-" + version)), "kernel");
  write_file_durably(
      (fs::create_directories(tree / "lib/modules" / version), tree / "lib/modules" / version / "modules.order"), "");
  write_file_durably(tree / "lib/modules" / version / "modules.builtin", "");
  write_file_durably((fs::create_directories(tree / "DEBIAN"), tree / "DEBIAN/control"),
                     "Package: linux-image-5.10.0-1-amd64\nVersion: 5\nArchitecture: amd64\nMaintainer: none "
                     "<a@b.example>\nDescription: x\n");
  fs::create_directories(cache);
  must_run({"dpkg-deb", "--root-owner-group", "-b", tree, cache / "linux-image-5.10.0-1-amd64_5_amd64.deb"});
  write_file_durably(cache / "linux-image-5.10.0-2-cloud-amd64_6_amd64.deb", "not this one");
  const MediumKernel kernel =
      find_medium_kernel({.image = {}, .modules = {}, .package = {}, .root = dir.path() / "root"}, dir.path());
  EXPECT_EQ(kernel.version, version);
  EXPECT_EQ(read_file(kernel.image), "kernel");
  EXPECT_TRUE(fs::exists(kernel.modules / "modules.dep")) << "depmod has run";
  EXPECT_THROW(choose_medium_modules(kernel), Error) << "it drives nothing";
}

TEST(MediumKernel, FirmwareIsReadFromTheModule) {
  const std::string module(
      "\x7f"
      "ELF\0license=GPL\0firmware=bnx2/a.fw\0alias=pci:x\0firmware=../../etc/passwd\0firmware=b.bin\0firmware=cut",
      100);
  EXPECT_THAT(firmware_of_module(module.substr(0, module.rfind("cut"))), ElementsAre("b.bin", "bnx2/a.fw"));
}

TEST(HostPrograms, LibrariesAreThoseOfTheLinker) {
  const auto libraries = libraries_of("/usr/bin/ssh");
  EXPECT_TRUE(libraries.contains("/lib64/ld-linux-x86-64.so.2"));
  EXPECT_TRUE(
      std::any_of(libraries.begin(), libraries.end(), [](const fs::path& p) { return p.filename() == "libc.so.6"; }));
  for (const auto& library : libraries)
    EXPECT_TRUE(fs::exists(library)) << library;
  EXPECT_TRUE(libraries_of("/bin/busybox").empty()) << "busybox-static";
}

TEST(MediumActions, CardsAreTriedInOrder) {
  const std::vector<NetworkCard> cards{
      {"eth0", "52:54:00:00:00:01", false}, {"eth2", "52:54:00:00:00:02", true}, {"eth10", "52:54:00:00:00:03", true}};
  const auto names = [&](const char* text) {
    std::string out;
    for (const auto& card : matching_cards(parse_medium_network(text), cards))
      out += card.name + " ";
    return out;
  };
  EXPECT_EQ(names("dhcp"), "eth2 eth10 eth0 ");
  EXPECT_EQ(names("dhcp,dev=eth0"), "eth0 ");
  EXPECT_EQ(names("dhcp,dev=52-54-00-00-00-03"), "eth10 ");
  EXPECT_THROW(names("dhcp,dev=eth1"), Error);
  EXPECT_THROW(matching_cards(parse_medium_network("dhcp"), {}), Error);
}

TEST(MediumActions, AMachineIsNamedByItsMaker) {
  const auto name = [](const std::string& product, const std::string& serial, const std::string& mac) {
    Inventory inventory;
    inventory.smbios.product = product;
    inventory.smbios.serial = serial;
    if (!mac.empty())
      inventory.nics.emplace_back().mac = mac;
    const std::string text = proposed_name(inventory);
    EXPECT_NO_THROW(check_guest_name(text)) << text;
    return text;
  };
  EXPECT_EQ(name("PowerEdge R640", "4XK2", "52:54:00:aa:bb:cc"), "poweredge-r640-4xk2");
  EXPECT_EQ(name("System Product", "To be filled by O.E.M.", "52:54:00:aa:bb:cc"), "p2v-525400aabbcc");
  EXPECT_EQ(name("", "", ""), "p2v");
  EXPECT_EQ(name("--\x1b[31m", "////4XK2", ""), "31m-4xk2");
  EXPECT_EQ(name(std::string(100, 'a'), "4XK2", ""), std::string(63, 'a'));
}

TEST(MediumActions, CardsComeFromSysfs) {
  const TempDir dir;
  for (const auto& [name, carrier] : {std::pair("eth10", "1"), std::pair("eth9", "0"), std::pair("lo", "1")}) {
    const fs::path card = dir.path() / "class/net" / name;
    fs::create_directories(name == std::string("lo") ? card : card / "device");
    write_file_durably(card / "address", "52:54:00:AA:00:01\n");
    write_file_durably(card / "carrier", std::string(carrier) + "\n");
  }
  const auto cards = network_cards(dir.path());
  ASSERT_EQ(cards.size(), 2U);
  EXPECT_EQ(cards[0].name, "eth9");
  EXPECT_FALSE(cards[0].link);
  EXPECT_EQ(cards[1].mac, "52:54:00:aa:00:01");
  EXPECT_TRUE(cards[1].link);
}

TEST(Media, ConfigurationsHoldTheArguments) {
  const std::vector<std::string> arguments{"console=tty0", "p2v.name=db1"};
  EXPECT_THAT(medium_grub_menu(arguments), testing::HasSubstr("linux /boot/vmlinuz console=tty0 p2v.name=db1\n"));
  EXPECT_THAT(ipxe_script(arguments),
              testing::HasSubstr("kernel vmlinuz initrd=initrd.img console=tty0 p2v.name=db1\n"));
  EXPECT_THAT(pxelinux_entry(arguments), testing::HasSubstr("APPEND initrd=initrd.img console=tty0 p2v.name=db1\n"));
}

TEST(Media, ArgumentsThatNeedQuotesAreRefused) {
  const TempDir dir;
  NullSink quiet;
  const StopToken stop;
  for (const char* argument : {"a'b", "a b", "a\"", "$x", "a;b", "a\nb", ""}) {
    MediaOptions options;
    options.pxe = dir.path() / "pxe";
    options.kernel_arguments = {argument};
    EXPECT_THROW(build_media(options, quiet, stop), Error) << argument;
  }
  EXPECT_FALSE(fs::exists(dir.path() / "pxe"));
}

TEST(Media, AKeyWithAPassphraseIsRefused) {
  const TempDir dir;
  must_run({"ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", dir.path() / "key"});
  MediaOptions options;
  options.pxe = dir.path() / "pxe";
  options.identity = dir.path() / "key";
  NullSink quiet;
  try {
    build_media(options, quiet, StopToken());
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), "IDENTITY_INVALID") << e.what();
  }
}

} // namespace
} // namespace kvmport::test
