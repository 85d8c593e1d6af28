// SPDX-License-Identifier: Apache-2.0
// Initramfs images in every compression, with the real modules of this host's kernel: what kmod's modprobe makes of the
// result is what the guest's will.
#include "base/error.h"
#include "base/process.h"
#include "libconvert/guest/linux/initramfs_part.h"
#include "libconvert/guest/linux/modules.h"
#include "tests/guest/guest_tree.h"
#include "tests/support/tempdir.h"

#include <algorithm>
#include <archive.h>
#include <archive_entry.h>
#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

using linux_guest::CpioWriter;
using linux_guest::InitramfsFramework;
using linux_guest::InitramfsTree;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

bool keep_all(const std::string&) {
  return true;
}

/// The newest kernel of this host that has virtio as modules; empty: none.
std::string host_kernel() {
  std::string best;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator("/lib/modules", none))
    if (fs::exists(entry.path() / "kernel/drivers/block/virtio_blk.ko") && fs::exists(entry.path() / "modules.dep"))
      best = std::max(best, entry.path().filename().string());
  return best;
}

std::string compressed(const std::string& plain, const std::string& how) {
  if (how == "none")
    return plain;
  TempDir directory;
  std::ofstream(directory.path() / "in", std::ios::binary) << plain;
  if (how == "lz4") { // the legacy format, which the kernel takes
    must_run({"lz4", "-l", "-q", (directory.path() / "in").string(), (directory.path() / "out").string()});
    return read_file(directory.path() / "out", 1U << 30);
  }
  archive* a = ::archive_write_new();
  ::archive_write_add_filter_by_name(a, how.c_str());
  ::archive_write_set_format_raw(a);
  const std::string out = (directory.path() / "out").string();
  EXPECT_EQ(::archive_write_open_filename(a, out.c_str()), ARCHIVE_OK);
  archive_entry* entry = ::archive_entry_new();
  ::archive_entry_set_filetype(entry, S_IFREG);
  ::archive_write_header(a, entry);
  ::archive_write_data(a, plain.data(), plain.size());
  ::archive_entry_free(entry);
  ::archive_write_free(a);
  return read_file(out, 1U << 30);
}

std::string cpio_of(const std::vector<std::pair<std::string, std::string>>& files) {
  CpioWriter writer;
  std::set<std::string> made;
  const std::function<void(const std::string&)> above = [&](const std::string& name) {
    const auto slash = name.rfind('/');
    if (slash == std::string::npos || !made.insert(name.substr(0, slash)).second)
      return;
    above(name.substr(0, slash));
    writer.directory(name.substr(0, slash));
  };
  for (const auto& [name, content] : files) {
    above(name);
    writer.file(name, content);
  }
  return writer.finish();
}

