// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/linux/modules.h"
#include "tests/guest/guest_tree.h"

#include <gmock/gmock.h>

namespace kvmport::test {
namespace {

using linux_guest::KernelModules;
using linux_guest::module_name;
using testing::ElementsAre;

TEST(ModuleName, OfPaths) {
  EXPECT_EQ(module_name("kernel/drivers/block/virtio_blk.ko"), "virtio_blk");
  EXPECT_EQ(module_name("kernel/crypto/virtio-rng.ko.xz"), "virtio_rng");
  EXPECT_EQ(module_name("a.ko.zst"), "a");
  EXPECT_EQ(module_name("modules.dep"), "");
  EXPECT_EQ(linux_guest::plain_module_path("x/a.ko.gz"), "x/a.ko");
}

KernelModules modules_of(const std::string& dep, const std::string& builtin, const std::string& config = "") {
  GuestTree tree;
  tree.file("/lib/modules/1.2/modules.dep", dep).file("/lib/modules/1.2/modules.builtin", builtin);
  if (!config.empty())
    tree.file("/boot/config-1.2", config);
  Plan plan;
  return {Draft(tree.filesystem(), plan), Kernel{"1.2", "", "", "/lib/modules/1.2"}};
}

TEST(KernelModules, DependenciesComeFirst) {
  const auto modules = modules_of("k/blk.ko.xz: k/ring.ko.xz k/virtio.ko.xz\nk/ring.ko.xz: k/virtio.ko.xz\n"
                                  "k/virtio.ko.xz:\nk/other.ko: k/blk.ko.xz\n",
                                  "kernel/sd_mod.ko\n");
  EXPECT_THAT(modules.with_dependencies("other"), ElementsAre("virtio", "ring", "blk", "other"));
  EXPECT_EQ(modules.path("blk"), "k/blk.ko.xz");
  EXPECT_TRUE(modules.builtin("sd_mod"));
  EXPECT_TRUE(modules.available("sd_mod"));
  EXPECT_FALSE(modules.loadable("sd_mod"));
  EXPECT_FALSE(modules.available("none"));
  EXPECT_THAT(modules.with_dependencies("sd_mod"), testing::IsEmpty());
}

TEST(KernelModules, LoopsEndAndPathsStayInside) {
  const auto modules =
      modules_of("a.ko: b.ko\nb.ko: a.ko\n../../etc/evil.ko:\n/abs/evil2.ko:\n/lib/modules/1.2/kernel/old.ko: "
                 "/lib/modules/1.2/a.ko\n",
                 "");
  EXPECT_THAT(modules.with_dependencies("a"), ElementsAre("b", "a"));
  EXPECT_FALSE(modules.loadable("evil"));
  EXPECT_FALSE(modules.loadable("evil2"));
  EXPECT_EQ(modules.path("old"), "kernel/old.ko");
  EXPECT_THAT(modules.with_dependencies("old"), ElementsAre("b", "a", "old"));
}

TEST(KernelModules, ConfigTellsWhatIsBuiltIn) {
  const auto modules = modules_of("", "", "CONFIG_VIRTIO_BLK=y\nCONFIG_VIRTIO_PCI=m\n# CONFIG_E1000 is not set\n");
  EXPECT_TRUE(modules.builtin("virtio_blk"));
  EXPECT_FALSE(modules.available("virtio_pci"));
  EXPECT_FALSE(modules.available("e1000"));
}

} // namespace
} // namespace kvmport::test
