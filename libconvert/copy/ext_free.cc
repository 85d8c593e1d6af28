// SPDX-License-Identifier: Apache-2.0
#include "libconvert/copy/ext_free.h"

#include "formats/ext2_io.h"

#include <algorithm>
#include <bit>

namespace kvmport {
namespace {

constexpr std::uint64_t most_groups = 1U << 20; // 128 TiB with 4 KiB blocks; bounds the descriptors to 64 MiB
constexpr std::uint64_t superblock_at = 1024;

constexpr std::uint32_t known_compat = EXT2_FEATURE_COMPAT_DIR_PREALLOC | EXT2_FEATURE_COMPAT_IMAGIC_INODES |
                                       EXT3_FEATURE_COMPAT_HAS_JOURNAL | EXT2_FEATURE_COMPAT_EXT_ATTR |
                                       EXT2_FEATURE_COMPAT_RESIZE_INODE | EXT2_FEATURE_COMPAT_DIR_INDEX |
                                       EXT4_FEATURE_COMPAT_SPARSE_SUPER2 | EXT4_FEATURE_COMPAT_FAST_COMMIT |
                                       EXT4_FEATURE_COMPAT_STABLE_INODES | EXT4_FEATURE_COMPAT_ORPHAN_FILE;
constexpr std::uint32_t known_ro_compat =
    EXT2_FEATURE_RO_COMPAT_SPARSE_SUPER | EXT2_FEATURE_RO_COMPAT_LARGE_FILE | EXT4_FEATURE_RO_COMPAT_HUGE_FILE |
    EXT4_FEATURE_RO_COMPAT_GDT_CSUM | EXT4_FEATURE_RO_COMPAT_DIR_NLINK | EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE |
    EXT4_FEATURE_RO_COMPAT_QUOTA | EXT4_FEATURE_RO_COMPAT_METADATA_CSUM | EXT4_FEATURE_RO_COMPAT_READONLY |
    EXT4_FEATURE_RO_COMPAT_PROJECT | EXT4_FEATURE_RO_COMPAT_VERITY | EXT4_FEATURE_RO_COMPAT_ORPHAN_PRESENT;
constexpr std::uint32_t known_incompat =
    EXT2_FEATURE_INCOMPAT_FILETYPE | EXT2_FEATURE_INCOMPAT_META_BG | EXT3_FEATURE_INCOMPAT_EXTENTS |
    EXT4_FEATURE_INCOMPAT_64BIT | EXT4_FEATURE_INCOMPAT_MMP | EXT4_FEATURE_INCOMPAT_FLEX_BG |
    EXT4_FEATURE_INCOMPAT_EA_INODE | EXT4_FEATURE_INCOMPAT_CSUM_SEED | EXT4_FEATURE_INCOMPAT_LARGEDIR |
    EXT4_FEATURE_INCOMPAT_INLINE_DATA | EXT4_FEATURE_INCOMPAT_ENCRYPT | EXT4_FEATURE_INCOMPAT_CASEFOLD;

/// Everything that can be checked before the library sees the superblock, so that it allocates nothing by a number that
/// the partition does not bear out.
void check_superblock(ByteSpan s, Range range, bool frozen) {
  const auto u16 = [&](std::size_t at) { return load_le<std::uint16_t>(s, at); };
  const auto u32 = [&](std::size_t at) { return load_le<std::uint32_t>(s, at); };
  const std::uint32_t compat = u32(92), incompat = u32(96), ro_compat = u32(100);
  require((incompat & EXT3_FEATURE_INCOMPAT_RECOVER) == 0, "its journal needs recovery, so its map may be old");
  require((u16(58) & EXT2_VALID_FS) != 0, "it was not unmounted cleanly");
  require((u16(58) & ~EXT2_VALID_FS) == 0, "it is marked as damaged");
  require(u32(76) <= EXT2_DYNAMIC_REV && u32(72) == EXT2_OS_LINUX, "its revision is unknown");
  require((incompat & ~known_incompat) == 0 && (ro_compat & ~known_ro_compat) == 0 && (compat & ~known_compat) == 0,
          "it has features whose free blocks can't be told");
  require(u32(76) == EXT2_DYNAMIC_REV || (compat | incompat | ro_compat) == 0, "its superblock is impossible");
  require(u16(90) == 0, "its superblock is a backup");
  require(frozen || u32(232) == 0, "it has files that were being deleted");
  require(u32(404) == 0, "it recorded errors");
  require((compat & EXT3_FEATURE_COMPAT_HAS_JOURNAL) == 0 || u32(224) != 0, "its journal is on another device");

  const std::uint32_t log_block = u32(24);
  require(log_block <= 6 && u32(28) == log_block, "its superblock is impossible");
  const std::uint64_t block = std::uint64_t{1024} << log_block;
  const bool wide = (incompat & EXT4_FEATURE_INCOMPAT_64BIT) != 0;
  const std::uint64_t blocks = u32(4) | (wide ? std::uint64_t{u32(336)} << 32 : 0), first = u32(20);
  const std::uint64_t per_group = u32(32), inodes_per_group = u32(40);
  require(blocks <= range.length / block, "it is larger than its partition");
  require(first == (block == 1024 ? 1 : 0) && blocks > first, "its superblock is impossible");
  require(per_group >= 256 && per_group <= block * 8 && per_group % 8 == 0, "its superblock is impossible");
  require(inodes_per_group != 0 && inodes_per_group <= block * 8, "its superblock is impossible");
  const std::uint64_t groups = div_round_up(blocks - first, per_group);
  require(groups <= most_groups, "it has too many block groups");
  require(u32(0) == groups * inodes_per_group, "its superblock is impossible");
  const std::uint64_t descriptor = wide ? u16(254) : 32;
  require(std::has_single_bit(descriptor) && descriptor >= 32 && descriptor <= 1024, "its superblock is impossible");
  require(div_round_up(groups * descriptor, block) < blocks, "its superblock is impossible");
  const std::uint64_t inode = u32(76) == EXT2_DYNAMIC_REV ? u16(88) : 128;
  require(std::has_single_bit(inode) && inode >= 128 && inode <= block, "its superblock is impossible");
  require(inodes_per_group * inode / block < per_group, "its superblock is impossible");
}

/// Bits of one group's map, set where a block is in use.
class GroupMap {
 public:
  explicit GroupMap(std::uint64_t block_size) : bits_(block_size) {}

