// SPDX-License-Identifier: Apache-2.0
// A host directory as a guest's tree. Links are resolved here, part by part, so that none leads out of the directory.
#include "base/error.h"
#include "base/file.h"
#include "libconvert/guest/filesystem.h"
#include "libconvert/guest/filesystem_paths.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

constexpr const char* label_attribute = "security.selinux";

Error failed(const char* code, const std::string& doing, const std::string& path, int errnum) {
  return {code, "cannot " + doing + " " + path + " in the guest", system_error(errnum, path).summary()};
}

FileStat to_file_stat(const struct stat& st) {
  FileStat out;
  out.type = S_ISREG(st.st_mode)   ? FileType::regular
             : S_ISDIR(st.st_mode) ? FileType::directory
             : S_ISLNK(st.st_mode) ? FileType::symlink
                                   : FileType::other;
  out.mode = st.st_mode & 07777;
  out.uid = st.st_uid;
  out.gid = st.st_gid;
  out.size = static_cast<std::uint64_t>(st.st_size);
  return out;
}

class DirectoryFilesystem final : public GuestFilesystem {
 public:
  explicit DirectoryFilesystem(std::string root) : root_(std::move(root)) {}

  std::optional<FileStat> stat(const std::string& path) const override { return at(resolve(path, true)); }
  std::optional<FileStat> lstat(const std::string& path) const override { return at(resolve(path, false)); }

  std::vector<std::string> list(const std::string& directory) const override {
    std::vector<std::string> names;
    std::error_code error;
    for (fs::directory_iterator it(host(resolve(directory, true)), error), end; !error && it != end;
         it.increment(error))
      names.push_back(it->path().filename().string());
    std::ranges::sort(names);
    return names;
  }

  std::string read(const std::string& path, std::uint64_t limit) const override {
    const std::string there = resolve(path, true);
    const auto st = at(there);
    if (!st || st->type != FileType::regular)
      throw Error("GUEST_FILE_MISSING", "the guest has no file " + path);
    if (st->size > limit)
      throw Error("GUEST_FILE_TOO_LARGE", path + " in the guest is too large",
                  std::to_string(st->size) + " bytes; at most " + std::to_string(limit) + " are read");
    const UniqueFd fd(::open(host(there).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!fd)
      throw failed("GUEST_READ_FAILED", "read", path, errno);
    std::string content(st->size, '\0');
    read_exact(fd.get(), 0, std::as_writable_bytes(std::span(content)), path);
    return content;
  }

  std::string readlink(const std::string& path) const override {
    const auto target = link_at(resolve(path, false));
    if (!target)
      throw Error("GUEST_FILE_MISSING", "the guest has no link " + path);
    return *target;
  }

  std::string realpath(const std::string& path) const override {
    const std::string there = resolve(path, true);
    if (!at(there))
      throw Error("GUEST_FILE_MISSING", "the guest has no " + path);
    return there;
  }

  std::optional<std::string> label(const std::string& path) const override {
    std::array<char, 512> buffer{};
    const auto n = ::lgetxattr(host(resolve(path, true)).c_str(), label_attribute, buffer.data(), buffer.size() - 1);
    if (n <= 0)
      return std::nullopt;
    return std::string(buffer.data());
  }

  std::optional<FreeSpace> free_space(const std::string& path) const override {
    std::string there = resolve(path, true);
    while (there != "/" && !at(there))
      there = guest_path::parent(there);
    struct stat st {};
    struct statvfs space {};
    if (::stat(host(there).c_str(), &st) != 0 || ::statvfs(host(there).c_str(), &space) != 0)
      return std::nullopt;
    return FreeSpace{std::to_string(st.st_dev), static_cast<std::uint64_t>(space.f_bavail) * space.f_frsize};
  }

  void write(const std::string& path, std::string_view content, std::uint32_t mode) override {
    put(path, content, O_CREAT | O_TRUNC, mode);
  }
  void append(const std::string& path, std::string_view content) override { put(path, content, O_APPEND, 0); }

  void remove(const std::string& path) override {
    if (::remove(host(resolve(path, false)).c_str()) != 0)
      throw failed("GUEST_WRITE_FAILED", "remove", path, errno);
  }

  void rename(const std::string& from, const std::string& to) override {
    if (::rename(host(resolve(from, false)).c_str(), host(resolve(to, false)).c_str()) != 0)
      throw failed("GUEST_WRITE_FAILED", "rename", from, errno);
  }

  void copy(const std::string& from, const std::string& to) override {
    const std::string source = resolve(from, true);
    const auto st = at(source);
    const std::string content = read(source, UINT64_MAX);
    put(to, content, O_CREAT | O_TRUNC, st->mode);
    const std::string target = resolve(to, true);
    if (::chmod(host(target).c_str(), st->mode) != 0 || ::lchown(host(target).c_str(), st->uid, st->gid) != 0)
      throw failed("GUEST_WRITE_FAILED", "set the owner of", to, errno);
    if (const auto old = label(source))
      set_label(target, *old);
  }

  void symlink(const std::string& target, const std::string& path) override {
    if (::symlink(target.c_str(), host(resolve(path, false)).c_str()) != 0)
      throw failed("GUEST_WRITE_FAILED", "make the link", path, errno);
  }

  void make_directories(const std::string& path) override {
    std::error_code error;
    fs::create_directories(host(resolve(path, true)), error);
    if (error)
      throw failed("GUEST_WRITE_FAILED", "make the directory", path, error.value());
  }

  void set_label(const std::string& path, const std::string& label) override {
    if (::lsetxattr(host(resolve(path, false)).c_str(), label_attribute, label.c_str(), label.size() + 1, 0) != 0)
      throw failed("GUEST_WRITE_FAILED", "set the SELinux label of", path, errno);
  }

 private:
  std::string host(const std::string& resolved) const { return root_ + resolved; }

  std::optional<FileStat> at(const std::string& resolved) const {
    struct stat st {};
    if (::lstat(host(resolved).c_str(), &st) != 0)
      return std::nullopt;
    return to_file_stat(st);
  }

  std::optional<std::string> link_at(const std::string& resolved) const {
    std::error_code error;
    const fs::path target = fs::read_symlink(host(resolved), error);
    if (error)
      return std::nullopt;
    return target.string();
  }

  std::string resolve(const std::string& path, bool follow_last) const {
    auto resolved = guest_path::resolve(path, follow_last, [&](const std::string& p) { return link_at(p); });
    if (!resolved)
      throw Error("GUEST_READ_FAILED", "too many links on the way to " + path + " in the guest");
    return *resolved;
  }

  void put(const std::string& path, std::string_view content, int flags, std::uint32_t mode) {
    const std::string there = host(resolve(path, true));
    const bool existed = ::access(there.c_str(), F_OK) == 0;
    const UniqueFd fd(::open(there.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW | flags, 0600));
    if (!fd)
      throw failed("GUEST_WRITE_FAILED", "write", path, errno);
    if (!existed && ::fchmod(fd.get(), mode) != 0)
      throw failed("GUEST_WRITE_FAILED", "set the mode of", path, errno);
    while (!content.empty()) {
      const auto n = ::write(fd.get(), content.data(), content.size());
      if (n < 0 && errno == EINTR)
        continue;
      if (n < 0)
        throw failed("GUEST_WRITE_FAILED", "write", path, errno);
      content.remove_prefix(static_cast<std::size_t>(n));
    }
  }

  std::string root_;
};

} // namespace

std::unique_ptr<GuestFilesystem> open_directory_filesystem(const std::string& root) {
  return std::make_unique<DirectoryFilesystem>(fs::canonical(root).string());
}

} // namespace kvmport
