// SPDX-License-Identifier: Apache-2.0
// ext2/3/4 through libext2fs. The volume is not mounted anywhere and its journal is empty, after a replay if need be,
// so writing without the journal is what mke2fs and debugfs do too.
#include "formats/ext2_io.h"
#include "formats/ext_journal.h"
#include "libconvert/guest/filesystem_paths.h"
#include "libconvert/guest/userspace/volume.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <type_traits>

namespace kvmport {
namespace {

constexpr const char* label_name = "security.selinux";
constexpr std::uint64_t most_reserved = 256U << 20;
constexpr unsigned copy_piece = 1U << 20;
constexpr std::uint64_t least_placed = 256U << 10; ///< bytes of a file that is worth asking for its places
constexpr std::size_t most_places = 1U << 16;

class Ext4Volume final : public Volume {
 public:
  explicit Ext4Volume(Ext2Handle handle) : handle_(std::move(handle)) {
    check(::ext2fs_read_bitmaps(fs()), "its bitmaps can't be read");
  }
  ~Ext4Volume() override = default;

  std::optional<FileStat> lstat(const std::string& path) const override;
  std::vector<std::string> list(const std::string& directory) const override;
  std::string read(const std::string& path, std::uint64_t bytes) const override;
  std::optional<std::vector<FilePlace>> places(const std::string& path, std::uint64_t bytes) const override;
  std::string readlink(const std::string& path) const override;
  std::optional<std::string> label(const std::string& path) const override;
  FreeSpace free_space() const override;
  void rewrite(const std::string& path, std::string_view content) override;
  void create(const std::string& path, std::string_view content, std::uint32_t mode) override;
  void append(const std::string& path, std::string_view content) override;
  void remove(const std::string& path) override;
  void rename(const std::string& from, const std::string& to) override;
  void copy(const std::string& from, const std::string& to) override;
  void symlink(const std::string& target, const std::string& path) override;
  void make_directory(const std::string& path) override;
  void set_label(const std::string& path, const std::string& label) override;
  void flush() override;

 private:
  ext2_filsys fs() const { return handle_.get(); }

  static void check(errcode_t error, const std::string& what, const char* code = "GUEST_READ_FAILED") {
    if (error == EXT2_ET_BLOCK_ALLOC_FAIL || error == EXT2_ET_INODE_ALLOC_FAIL)
      throw Error("GUEST_NO_SPACE", what, ext2_error(error), "make room in the guest");
    if (error != 0)
      throw Error(code, what, ext2_error(error));
  }
  static void check_write(errcode_t error, const std::string& path) {
    check(error, "can't change " + path + " in the guest", "GUEST_WRITE_FAILED");
  }

  std::optional<ext2_ino_t> find(const std::string& path) const;
  ext2_ino_t need(const std::string& path) const;
  ext2_inode read_inode(ext2_ino_t ino, const std::string& path) const;
  void write_inode(ext2_ino_t ino, ext2_inode& inode, const std::string& path);
  void must_be_changeable(ext2_ino_t ino, const std::string& path, bool append = false) const;
  std::optional<std::string> attribute(ext2_ino_t ino, const char* name) const;
  void set_attribute(ext2_ino_t ino, const char* name, const std::string& value, const std::string& path);
  void link(const std::string& path, ext2_ino_t ino, int type);
  void fill(ext2_ino_t ino, std::uint64_t offset, std::string_view content, const std::string& path);
  void release(ext2_ino_t ino, const std::string& path);
  void free_inode(ext2_ino_t ino, const std::string& path, bool directory);

