// SPDX-License-Identifier: Apache-2.0
// Volume groups made by LVM itself, on loop devices and without device-mapper, read by us.
#include "formats/lvm.h"
#include "formats/overlay.h"
#include "formats/readers.h"
#include "tests/support/lvm_disks.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <map>
#include <sstream>

namespace kvmport::test {
namespace {

constexpr std::uint64_t mib = 1U << 20;

class Lvm : public testing::Test {
 protected:
  static void SetUpTestSuite() { disks_ = std::make_unique<LvmDisks>(0); }
  static void TearDownTestSuite() { disks_.reset(); }
  static std::string metadata() {
    const auto disk = disks_->open(0);
    return read_lvm_member(*disk, {0, disk->size()})->metadata;
  }
  static std::unique_ptr<LvmDisks> disks_;
};
std::unique_ptr<LvmDisks> Lvm::disks_;

TEST_F(Lvm, ReadsWhatLvmReads) {
  const auto first = read_lvm_member(*disks_->open(0), {0, 100 * mib});
  const auto second = read_lvm_member(*disks_->open(1), {0, 100 * mib});
  ASSERT_TRUE(first && second);
  EXPECT_NE(disks_->members().find(first->uuid), std::string::npos);
  EXPECT_NE(disks_->members().find(second->uuid), std::string::npos);
  EXPECT_EQ(first->metadata, second->metadata);
  const LvmGroup group = parse_lvm_metadata(first->metadata);
  EXPECT_EQ(group.name, "vg-a");
  EXPECT_EQ(group.unsupported, "");
  EXPECT_EQ(group.members.size(), 2U);
  std::istringstream lines(disks_->volumes());
  std::size_t count = 0;
  for (std::string name, size, uuid; lines >> name >> size >> uuid; count++) {
    const auto volume = std::ranges::find(group.volumes, name, &LvmVolume::name);
    ASSERT_NE(volume, group.volumes.end()) << name;
    EXPECT_EQ(volume->uuid, uuid);
    EXPECT_EQ(volume->unsupported, "");
    std::uint64_t total = 0;
    for (const LvmSegment& segment : volume->segments)
      total += segment.length;
    EXPECT_EQ(total, std::stoull(size));
  }
  EXPECT_EQ(group.volumes.size(), count);
  const auto stripes = std::ranges::find(group.volumes, "stripes", &LvmVolume::name);
  ASSERT_EQ(stripes->segments.size(), 1U);
  EXPECT_EQ(stripes->segments[0].stripes.size(), 2U);
  EXPECT_EQ(stripes->segments[0].stripe_size, 64U << 10);
}

TEST_F(Lvm, KnowsTheFreeExtents) {
  const LvmGroup group = parse_lvm_metadata(metadata());
  std::map<std::string, std::uint64_t> free;
  for (const LvmFree& one : group.free)
    free[one.member] += one.range.length;
  std::istringstream lines(disks_->members());
  std::size_t count = 0;
  for (std::string uuid, bytes; lines >> uuid >> bytes; count++)
    EXPECT_EQ(free[uuid], std::stoull(bytes));
  EXPECT_EQ(count, 2U);
  EXPECT_GT(free.begin()->second + free.rbegin()->second, 0U);
}

TEST_F(Lvm, RefusesDamage) {
  const auto original = disks_->open(0);
  Bytes head(2 * mib);
  original->read(0, head);
  const std::size_t text = 4096 + load_le<std::uint64_t>(head, 4096 + 40);
  // label, physical volume header, its areas, metadata area, place and content of its text
  for (const std::size_t at : {std::size_t{512 + 17}, std::size_t{512 + 40}, std::size_t{512 + 80},
                               std::size_t{4096 + 30}, std::size_t{4096 + 45}, text + 100}) {
    Bytes damaged = head;
    damaged[at] ^= std::byte{4};
    const auto image = open_format(SourceFile::from_memory(damaged, "damaged"), "raw", OpenContext(OpenOptions{}));
    EXPECT_THROW((void)read_lvm_member(*image, {0, image->size()}), Error) << at;
  }
  EXPECT_FALSE(read_lvm_member(*original, {mib, mib}));
  EXPECT_THROW((void)read_lvm_member(*original, {0, 4096}), Error); // cut
}

struct Edit {
  const char *from, *to, *volume, *why; ///< volume: whose `unsupported` (null: the group's) becomes why (null: Error)
};

TEST_F(Lvm, NamesWhatItCantUse) {
  const std::vector<Edit> edits{
      {R"(status = ["RESIZEABLE", "READ", "WRITE"])", R"(status = ["EXPORTED", "READ", "WRITE"])", nullptr,
       "its volume group is exported"},
      {R"(status = ["RESIZEABLE", "READ", "WRITE"])", R"(status = ["READ"])", nullptr, "its volume group is read-only"},
      {R"(format = "lvm2")", R"(system_id = "other")", nullptr,
       "its volume group belongs to a cluster or to one host by name"},
      {R"(type = "striped")", R"(type = "thin")", "root", "it is of type thin"},
      {R"(status = ["READ", "WRITE", "VISIBLE"])", R"(status = ["READ", "VISIBLE"])", "root", "it is read-only"},
      {"start_extent = 0", "start_extent = 1", "root", nullptr},
      {"\"pv0\", 0", "\"pv7\", 0", "root", "it lies on other volumes"},
      {"\"pv0\", 0", "\"pv0\", 4000000000", "root", nullptr},
      {"\"pv0\", 15", "\"pv0\", 9", "root", nullptr},
      {"pe_count = ", "pe_count = 99999999999999", "root", nullptr},
      {"extent_size = 8192", "extent_size = 18446744073709551615", "root", nullptr}};
  const std::string text = metadata();
  for (const Edit& edit : edits) {
    std::string changed = text;
    const auto at = changed.find(edit.from);
    ASSERT_NE(at, std::string::npos) << edit.from;
    changed.replace(at, std::string_view(edit.from).size(), edit.to);
    if (edit.why == nullptr) {
      EXPECT_THROW((void)parse_lvm_metadata(changed), Error) << edit.to;
    } else {
      const LvmGroup group = parse_lvm_metadata(changed);
      const auto volume = std::ranges::find(group.volumes, edit.volume ? edit.volume : "", &LvmVolume::name);
      EXPECT_EQ(edit.volume ? volume->unsupported : group.unsupported, edit.why);
    }
  }
}

TEST_F(Lvm, RenewsUuidsWithTheirChecksums) {
  TempDir dir;
  const auto disk = disks_->open(0);
  Overlay overlay(*disk, dir.path(), 64 * mib);
  const auto before = read_lvm_member(*disk, {0, disk->size()});
  const LvmGroup group = parse_lvm_metadata(before->metadata);
  const auto turned = [](std::string uuid) { return std::string(uuid.rbegin(), uuid.rend()); };
  const auto renew = [&](std::string text) {
    for (const std::string& uuid : {before->uuid, group.uuid, group.volumes[0].uuid})
      if (const auto at = text.find(uuid); at != std::string::npos)
        text.replace(at, uuid.size(), turned(uuid));
    return text;
  };
  EXPECT_TRUE(renew_lvm_uuids(overlay, {0, overlay.size()}, renew));
  const auto after = read_lvm_member(overlay, {0, overlay.size()});
  EXPECT_EQ(after->uuid, turned(before->uuid));
  EXPECT_EQ(after->metadata, renew(before->metadata));
  EXPECT_EQ(parse_lvm_metadata(after->metadata).uuid, turned(group.uuid));
  EXPECT_FALSE(renew_lvm_uuids(overlay, {mib, mib}, renew)) << "no label";
  EXPECT_THROW(renew_lvm_uuids(overlay, {0, overlay.size()}, [](const std::string&) { return "x"; }), Error);
}

TEST_F(Lvm, ReadsARenamedGroup) {
  TempDir dir;
  std::vector<std::unique_ptr<Image>> disks;
  std::vector<std::unique_ptr<Overlay>> overlays;
  for (int i = 0; i < 2; i++) {
    disks.push_back(disks_->open(i));
    overlays.push_back(std::make_unique<Overlay>(*disks[i], dir.path(), 64 * mib));
    const auto renew = [](const std::string& text) { return rename_lvm_group(text, "vg-a", "7k-3"); };
    EXPECT_TRUE(renew_lvm_uuids(*overlays[i], {0, overlays[i]->size()}, renew));
    const auto before = read_lvm_member(*disks[i], {0, disks[i]->size()}),
               after = read_lvm_member(*overlays[i], {0, overlays[i]->size()});
    const LvmGroup group = parse_lvm_metadata(after->metadata);
    EXPECT_EQ(group.name, "7k-3");
    EXPECT_EQ(group.sequence, parse_lvm_metadata(before->metadata).sequence);
    EXPECT_EQ(rename_lvm_group(after->metadata, "7k-3", "vg-a"), before->metadata);
    EXPECT_EQ(rename_lvm_group(before->metadata, "root", "x"), before->metadata) << "a volume is no group";
  }
  const std::vector<const Image*> renamed{overlays[0].get(), overlays[1].get()};
  const std::string groups = disks_->report_of(renamed, "vgs", "vg_name,pv_count,vg_missing_pv_count");
  std::istringstream words(groups);
  std::string name, members, missing, more;
  words >> name >> members >> missing;
  EXPECT_EQ(name + ' ' + members + ' ' + missing, "7k-3 2 0") << groups;
  EXPECT_FALSE(words >> more) << groups;
  EXPECT_EQ(disks_->report_of(renamed, "lvs", "lv_name,lv_size,lv_uuid"), disks_->volumes());
  EXPECT_EQ(disks_->report_of(renamed, "pvs", "pv_uuid,pv_free"), disks_->members());
}

TEST_F(Lvm, RefusesTextThatIsNone) {
  for (const std::string& text :
       {std::string(), std::string("a = "), std::string("a { b = 1"), std::string("}"), std::string("a = [1, 2"),
        std::string("a = \"x"), std::string("= 1"), std::string(1000, '{'), [] {
          std::string deep;
          for (int i = 0; i < 100000; i++)
            deep += "a{";
          return deep;
        }()})
    EXPECT_THROW((void)parse_lvm_metadata(text), Error) << text.substr(0, 40);
}

} // namespace
} // namespace kvmport::test