class Compressions : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (GetParam() == std::string("lz4") && !find_program("lz4"))
      GTEST_SKIP() << "the program lz4 is not installed";
  }
};
INSTANTIATE_TEST_SUITE_P(All, Compressions, testing::Values("none", "gzip", "xz", "lzma", "bzip2", "zstd", "lz4"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(Compressions, PartsBeforeAndBehindAreSeen) {
  const std::string early = cpio_of({{"kernel/x86/microcode/GenuineIntel.bin", std::string(3000, 'm')}});
  // Content that does not compress away, so that the parts have some length.
  std::string noise;
  for (unsigned i = 0, x = 1; i < 200000; i++)
    noise += static_cast<char>((x = x * 1103515245 + 12345) >> 24);
  const std::string main =
      compressed(cpio_of({{"init", "#!/bin/sh\n"}, {"conf/a", "1"}, {"bin/noise", noise}}), GetParam());
  const std::string late = cpio_of({{"conf/a", "2"}, {"conf/b", "3"}});
  for (const std::size_t zeros : {8U, 509U, 4096U}) {
    std::string image = early + main + std::string(zeros, '\0');
    image.resize((image.size() + 3) / 4 * 4, '\0');
    image += late;
    const InitramfsTree tree(image, keep_all);
    ASSERT_NE(tree.content("conf/b"), nullptr) << zeros;
    EXPECT_EQ(*tree.content("conf/a"), "2");
    EXPECT_EQ(*tree.content("bin/noise"), noise);
    EXPECT_TRUE(tree.has("kernel/x86/microcode/GenuineIntel.bin"));
  }
  const InitramfsTree alone(early + main, keep_all);
  EXPECT_EQ(*alone.content("conf/a"), "1");
}

TEST_P(Compressions, DamageIsRefused) {
  const std::string whole = compressed(cpio_of({{"init", std::string(100000, 'x')}, {"a", "b"}}), GetParam());
  for (const std::size_t length : {std::size_t{0}, std::size_t{7}, whole.size() / 2})
    EXPECT_THROW(InitramfsTree(std::string_view(whole).substr(0, length), keep_all), Error) << length;
}

TEST(Initramfs, UnknownBytesAreRefused) {
  EXPECT_THROW(InitramfsTree("MZ this is a program", keep_all), Error);
  EXPECT_THROW(InitramfsTree(std::string(4096, '\0'), keep_all), Error);
}

struct Made {
  const char* name;
  std::vector<std::pair<std::string, std::string>> files;
  InitramfsFramework framework;
};
class Frameworks : public testing::TestWithParam<Made> {};
TEST_P(Frameworks, AreRecognised) {
  const InitramfsTree tree(cpio_of(GetParam().files), keep_all);
  EXPECT_EQ(linux_guest::initramfs_framework(tree), GetParam().framework);
}
INSTANTIATE_TEST_SUITE_P(
    All, Frameworks,
    testing::Values(
        Made{"debian", {{"scripts/functions", ""}, {"conf/modules", ""}}, InitramfsFramework::initramfs_tools},
        Made{"fedora", {{"usr/lib/dracut/hooks/cmdline/1.sh", ""}}, InitramfsFramework::dracut},
        Made{"arch", {{"init_functions", ""}, {"config", ""}}, InitramfsFramework::mkinitcpio},
        Made{"alpine", {{"sbin/nlplug-findfs", ""}}, InitramfsFramework::mkinitfs},
        Made{"suse11", {{"sbin/udevd", ""}, {"run_all.sh", ""}}, InitramfsFramework::coldplug},
        Made{"nash", {{"init", "insmod /lib/ext3.ko"}}, InitramfsFramework::unknown}),
    [](const auto& info) { return std::string(info.param.name); });

// --- the step, on real modules ------------------------------------------------------------------------------------

class InitramfsStep : public testing::Test {
 protected:
  void SetUp() override {
    version = host_kernel();
    if (version.empty())
      GTEST_SKIP() << "no kernel with virtio modules in /lib/modules: install linux-image-amd64";
    modules = "/usr/lib/modules/" + version;
    tree.link("usr/lib", "/lib");
    info.kernels = {kernel()};
  }

  Kernel kernel() const { return {version, "/boot/vmlinuz-" + version, "/boot/initrd.img-" + version, modules}; }

  /// The host's module with all that it needs, into the guest.
  void install(const std::vector<std::string>& names, bool packed = false) {
    const fs::path host = "/lib/modules/" + version;
    for (const char* list : {"modules.order", "modules.builtin", "modules.builtin.modinfo"})
      tree.file(modules + "/" + list, read_file(host / list));
    Plan plan;
    auto root = open_directory_filesystem("/");
    const linux_guest::KernelModules all(Draft(*root, plan), {version, "", "", host.string()});
    std::string dep;
    for (const auto& name : names)
      for (const auto& module : all.with_dependencies(name)) {
        const std::string& path = all.path(module);
        const std::string content = read_file(host / path, 64U << 20);
        tree.file(modules + "/" + path + (packed ? ".xz" : ""), packed ? compressed(content, "xz") : content);
        dep += path + (packed ? ".xz" : "") + ":";
        for (const auto& need : all.with_dependencies(module))
          if (need != module)
            dep += " " + all.path(need) + (packed ? ".xz" : "");
        dep += "\n";
      }
    tree.file(modules + "/modules.dep", dep);
  }

  /// An initramfs of Debian's kind that holds these modules of the host.
  std::string debian_initramfs(const std::vector<std::string>& names, const std::string& compression,
                               std::vector<std::pair<std::string, std::string>> more = {}) const {
    more.insert(more.end(), {{"scripts/functions", ""}, {"conf/initramfs.conf", ""}, {"init", "#!/bin/sh\n"}});
    const fs::path host = "/lib/modules/" + version;
    Plan plan;
    auto root = open_directory_filesystem("/");
    const linux_guest::KernelModules all(Draft(*root, plan), {version, "", "", host.string()});
    const std::string directory = "usr/lib/modules/" + version + "/";
    for (const auto& name : names)
      for (const auto& module : all.with_dependencies(name))
        more.emplace_back(directory + all.path(module), read_file(host / all.path(module), 64U << 20));
    for (const char* list : {"modules.order", "modules.builtin", "modules.builtin.modinfo"})
      more.emplace_back(directory + list, read_file(host / list));
    return compressed(cpio_of(more), compression);
  }

  /// Unpacks the guest's initramfs and asks modprobe how it would load `name`.
  std::string how_to_load(const std::string& name) const {
    TempDir out;
    linux_guest::walk_initramfs(tree.read(kernel().initramfs), [&](const auto& entry, const auto& content) {
      const fs::path path = out.path() / entry.name;
      if (entry.is_directory())
        fs::create_directories(path);
      else
        std::ofstream(path, std::ios::binary | std::ios::trunc) << content();
    });
    fs::create_directory_symlink("usr/lib", out.path() / "lib");
    return run_process({"modprobe", "-d", out.path().string(), "-S", version, "--show-depends", name},
                       std::chrono::seconds(60))
        .out;
  }

  std::string version, modules;
  GuestTree tree;
  GuestInfo info = one_disk_guest();
};

class InitramfsStepPacked : public InitramfsStep, public testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(All, InitramfsStepPacked, testing::Values("none", "gzip", "xz", "zstd"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(InitramfsStepPacked, MissingDriversAreAppended) {
  install({"virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "ahci", "sd_mod"});
  const std::string old = debian_initramfs({"ahci", "sd_mod"}, GetParam(), {{"conf/modules", "ahci"}});
  tree.file(kernel().initramfs, old);
  const Plan plan = tree.run(info, linux_guest::initramfs_step);
  EXPECT_TRUE(plan.virtio_disk && plan.virtio_net);
  EXPECT_THAT(plan.warnings, IsEmpty());
  ASSERT_THAT(plan.changes, Not(IsEmpty()));
  EXPECT_THAT(plan.changes.back().reason, HasSubstr("virtio_pci, virtio_blk, virtio_scsi"));
  const std::string now = tree.read(kernel().initramfs);
  EXPECT_TRUE(now.starts_with(old));
  for (const char* name : {"virtio_pci", "virtio_blk", "virtio_scsi", "ahci"})
    EXPECT_THAT(how_to_load(name), HasSubstr(std::string("/") + name + ".ko")) << name;
  EXPECT_THAT(how_to_load("virtio_blk"), HasSubstr("virtio_ring.ko"));
  // A virtio disk's modalias finds its driver.
  EXPECT_THAT(how_to_load("virtio:d00000002v00001AF4"), HasSubstr("virtio_blk.ko"));
  const InitramfsTree unpacked(now, keep_all);
  EXPECT_EQ(*unpacked.content("conf/modules"), "ahci\nvirtio_pci\nvirtio_blk\nvirtio_scsi\n");
  EXPECT_THAT(tree.plan(info, {{"initramfs", linux_guest::initramfs_step}}).changes, IsEmpty());
}

TEST_F(InitramfsStep, IndexesOfTheGuestServeWithoutDepmod) {
  install({"virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "ahci", "sd_mod"});
  for (const char* index : {"modules.alias", "modules.symbols", "modules.softdep", "modules.devname",
                            "modules.builtin.bin", "modules.builtin.alias.bin"})
    tree.file(modules + "/" + index, read_file(fs::path("/lib/modules") / version / index, 64U << 20));
  tree.file(kernel().initramfs, debian_initramfs({"ahci", "sd_mod"}, "zstd"));
  const std::string path = ::getenv("PATH");
  ::setenv("PATH", "/nowhere", 1);
  tree.run(info, linux_guest::initramfs_step);
  ::setenv("PATH", path.c_str(), 1);
  for (const char* name : {"virtio_pci", "virtio_blk", "virtio_scsi", "ahci"})
    EXPECT_THAT(how_to_load(name), HasSubstr(std::string("/") + name + ".ko")) << name;
  EXPECT_THAT(how_to_load("virtio:d00000002v00001AF4"), HasSubstr("virtio_blk.ko"));
  EXPECT_THAT(how_to_load("symbol:virtio_break_device"), Not(HasSubstr("FATAL")));
  EXPECT_TRUE(InitramfsTree(tree.read(kernel().initramfs), keep_all)
                  .has("usr/lib/modules/" + version + "/modules.builtin.alias.bin"));
}

TEST_F(InitramfsStep, CompressedModulesAreAppendedPlain) {
  install({"virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod"}, true);
  tree.file(kernel().initramfs, debian_initramfs({"ahci", "sd_mod"}, "gzip"));
  const Plan plan = tree.run(info, linux_guest::initramfs_step);
  EXPECT_FALSE(plan.virtio_net);
  const InitramfsTree unpacked(tree.read(kernel().initramfs), keep_all);
  const std::string* module = unpacked.content("usr/lib/modules/" + version + "/kernel/drivers/block/virtio_blk.ko");
  ASSERT_NE(module, nullptr);
  EXPECT_TRUE(module->starts_with("\x7f"
                                  "ELF"));
  EXPECT_THAT(how_to_load("virtio_blk"), HasSubstr("virtio_blk.ko"));
}

TEST_F(InitramfsStep, CompleteOnesAreLeftAlone) {
  install({"virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "sd_mod"});
  tree.file(kernel().initramfs, debian_initramfs({"virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod"}, "zstd"));
  EXPECT_THAT(tree.plan(info, {{"initramfs", linux_guest::initramfs_step}}).changes, IsEmpty());
}

TEST_F(InitramfsStep, EveryKernelIsTreated) {
  install({"virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "sd_mod"});
  Kernel second = kernel();
  second.image = "/boot/vmlinuz-fallback";
  second.initramfs = "/boot/initrd-fallback.img";
  info.kernels.push_back(second);
  tree.file(kernel().initramfs, debian_initramfs({"sd_mod"}, "gzip"));
  tree.file(second.initramfs, debian_initramfs({"sd_mod"}, "gzip"));
  tree.run(info, linux_guest::initramfs_step);
  for (const auto& path : {kernel().initramfs, second.initramfs})
    EXPECT_TRUE(InitramfsTree(tree.read(path), keep_all)
                    .has("usr/lib/modules/" + version + "/kernel/drivers/block/virtio_blk.ko"))
        << path;
}

TEST_F(InitramfsStep, KernelsWithoutVirtioGetSata) {
  install({"ahci", "sd_mod"});
  tree.file(kernel().initramfs, debian_initramfs({"sd_mod"}, "gzip"));
  const Plan plan = tree.run(info, linux_guest::initramfs_step);
  EXPECT_FALSE(plan.virtio_disk);
  EXPECT_FALSE(plan.virtio_net);
  EXPECT_THAT(plan.fallback_reason, HasSubstr(version));
  EXPECT_THAT(how_to_load("ahci"), HasSubstr("ahci.ko"));
}

TEST_F(InitramfsStep, BuiltInDriversNeedNothing) {
  tree.file("/boot/config-" + version, "CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_BLK=y\nCONFIG_VIRTIO_NET=y\n");
  info.kernels[0].initramfs.clear();
  const Plan plan = tree.plan(info, {{"initramfs", linux_guest::initramfs_step}});
  EXPECT_TRUE(plan.virtio_disk && plan.virtio_net);
  EXPECT_THAT(plan.changes, IsEmpty());
}

TEST_F(InitramfsStep, UnreadableOnesAreLeftAndSaid) {
  install({"virtio_pci", "virtio_blk", "ahci"});
  tree.file(kernel().initramfs, "no initramfs at all");
  const Plan plan = tree.plan(info, {{"initramfs", linux_guest::initramfs_step}});
  EXPECT_FALSE(plan.virtio_disk);
  EXPECT_THAT(plan.changes, IsEmpty());
  EXPECT_THAT(plan.warnings, Contains(HasSubstr("unknown format")));
}

TEST_F(InitramfsStep, DeviceNamesInsideAreChanged) {
  install({"virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "sd_mod"});
  tree.file(kernel().initramfs, debian_initramfs({"virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod"}, "gzip",
                                                 {{"conf/conf.d/resume", "RESUME=/dev/sda2\n"},
                                                  {"etc/cmdline.d/95resume.conf", " resume=/dev/sda2 "},
                                                  {"cryptroot/crypttab", "secret /dev/sda3 none luks\n"}}));
  tree.run(info, linux_guest::initramfs_step);
  const InitramfsTree unpacked(tree.read(kernel().initramfs), keep_all);
  EXPECT_EQ(*unpacked.content("conf/conf.d/resume"), "RESUME=UUID=" + fs_uuid(0, 2) + "\n");
  EXPECT_EQ(*unpacked.content("etc/cmdline.d/95resume.conf"), " resume=UUID=" + fs_uuid(0, 2) + " ");
  EXPECT_EQ(*unpacked.content("cryptroot/crypttab"), "secret /dev/disk/by-uuid/" + fs_uuid(0, 3) + " none luks\n");
}

TEST_F(InitramfsStep, OldKernelsGetLz4PackedAnew) {
  if (!find_program("lz4"))
    GTEST_SKIP() << "the program lz4 is not installed";
  const std::string old_version = "4.19.0-1-amd64";
  const std::string part = cpio_of({{"usr/bin/udevadm", ""},
                                    {"conf/conf.d/resume", "RESUME=/dev/sda2\n"},
                                    {"usr/lib/modules/4.19.0-1-amd64/kernel/ahci.ko", "x"}});
  tree.file("/boot/config-" + old_version, "CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_BLK=y\nCONFIG_SCSI_VIRTIO=y\n");
  tree.file("/boot/initrd", compressed(part, "lz4"));
  info.kernels = {{old_version, "/boot/vmlinuz", "/boot/initrd", ""}};
  tree.run(info, linux_guest::initramfs_step);
  const std::string now = tree.read("/boot/initrd");
  EXPECT_TRUE(now.starts_with("\x1f\x8b"));
  const InitramfsTree unpacked(now, keep_all);
  EXPECT_EQ(*unpacked.content("conf/conf.d/resume"), "RESUME=UUID=" + fs_uuid(0, 2) + "\n");
  EXPECT_EQ(*unpacked.content("usr/lib/modules/4.19.0-1-amd64/kernel/ahci.ko"), "x");
  EXPECT_EQ(tree.read("/boot/initrd.before-kvmport"), compressed(part, "lz4"));
}

TEST(InitramfsConfig, IsWrittenForEveryFrameworkThatIsThere) {
  GuestTree tree;
  tree.file("/etc/initramfs-tools/modules", "# list\nahci\nvirtio_pci\n")
      .directory("/etc/dracut.conf.d")
      .file("/etc/mkinitcpio.conf", "# x\nMODULES=(ext4)\nHOOKS=(base udev)\n")
      .file("/etc/mkinitfs/mkinitfs.conf", "features=\"ata base ext4\"\n")
      .file("/etc/sysconfig/kernel", "INITRD_MODULES=\"ata_piix\"\n");
  GuestTree without;
  without.file("/etc/initramfs-tools/modules", "").directory("/etc/dracut.conf.d");
  for (const char* program : {"/usr/sbin/mkinitramfs", "/usr/bin/dracut", "/usr/bin/mkinitcpio", "/sbin/mkinitfs"})
    tree.file(program, "");
  const Step changed{"initramfs", [](const GuestInfo&, Draft& draft) { draft.write("/boot/initrd", "x", "r"); }};
  const Step config{"config", linux_guest::initramfs_config_step};
  EXPECT_THAT(tree.plan({}, {config}).changes, IsEmpty());
  EXPECT_THAT(without.plan({}, {changed, config}).changes, SizeIs(2)); // the initramfs and its directory
  const Plan plan = tree.run({}, {changed, config});
  EXPECT_THAT(tree.read("/etc/initramfs-tools/modules"),
              HasSubstr("machine that this system was moved to.\nvirtio_blk\nvirtio_scsi\n"));
  EXPECT_THAT(tree.read("/etc/dracut.conf.d/90-kvmport.conf"),
              HasSubstr("add_drivers+=\" virtio_pci virtio_blk virtio_scsi \"\n"));
  EXPECT_EQ(tree.read("/etc/mkinitcpio.conf"),
            "# x\nMODULES=(ext4 virtio_pci virtio_blk virtio_scsi)\nHOOKS=(base udev)\n");
  EXPECT_EQ(tree.read("/etc/mkinitfs/mkinitfs.conf"), "features=\"ata base ext4 virtio\"\n");
  EXPECT_EQ(tree.read("/etc/sysconfig/kernel"), "INITRD_MODULES=\"ata_piix virtio_pci virtio_blk virtio_scsi\"\n");
}

} // namespace
} // namespace kvmport::test