  Ext2Handle handle_;
};

std::uint32_t now() {
  return static_cast<std::uint32_t>(std::time(nullptr));
}

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

void Ext4Volume::write_inode(ext2_ino_t ino, ext2_inode& inode, const std::string& path) {
  inode.i_ctime = now();
  check_write(::ext2fs_write_inode(fs(), ino, &inode), path);
}

/// As the kernel refuses to (chattr(1), +i and +a), in place of it.
void Ext4Volume::must_be_changeable(ext2_ino_t ino, const std::string& path, bool append) const {
  const ext2_inode inode = read_inode(ino, path);
  if ((inode.i_flags & (EXT2_IMMUTABLE_FL | (append ? 0U : EXT2_APPEND_FL))) != 0)
    throw Error("GUEST_WRITE_FAILED", path + " in the guest is protected against changes (chattr +i or +a)", {},
                "take the protection off in the guest (chattr -i -a), then convert it again");
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

void Ext4Volume::set_attribute(ext2_ino_t ino, const char* name, const std::string& value, const std::string& path) {
  ext2_xattr_handle* attributes = nullptr;
  check_write(::ext2fs_xattrs_open(fs(), ino, &attributes), path);
  errcode_t error = ::ext2fs_xattrs_read(attributes);
  if (error == 0)
    error = ::ext2fs_xattr_set(attributes, name, value.data(), value.size());
  ::ext2fs_xattrs_close(&attributes);
  check_write(error, path);
}

std::optional<std::string> Ext4Volume::label(const std::string& path) const {
  auto value = attribute(need(path), label_name);
  if (value && !value->empty() && value->back() == '\0')
    value->pop_back();
  return value;
}

void Ext4Volume::set_label(const std::string& path, const std::string& label) {
  set_attribute(need(path), label_name, label + '\0', path);
}

FreeSpace Ext4Volume::free_space() const {
  FreeSpace space;
  space.bytes = ext2fs_free_blocks_count(fs()->super) * fs()->blocksize;
  return space;
}

void Ext4Volume::fill(ext2_ino_t ino, std::uint64_t offset, std::string_view content, const std::string& path) {
  ext2_file_t file = nullptr;
  check_write(::ext2fs_file_open(fs(), ino, EXT2_FILE_WRITE, &file), path);
  const std::unique_ptr<ext2_file, decltype(&::ext2fs_file_close)> closer(file, ::ext2fs_file_close);
  check_write(::ext2fs_file_llseek(file, offset, EXT2_SEEK_SET, nullptr), path);
  while (!content.empty()) {
    unsigned wrote = 0;
    const auto step = static_cast<unsigned>(std::min<std::size_t>(content.size(), 1U << 20));
    check_write(::ext2fs_file_write(file, content.data(), step, &wrote), path);
    if (wrote == 0)
      throw Error("GUEST_WRITE_FAILED", "can't change " + path + " in the guest", "nothing was written");
    content.remove_prefix(wrote);
  }
  check_write(::ext2fs_file_flush(file), path);
}

void Ext4Volume::rewrite(const std::string& path, std::string_view content) {
  const ext2_ino_t ino = need(path);
  must_be_changeable(ino, path);
  ext2_file_t file = nullptr;
  check_write(::ext2fs_file_open(fs(), ino, EXT2_FILE_WRITE, &file), path);
  const errcode_t error = ::ext2fs_file_set_size2(file, 0);
  ::ext2fs_file_close(file);
  check_write(error, path);
  fill(ino, 0, content, path);
  ext2_inode inode = read_inode(ino, path);
  inode.i_mtime = now();
  write_inode(ino, inode, path);
}

void Ext4Volume::append(const std::string& path, std::string_view content) {
  const ext2_ino_t ino = need(path);
  must_be_changeable(ino, path, true);
  ext2_inode before = read_inode(ino, path);
  fill(ino, EXT2_I_SIZE(&before), content, path);
  ext2_inode inode = read_inode(ino, path);
  inode.i_mtime = now();
  write_inode(ino, inode, path);
}

void Ext4Volume::link(const std::string& path, ext2_ino_t ino, int type) {
  const ext2_ino_t directory = need(guest_path::parent(path));
  const std::string name = guest_path::name(path);
  errcode_t error = ::ext2fs_link(fs(), directory, name.c_str(), ino, type);
  if (error == EXT2_ET_DIR_NO_SPACE) {
    check_write(::ext2fs_expand_dir(fs(), directory), path);
    error = ::ext2fs_link(fs(), directory, name.c_str(), ino, type);
  }
  check_write(error, path);
}

void Ext4Volume::create(const std::string& path, std::string_view content, std::uint32_t mode) {
  const ext2_ino_t directory = need(guest_path::parent(path));
  must_be_changeable(directory, guest_path::parent(path), true);
  ext2_ino_t ino = 0;
  check_write(::ext2fs_new_inode(fs(), directory, LINUX_S_IFREG | 0644, nullptr, &ino), path);
  link(path, ino, EXT2_FT_REG_FILE);
  ::ext2fs_inode_alloc_stats2(fs(), ino, +1, 0);
  ext2_inode inode{};
  inode.i_mode = static_cast<__u16>(LINUX_S_IFREG | (mode & 07777U));
  inode.i_links_count = 1;
  inode.i_atime = inode.i_mtime = inode.i_ctime = now();
  if (ext2fs_has_feature_extents(fs()->super)) {
    // An empty extent tree, as libext2fs makes it for a zeroed i_block.
    ext2_extent_handle_t extents = nullptr;
    inode.i_flags |= EXT4_EXTENTS_FL;
    check_write(::ext2fs_extent_open2(fs(), ino, &inode, &extents), path);
    ::ext2fs_extent_free(extents);
  }
  check_write(::ext2fs_write_new_inode(fs(), ino, &inode), path);
  fill(ino, 0, content, path);
}

void Ext4Volume::release(ext2_ino_t ino, const std::string& path) {
  ext2_inode inode = read_inode(ino, path);
  if (inode.i_links_count > 1) {
    inode.i_links_count--;
    write_inode(ino, inode, path);
    return;
  }
  free_inode(ino, path, false);
}

void Ext4Volume::free_inode(ext2_ino_t ino, const std::string& path, bool directory) {
  check_write(::ext2fs_free_ext_attr(fs(), ino, nullptr), path);
  ext2_inode inode = read_inode(ino, path);
  if (ext2fs_inode_has_valid_blocks2(fs(), &inode))
    check_write(::ext2fs_punch(fs(), ino, &inode, nullptr, 0, ~0ULL), path);
  inode.i_links_count = 0;
  inode.i_dtime = now();
  write_inode(ino, inode, path);
  ::ext2fs_inode_alloc_stats2(fs(), ino, -1, directory ? 1 : 0);
}

void Ext4Volume::remove(const std::string& path) {
  const ext2_ino_t ino = need(path);
  must_be_changeable(ino, path);
  must_be_changeable(need(guest_path::parent(path)), guest_path::parent(path));
  const bool directory = lstat(path)->type == FileType::directory;
  if (directory && !list(path).empty())
    throw Error("GUEST_WRITE_FAILED", path + " is a directory with files in it: it is not removed");
  const std::string name = guest_path::name(path);
  const ext2_ino_t parent = need(guest_path::parent(path));
  check_write(::ext2fs_unlink(fs(), parent, name.c_str(), ino, 0), path);
  if (!directory) {
    release(ino, path);
    return;
  }
  // Its own "." and, in the directory above, its "..". One link means "too many to count" (dir_nlink).
  free_inode(ino, path, true);
  ext2_inode above = read_inode(parent, guest_path::parent(path));
  if (above.i_links_count > 2) {
    above.i_links_count--;
    write_inode(parent, above, path);
  }
}

void Ext4Volume::rename(const std::string& from, const std::string& to) {
  const ext2_ino_t ino = need(from);
  must_be_changeable(ino, from);
  const ext2_inode inode = read_inode(ino, from);
  if (!LINUX_S_ISREG(inode.i_mode) && !LINUX_S_ISLNK(inode.i_mode))
    throw Error("GUEST_WRITE_FAILED", from + " is neither a file nor a link: it is not renamed");
  if (const auto there = lstat(to)) {
    if (there->type == FileType::directory)
      throw Error("GUEST_WRITE_FAILED", to + " is a directory: nothing is renamed to it");
    remove(to);
  }
  link(to, ino, LINUX_S_ISREG(inode.i_mode) ? EXT2_FT_REG_FILE : EXT2_FT_SYMLINK);
  const std::string name = guest_path::name(from);
  check_write(::ext2fs_unlink(fs(), need(guest_path::parent(from)), name.c_str(), ino, 0), from);
}

void Ext4Volume::copy(const std::string& from, const std::string& to) {
  if (find(to))
    rewrite(to, {});
  else
    create(to, {}, 0600);
  const ext2_ino_t source = need(from), target = need(to);
  ext2_file_t file = nullptr;
  check(::ext2fs_file_open(fs(), source, 0, &file), "can't open " + from + " in the guest");
  const std::unique_ptr<ext2_file, decltype(&::ext2fs_file_close)> closer(file, ::ext2fs_file_close);
  std::string buffer(copy_piece, '\0');
  for (std::uint64_t at = 0;;) {
    unsigned got = 0;
    check(::ext2fs_file_read(file, buffer.data(), copy_piece, &got), "can't read " + from + " in the guest");
    if (got == 0)
      break;
    fill(target, at, std::string_view(buffer).substr(0, got), to);
    at += got;
  }
  const ext2_inode model = read_inode(source, from);
  ext2_inode inode = read_inode(target, to);
  inode.i_mode = static_cast<__u16>((inode.i_mode & LINUX_S_IFMT) | (model.i_mode & 07777U));
  inode.i_uid = model.i_uid;
  inode.i_gid = model.i_gid;
  inode.osd2.linux2.l_i_uid_high = model.osd2.linux2.l_i_uid_high;
  inode.osd2.linux2.l_i_gid_high = model.osd2.linux2.l_i_gid_high;
  write_inode(target, inode, to);
  if (const auto value = attribute(source, label_name))
    set_attribute(target, label_name, *value, to);
}

void Ext4Volume::symlink(const std::string& target, const std::string& path) {
  const ext2_ino_t directory = need(guest_path::parent(path));
  const std::string name = guest_path::name(path);
  errcode_t error = ::ext2fs_symlink(fs(), directory, 0, name.c_str(), target.c_str());
  if (error == EXT2_ET_DIR_NO_SPACE) {
    check_write(::ext2fs_expand_dir(fs(), directory), path);
    error = ::ext2fs_symlink(fs(), directory, 0, name.c_str(), target.c_str());
  }
  check_write(error, path);
}

void Ext4Volume::make_directory(const std::string& path) {
  const ext2_ino_t directory = need(guest_path::parent(path));
  const std::string name = guest_path::name(path);
  errcode_t error = ::ext2fs_mkdir(fs(), directory, 0, name.c_str());
  if (error == EXT2_ET_DIR_NO_SPACE) {
    check_write(::ext2fs_expand_dir(fs(), directory), path);
    error = ::ext2fs_mkdir(fs(), directory, 0, name.c_str());
  }
  check_write(error, path);
  const ext2_ino_t ino = need(path);
  ext2_inode inode = read_inode(ino, path);
  inode.i_mode = LINUX_S_IFDIR | 0755;
  write_inode(ino, inode, path);
}

void Ext4Volume::flush() {
  check(::ext2fs_flush(fs()), "can't write an ext filesystem's tables", "GUEST_WRITE_FAILED");
}

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