  std::span<std::byte> bytes() { return bits_; }
  void clear() { std::fill(bits_.begin(), bits_.end(), std::byte{0}); }
  bool get(std::uint64_t i) const { return (std::to_integer<unsigned>(bits_[i / 8]) >> (i % 8) & 1) != 0; }
  void set(std::uint64_t i) { bits_[i / 8] |= std::byte{1} << (i % 8); }
  std::uint64_t find(std::uint64_t i, std::uint64_t limit, bool value) const {
    return find_bit(bits_, i, limit, value);
  }

 private:
  Bytes bits_;
};

class ExtReader {
 public:
  ExtReader(const Image& image, Range range)
      : image_(image), range_(range), handle_(Ext2Handle::open(image, range)), fs_(handle_.get()),
        block_(fs_->blocksize), blocks_(ext2fs_blocks_count(fs_->super)) {
    require(blocks_ <= range.length / block_ && fs_->group_desc_count <= most_groups, "its superblock changed");
  }

  std::vector<Range> read();

 private:
  void add_metadata(std::uint64_t first, std::uint64_t count);
  void find_metadata();
  void read_group(dgrp_t group, GroupMap& map);
  std::uint64_t take_free(dgrp_t group, const GroupMap& map);

  const Image& image_;
  const Range range_;
  const Ext2Handle handle_;
  const ext2_filsys fs_;
  const std::uint64_t block_, blocks_;
  std::vector<Range> metadata_; ///< in blocks, sorted, merged: never free, whatever a map says
  std::size_t metadata_at_ = 0;
  FreeRanges free_;
};

void ExtReader::add_metadata(std::uint64_t first, std::uint64_t count) {
  require(first >= fs_->super->s_first_data_block && first < blocks_ && count <= blocks_ - first,
          "its tables lie outside of it");
  metadata_.push_back({first, count});
}

/// Where the superblocks, descriptors, bitmaps and inode tables are.
void ExtReader::find_metadata() {
  const ext2_super_block& super = *fs_->super;
  const bool meta_bg = ext2fs_has_feature_meta_bg(fs_->super);
  const std::uint64_t descriptors = meta_bg ? super.s_first_meta_bg : fs_->desc_blocks + super.s_reserved_gdt_blocks;
  for (dgrp_t group = 0; group < fs_->group_desc_count; group++) {
    require(ext2fs_group_desc_csum_verify(fs_, group) != 0, "a group descriptor's checksum is wrong");
    blk64_t super_block = 0, old_descriptors = 0, new_descriptors = 0;
    blk_t used = 0;
    if (ext2fs_super_and_bgd_loc2(fs_, group, &super_block, &old_descriptors, &new_descriptors, &used) != 0)
      throw Doubt{"its descriptors can't be found"};
    if (super_block != 0 || (group == 0 && super.s_first_data_block == 0))
      add_metadata(super_block, 1);
    if (old_descriptors != 0 && descriptors != 0)
      add_metadata(old_descriptors,
                   std::min<std::uint64_t>(descriptors, blocks_ - std::min<std::uint64_t>(blocks_, old_descriptors)));
    if (new_descriptors != 0)
      add_metadata(new_descriptors, 1);
    add_metadata(ext2fs_block_bitmap_loc(fs_, group), 1);
    add_metadata(ext2fs_inode_bitmap_loc(fs_, group), 1);
    add_metadata(ext2fs_inode_table_loc(fs_, group), fs_->inode_blocks_per_group);
  }
  std::sort(metadata_.begin(), metadata_.end(), [](const Range& a, const Range& b) { return a.offset < b.offset; });
  std::vector<Range> merged;
  for (const Range& range : metadata_) {
    if (!merged.empty() && merged.back().end() >= range.offset)
      merged.back().length = std::max(merged.back().end(), range.end()) - merged.back().offset;
    else
      merged.push_back(range);
  }
  metadata_ = std::move(merged);
}

/// Fills `map` for a group, checked against the group's own metadata.
void ExtReader::read_group(dgrp_t group, GroupMap& map) {
  const bool unused = ext2fs_has_group_desc_csum(fs_) && ext2fs_bg_flags_test(fs_, group, EXT2_BG_BLOCK_UNINIT);
  if (unused) {
    map.clear();
  } else {
    image_.read(range_.offset + ext2fs_block_bitmap_loc(fs_, group) * block_, map.bytes());
    require(ext2fs_block_bitmap_csum_verify(fs_, group, reinterpret_cast<char*>(map.bytes().data()),
                                            static_cast<int>(fs_->super->s_blocks_per_group / 8)) != 0,
            "a block map's checksum is wrong");
  }
  const std::uint64_t first = ext2fs_group_first_block2(fs_, group);
  const std::uint64_t last = ext2fs_group_last_block2(fs_, group);
  while (metadata_at_ < metadata_.size() && metadata_[metadata_at_].end() <= first)
    metadata_at_++;
  for (std::size_t i = metadata_at_; i < metadata_.size() && metadata_[i].offset <= last; i++) {
    const std::uint64_t end = std::min(metadata_[i].end(), last + 1);
    for (std::uint64_t block = std::max(metadata_[i].offset, first); block < end; block++) {
      require(unused || map.get(block - first), "a block map calls a table free");
      map.set(block - first);
    }
  }
}

/// Adds the group's free runs; returns the number of its free blocks.
std::uint64_t ExtReader::take_free(dgrp_t group, const GroupMap& map) {
  const std::uint64_t first = ext2fs_group_first_block2(fs_, group);
  const std::uint64_t count = ext2fs_group_last_block2(fs_, group) - first + 1;
  std::uint64_t free = 0;
  for (std::uint64_t at = map.find(0, count, false); at < count;) {
    const std::uint64_t end = map.find(at, count, true);
    free_.add({range_.offset + (first + at) * block_, (end - at) * block_});
    free += end - at;
    at = map.find(end, count, false);
  }
  return free;
}

std::vector<Range> ExtReader::read() {
  find_metadata();
  GroupMap map(block_);
  std::uint64_t free = 0;
  for (dgrp_t group = 0; group < fs_->group_desc_count; group++) {
    read_group(group, map);
    const std::uint64_t in_group = take_free(group, map);
    require(in_group == ext2fs_bg_free_blocks_count(fs_, group), "a group's count of free blocks is wrong");
    free += in_group;
  }
  require(free == ext2fs_free_blocks_count(fs_->super), "its count of free blocks is wrong");
  return free_.take();
}

FreeBlocks judge(const Image& image, Range range, bool frozen) {
  Bytes super(1024);
  if (range.length < superblock_at + super.size())
    return {};
  image.read(range.offset + superblock_at, super);
  if (load_le<std::uint16_t>(super, 56) != EXT2_SUPER_MAGIC)
    return {};
  const bool journal = (load_le<std::uint32_t>(super, 92) & EXT3_FEATURE_COMPAT_HAS_JOURNAL) != 0;
  const bool extents = (load_le<std::uint32_t>(super, 96) & EXT3_FEATURE_INCOMPAT_EXTENTS) != 0;
  return judge_free_blocks(extents   ? "ext4"
                           : journal ? "ext3"
                                     : "ext2",
                           [&] {
                             Part(image, range).require_content("ext");
                             check_superblock(super, range, frozen);
                             return ExtReader(image, range).read();
                           });
}

} // namespace

FreeBlocks read_ext_free(const Image& image, Range range) {
  return judge(image, range, false);
}

FreeBlocks read_frozen_ext_free(const Image& image, Range range) {
  return judge(image, range, true);
}

} // namespace kvmport
