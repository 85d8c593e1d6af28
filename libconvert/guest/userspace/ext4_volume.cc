// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/userspace/ext4_volume.h"

#include "formats/ext_journal.h"
#include "libconvert/guest/filesystem_paths.h"

#include <algorithm>
#include <array>
#include <type_traits>

namespace kvmport {
namespace {

constexpr const char* label_name = "security.selinux";
constexpr std::uint64_t most_reserved = 256U << 20;
constexpr std::uint64_t least_placed = 256U << 10; ///< bytes of a file that is worth asking for its places
constexpr std::size_t most_places = 1U << 16;

/// Why libext2fs must not write this filesystem; empty: it may.
std::string refusal(const ext2_super_block& super) {
  ext2_super_block s = super; // the feature helpers take a pointer to non-const
  if ((s.s_state & EXT2_ERROR_FS) != 0 || (s.s_state & EXT2_VALID_FS) == 0)
    return "it was not unmounted cleanly or has errors noted";
  if (ext2fs_has_feature_orphan_file(&s) && ext2fs_has_feature_orphan_present(&s))
    return "it holds a file of orphaned inodes";
  struct Feature {
    bool there;
    const char* name;
  };
  for (const Feature& f : {Feature{ext2fs_has_feature_bigalloc(&s) != 0, "bigalloc"},
                           Feature{ext2fs_has_feature_inline_data(&s) != 0, "inline data"},
                           Feature{ext2fs_has_feature_encrypt(&s) != 0, "encrypted directories"},
                           Feature{ext2fs_has_feature_casefold(&s) != 0, "case-folded directories"},
                           Feature{ext2fs_has_feature_quota(&s) != 0, "quota inodes"},
                           Feature{ext2fs_has_feature_mmp(&s) != 0, "multi-mount protection"}})
    if (f.there)
      return std::string("it uses ") + f.name;
  return {};
}

/// Inodes that were deleted while they were open wait in a list for the next mount to free them. No path leads to them,
/// so the list can stay as it is; one that has a name was being cut shorter, and must not be touched before that.
std::string orphan_refusal(ext2_filsys fs) {
  constexpr unsigned most = 65536;
  ext2_ino_t next = fs->super->s_last_orphan;
  for (unsigned count = 0; next != 0; count++) {
    ext2_inode inode{};
    if (count == most || ::ext2fs_read_inode(fs, next, &inode) != 0)
      return "its list of orphaned inodes can't be read";
    if (inode.i_links_count != 0)
      return "a file of it was being truncated";
    next = inode.i_dtime; // the list's next
  }
  return {};
}

/// After a replay the groups know how much is free; the superblock, which the log does not hold, is told.
void count_free(ext2_filsys fs) {
  blk64_t blocks = 0;
  unsigned inodes = 0;
  for (dgrp_t group = 0; group < fs->group_desc_count; group++) {
    blocks += ext2fs_bg_free_blocks_count(fs, group);
    inodes += ext2fs_bg_free_inodes_count(fs, group);
  }
  ext2fs_free_blocks_count_set(fs->super, blocks);
  fs->super->s_free_inodes_count = inodes;
  ext2fs_mark_super_dirty(fs);
}

} // namespace

std::optional<ext2_ino_t> Ext4Volume::find(const std::string& path) const {
  ext2_ino_t ino = EXT2_ROOT_INO;
  for (const auto& part : guest_path::split(path)) {
    ext2_ino_t next = 0;
    const errcode_t error = ::ext2fs_lookup(fs(), ino, part.c_str(), static_cast<int>(part.size()), nullptr, &next);
    if (error == EXT2_ET_FILE_NOT_FOUND || error == EXT2_ET_NO_DIRECTORY)
      return std::nullopt;
    check(error, "can't look up " + path + " in the guest");
    ino = next;
  }
  return ino;
}

ext2_ino_t Ext4Volume::need(const std::string& path) const {
  const auto ino = find(path);
  if (!ino)
    throw Error("GUEST_FILE_MISSING", path + " is not in the guest");
  return *ino;
}

ext2_inode Ext4Volume::read_inode(ext2_ino_t ino, const std::string& path) const {
  ext2_inode inode{};
  check(::ext2fs_read_inode(fs(), ino, &inode), "can't read the inode of " + path);
  return inode;
}

std::optional<FileStat> Ext4Volume::lstat(const std::string& path) const {
  const auto ino = find(path);
  if (!ino)
    return std::nullopt;
  const ext2_inode inode = read_inode(*ino, path);
  FileStat stat;
  stat.type = LINUX_S_ISREG(inode.i_mode)   ? FileType::regular
              : LINUX_S_ISDIR(inode.i_mode) ? FileType::directory
              : LINUX_S_ISLNK(inode.i_mode) ? FileType::symlink
                                            : FileType::other;
  stat.mode = inode.i_mode & 07777U;
  stat.uid = inode_uid(inode);
  stat.gid = inode_gid(inode);
  stat.size = EXT2_I_SIZE(&inode);
  return stat;
}

std::vector<std::string> Ext4Volume::list(const std::string& directory) const {
  std::vector<std::string> names;
  const auto ino = find(directory);
  if (!ino || ::ext2fs_check_directory(fs(), *ino) != 0)
    return names;
  const auto visit = [](ext2_ino_t, int, ext2_dir_entry* entry, int, int, char*, void* out) {
    const std::string name(entry->name, static_cast<std::size_t>(ext2fs_dirent_name_len(entry)));
    if (name != "." && name != "..")
      static_cast<std::vector<std::string>*>(out)->push_back(name);
    return 0;
  };
  check(::ext2fs_dir_iterate2(fs(), *ino, 0, nullptr, visit, &names), "can't list " + directory);
  std::sort(names.begin(), names.end());
  return names;
}

std::string Ext4Volume::read(const std::string& path, std::uint64_t bytes) const {
  const ext2_ino_t ino = need(path);
  ext2_file_t file = nullptr;
  check(::ext2fs_file_open(fs(), ino, 0, &file), "can't open " + path + " in the guest");
  const std::unique_ptr<ext2_file, decltype(&::ext2fs_file_close)> closer(file, ::ext2fs_file_close);
  __u64 size = 0;
  check(::ext2fs_file_get_lsize(file, &size), "can't read " + path);
  // A size field may lie: the buffer grows only as far as data comes, at first to what the filesystem could hold.
  std::string content;
  const std::uint64_t wanted = std::min<std::uint64_t>(size, bytes);
  content.reserve(std::min<std::uint64_t>({wanted, ext2fs_blocks_count(fs()->super) * fs()->blocksize, most_reserved}));
  while (content.size() < wanted) {
    const std::size_t old = content.size();
    const auto step = static_cast<unsigned>(std::min<std::uint64_t>(wanted - old, 1U << 20));
    content.resize(old + step);
    unsigned got = 0;
    check(::ext2fs_file_read(file, content.data() + old, step, &got), "can't read " + path + " in the guest");
    content.resize(old + got);
    if (got == 0)
      break;
  }
  return content;
}

std::optional<std::vector<FilePlace>> Ext4Volume::places(const std::string& path, std::uint64_t bytes) const {
  const ext2_ino_t ino = need(path);
  const ext2_inode inode = read_inode(ino, path);
  const std::uint64_t wanted = std::min<std::uint64_t>(EXT2_I_SIZE(&inode), bytes), block = fs()->blocksize;
  ext2_extent_handle_t extents = nullptr;
  if (!LINUX_S_ISREG(inode.i_mode) || wanted < least_placed || (inode.i_flags & EXT4_EXTENTS_FL) == 0 ||
      ::ext2fs_extent_open(fs(), ino, &extents) != 0)
    return std::nullopt;
  check(io_channel_flush(fs()->io), "can't write " + path + " in the guest"); // what was written may be read there now
  const std::unique_ptr<std::remove_pointer_t<ext2_extent_handle_t>, decltype(&::ext2fs_extent_free)> closer(
      extents, ::ext2fs_extent_free);
  std::vector<FilePlace> places;
  std::uint64_t at = 0;
  ext2fs_extent extent{};
  errcode_t error = ::ext2fs_extent_get(extents, EXT2_EXTENT_ROOT, &extent);
  for (; error == 0 && at < wanted; error = ::ext2fs_extent_get(extents, EXT2_EXTENT_NEXT, &extent)) {
    if ((extent.e_flags & EXT2_EXTENT_FLAGS_LEAF) == 0 || (extent.e_flags & EXT2_EXTENT_FLAGS_SECOND_VISIT) != 0)
      continue;
    const std::uint64_t from = extent.e_lblk * block;
    if (from < at || places.size() > most_places)
      return std::nullopt;
    if (from >= wanted)
      break;
    if (from > at)
      places.push_back({std::nullopt, from - at});
    const std::uint64_t length = std::min(extent.e_len * block, wanted - from);
    if ((extent.e_flags & EXT2_EXTENT_FLAGS_UNINIT) != 0)
      places.push_back({std::nullopt, length});
    else
      places.push_back({extent.e_pblk * block, length});
    at = from + length;
  }
  if (error != 0 && error != EXT2_ET_EXTENT_NO_NEXT)
    return std::nullopt;
  if (at < wanted)
    places.push_back({std::nullopt, wanted - at});
  return places;
}

std::string Ext4Volume::readlink(const std::string& path) const {
  const ext2_ino_t ino = need(path);
  ext2_inode inode = read_inode(ino, path);
  if (!LINUX_S_ISLNK(inode.i_mode))
    throw Error("GUEST_READ_FAILED", path + " is no symbolic link");
  if (!ext2fs_is_fast_symlink(&inode))
    return read(path, 4096);
  const std::size_t size = std::min<std::size_t>(EXT2_I_SIZE(&inode), sizeof inode.i_block);
  return {reinterpret_cast<const char*>(inode.i_block), size};
}

std::optional<std::string> Ext4Volume::attribute(ext2_ino_t ino, const char* name) const {
  ext2_xattr_handle* attributes = nullptr;
  check(::ext2fs_xattrs_open(fs(), ino, &attributes), "can't read attributes");
  std::optional<std::string> value;
  void* data = nullptr;
  std::size_t length = 0;
  if (::ext2fs_xattrs_read(attributes) == 0 && ::ext2fs_xattr_get(attributes, name, &data, &length) == 0) {
    value.emplace(static_cast<const char*>(data), length);
    ::ext2fs_free_mem(&data);
  }
  ::ext2fs_xattrs_close(&attributes);
  return value;
}

std::optional<std::string> Ext4Volume::label(const std::string& path) const {
  auto value = attribute(need(path), label_name);
  if (value && !value->empty() && value->back() == '\0')
    value->pop_back();
  return value;
}

FreeSpace Ext4Volume::free_space() const {
  FreeSpace space;
  space.bytes = ext2fs_free_blocks_count(fs()->super) * fs()->blocksize;
  return space;
}

std::unique_ptr<Volume> open_ext4_volume(WritableImage& disk, Range range, std::string& why_not) {
  try {
    const JournalReplay replay = replay_ext_journal(disk, range);
    Ext2Handle handle = Ext2Handle::open_writable(disk, range);
    why_not = replay.fast_commits ? "its journal ends with fast commits" : refusal(*handle.get()->super);
    if (why_not.empty())
      why_not = orphan_refusal(handle.get());
    if (!why_not.empty())
      return nullptr;
    if (replay.needed)
      count_free(handle.get());
    return std::make_unique<Ext4Volume>(std::move(handle));
  } catch (const Error& error) {
    why_not = error.what();
    return nullptr;
  }
}

} // namespace kvmport
