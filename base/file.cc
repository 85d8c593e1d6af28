// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <cerrno>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

UniqueFd open_or_throw(const fs::path& path, int flags, mode_t mode = 0) {
  UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd) {
    if (errno == EEXIST)
      throw Error("FILE_EXISTS", path.string() + " exists already", {}, "remove it, or ask for --force");
    throw system_error(errno, "can't open " + path.string());
  }
  return fd;
}

} // namespace

void UniqueFd::reset() noexcept {
  if (fd_ >= 0)
    ::close(fd_);
  fd_ = -1;
}

UniqueFd open_source(const fs::path& path) {
  UniqueFd fd = open_or_throw(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0)
    throw system_error(errno, "can't stat " + path.string());
  if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
    throw Error("NOT_A_DISK", path.string() + " is neither a regular file nor a block device");
  return fd;
}

UniqueFd create_new(const fs::path& path) {
  return open_or_throw(path, O_RDWR | O_CREAT | O_EXCL, 0644);
}

UniqueFd create_or_empty(const fs::path& path) {
  return open_or_throw(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
}

UniqueFd open_existing(const fs::path& path) {
  return open_or_throw(path, O_RDWR);
}

UniqueFd open_unnamed(const fs::path& directory) {
  UniqueFd fd(::open(directory.c_str(), O_RDWR | O_TMPFILE | O_CLOEXEC, 0600));
  if (fd)
    return fd;
  std::string name = (directory / "kvmport-XXXXXX").string();
  fd = UniqueFd(::mkostemp(name.data(), O_CLOEXEC));
  if (!fd)
    throw system_error(errno, "can't create a temporary file in " + directory.string());
  ::unlink(name.c_str());
  return fd;
}

std::pair<UniqueFd, UniqueFd> socket_pair(int type) {
  int ends[2];
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) != 0)
    throw system_error(errno, "can't make a socket");
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

std::uint64_t file_size(int fd) {
  struct stat st {};
  if (::fstat(fd, &st) != 0)
    throw system_error(errno, "can't stat a file");
  if (S_ISBLK(st.st_mode)) {
    std::uint64_t size = 0;
    if (::ioctl(fd, BLKGETSIZE64, &size) != 0)
      throw system_error(errno, "can't read a block device's size");
    return size;
  }
  return static_cast<std::uint64_t>(st.st_size);
}

std::size_t read_some(int fd, std::uint64_t offset, std::span<std::byte> out, std::string_view name) {
  std::size_t done = 0;
  while (done < out.size()) {
    ssize_t n = ::pread(fd, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      throw system_error(errno, "can't read " + std::string(name) + " at offset " + std::to_string(offset + done));
    if (n == 0)
      break;
    done += static_cast<std::size_t>(n);
  }
  return done;
}

void read_exact(int fd, std::uint64_t offset, std::span<std::byte> out, std::string_view name) {
  std::size_t done = read_some(fd, offset, out, name);
  if (done < out.size())
    throw Error("DISK_TRUNCATED", std::string(name) + " ends too early",
                std::to_string(out.size()) + " bytes are needed at offset " + std::to_string(offset) + ", " +
                    std::to_string(done) + " are there",
                "copy the file again from its origin");
}

void write_exact(int fd, std::uint64_t offset, ByteSpan in, std::string_view name) {
  std::size_t done = 0;
  while (done < in.size()) {
    ssize_t n = ::pwrite(fd, in.data() + done, in.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      throw system_error(errno, "can't write " + std::string(name) + " at offset " + std::to_string(offset + done));
    done += static_cast<std::size_t>(n);
  }
}

std::string read_file(const fs::path& path, std::uint64_t limit) {
  UniqueFd fd = open_source(path);
  std::string text;
  constexpr std::size_t step = 64U << 10;
  for (;;) {
    std::size_t old = text.size();
    text.resize(old + step);
    std::size_t n = read_some(fd.get(), old, std::as_writable_bytes(std::span(text.data() + old, step)), path.string());
    text.resize(old + n);
    if (text.size() > limit)
      throw Error("FILE_TOO_LARGE", path.string() + " is larger than " + std::to_string(limit) + " bytes");
    if (n < step)
      return text;
  }
}

void sync_directory(const fs::path& directory) {
  UniqueFd fd = open_or_throw(directory.empty() ? fs::path(".") : directory, O_RDONLY | O_DIRECTORY);
  if (::fsync(fd.get()) != 0 && errno != EINVAL)
    throw system_error(errno, "can't sync " + directory.string());
}

void write_file_durably(const fs::path& path, std::string_view content) {
  fs::path partial = path;
  partial += ".partial";
  {
    UniqueFd fd = create_or_empty(partial);
    write_exact(fd.get(), 0, as_bytes(content), partial.string());
    if (::fsync(fd.get()) != 0)
      throw system_error(errno, "can't sync " + partial.string());
  }
  if (::rename(partial.c_str(), path.c_str()) != 0)
    throw system_error(errno, "can't rename " + partial.string());
  sync_directory(path.parent_path());
}

TempDir::TempDir(const fs::path& parent) {
  std::string name = (parent / "kvmport-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr)
    throw system_error(errno, "can't create a directory in " + parent.string());
  path_ = name;
}

TempDir::~TempDir() {
  std::error_code ignored;
  if (!path_.empty())
    fs::remove_all(path_, ignored);
}

} // namespace kvmport
