// SPDX-License-Identifier: Apache-2.0
// Disks with partitions, an LVM group over two of them and what stands in the way of using it.
#include "base/process.h"
#include "formats/block_stack.h"
#include "formats/readers.h"
#include "tests/support/lvm_disks.h"

#include <algorithm>
#include <gtest/gtest.h>

namespace kvmport::test {
namespace {

/// Two disks, each with a GPT whose second partition is a physical volume of "vg-a", and ext4 filesystems in the
/// volumes.
class Stack : public testing::Test {
 protected:
  static void SetUpTestSuite() { disks_ = std::make_unique<LvmDisks>(2U << 20); }
  static void TearDownTestSuite() { disks_.reset(); }
  void open(const std::vector<int>& which) {
    std::vector<StackDisk> list;
    for (const int i : which) {
      images_.push_back(disks_->open(i));
      list.push_back({images_.back().get(), nullptr, 512});
    }
    stack_ = std::make_unique<BlockStack>(list);
  }
  const StackDevice* find(const std::string& name) const {
    const auto& all = stack_->devices();
    const auto found = std::ranges::find_if(all, [&](const StackDevice& d) { return describe(d) == name; });
    return found == all.end() ? nullptr : &*found;
  }
  static std::unique_ptr<LvmDisks> disks_;
  std::vector<std::unique_ptr<Image>> images_;
  std::unique_ptr<BlockStack> stack_;
};
std::unique_ptr<LvmDisks> Stack::disks_;

TEST_F(Stack, FindsVolumesAcrossDisks) {
  open({1, 0}); // the order of the disks does not matter
  EXPECT_TRUE(stack_->notes().empty()) << stack_->notes().front();
  const StackDevice* part = find("partition 2 of disk 1");
  ASSERT_TRUE(part);
  EXPECT_EQ(part->content.type, "LVM2_member");
  EXPECT_EQ(part->table, "gpt");
  for (const auto& [name, uuid] : disks_->filesystems()) {
    const StackDevice* volume = find("the volume vg-a/" + name);
    ASSERT_TRUE(volume) << name;
    EXPECT_EQ(volume->unsupported, "");
    EXPECT_EQ(volume->content.type, "ext4") << name; // read through the map: superblock of the right one
    EXPECT_EQ(volume->content.uuid, uuid) << name;
  }
  std::uint64_t free = 0;
  for (const StackFree& one : stack_->free())
    free += one.range.length;
  EXPECT_EQ(free, disks_->free_bytes());
}

TEST_F(Stack, SaysWhyAVolumeCantBeUsed) {
  open({0});
  EXPECT_EQ(find("the volume vg-a/root")->unsupported, "a physical volume of its group is missing");
  EXPECT_TRUE(stack_->free().empty());
  open({0, 1, 1});
  EXPECT_EQ(find("the volume vg-a/root")->unsupported, "a physical volume of its group is there twice");
}

} // namespace
} // namespace kvmport::test
