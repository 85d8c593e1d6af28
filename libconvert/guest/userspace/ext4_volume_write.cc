// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/userspace/ext4_volume.h"

#include "libconvert/guest/filesystem_paths.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <type_traits>

namespace kvmport {
namespace {

constexpr const char* label_name = "security.selinux";
constexpr unsigned copy_piece = 1U << 20;

std::uint32_t now() {
  return static_cast<std::uint32_t>(std::time(nullptr));
}

} // namespace

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

void Ext4Volume::set_attribute(ext2_ino_t ino, const char* name, const std::string& value, const std::string& path) {
  ext2_xattr_handle* attributes = nullptr;
  check_write(::ext2fs_xattrs_open(fs(), ino, &attributes), path);
  errcode_t error = ::ext2fs_xattrs_read(attributes);
  if (error == 0)
    error = ::ext2fs_xattr_set(attributes, name, value.data(), value.size());
  ::ext2fs_xattrs_close(&attributes);
  check_write(error, path);
}

void Ext4Volume::set_label(const std::string& path, const std::string& label) {
  set_attribute(need(path), label_name, label + '\0', path);
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

} // namespace kvmport
