// SPDX-License-Identifier: Apache-2.0
#include "formats/readers.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sys/stat.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport {

struct SourceFile::Backing {
  UniqueFd file;
  ByteSpan memory;
  fs::path path;
  Identity identity; // offset 0
};

SourceFile::SourceFile(std::shared_ptr<const Backing> backing, std::uint64_t base, std::uint64_t size)
    : backing_(std::move(backing)), base_(base), size_(size) {}

SourceFile SourceFile::open(const fs::path& path, Range window) {
  return from_fd(open_source(path), path, window);
}

SourceFile SourceFile::from_fd(UniqueFd fd, const fs::path& path, Range window) {
  const std::uint64_t total = kvmport::file_size(fd.get());
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0)
    throw system_error(errno, "can't stat " + path.string());
  auto backing = std::make_shared<Backing>();
  // Two nodes of one block device are one disk.
  const bool block = S_ISBLK(st.st_mode);
  backing->identity = {block ? st.st_rdev | std::uint64_t{1} << 63 : st.st_dev, block ? 0 : st.st_ino, 0};
  backing->file = std::move(fd);
  backing->path = path;
  SourceFile whole(std::move(backing), 0, total);
  if (window.offset == 0 && window.length == 0)
    return whole;
  whole.require(window.offset, window.length, "the window of the image");
  return whole.part({window.offset, window.length != 0 ? window.length : total - window.offset});
}

SourceFile SourceFile::from_memory(ByteSpan bytes, const fs::path& name) {
  auto backing = std::make_shared<Backing>();
  backing->memory = bytes;
  backing->path = name;
  backing->identity = {~std::uint64_t{0}, reinterpret_cast<std::uintptr_t>(bytes.data()), 0};
  return {std::move(backing), 0, bytes.size()};
}

const fs::path& SourceFile::path() const {
  return backing_->path;
}

int SourceFile::fd() const {
  return backing_->file.get();
}

void SourceFile::require(std::uint64_t offset, std::uint64_t length, std::string_view what) const {
  if (contains(offset, length))
    return;
  throw Error("DISK_TRUNCATED", path().string() + " ends before " + std::string(what),
              "needs " + std::to_string(length) + " bytes at offset " + std::to_string(offset) + ", the file has " +
                  std::to_string(size_),
              "copy the file again from its source and compare checksums");
}

void SourceFile::read(std::uint64_t offset, std::span<std::byte> out) const {
  require(offset, out.size(), "data that it should hold");
  if (out.empty())
    return;
  if (backing_->file)
    read_exact(fd(), base_ + offset, out, path().string());
  else
    std::memcpy(out.data(), backing_->memory.data() + base_ + offset, out.size());
}

Bytes SourceFile::read_bytes(std::uint64_t offset, std::uint64_t length) const {
  require(offset, length, "data that it should hold");
  Bytes bytes(length);
  read(offset, bytes);
  return bytes;
}

std::optional<FileRange> SourceFile::file_range(Range range) const {
  if (is_memory() || range.offset >= size_ || range.length == 0)
    return std::nullopt;
  return FileRange{fd(), base_ + range.offset, std::min(range.length, size_ - range.offset)};
}

std::vector<Extent> SourceFile::data_extents(Range range) const {
  require(range.offset, range.length, "data that it should hold");
  std::vector<Extent> list;
  std::uint64_t at = range.offset;
  while (at < range.end()) {
    std::uint64_t data = at, hole = range.end();
    if (!is_memory()) {
      const off_t found = ::lseek(fd(), static_cast<off_t>(base_ + at), SEEK_DATA);
      if (found >= 0) {
        data = std::min<std::uint64_t>(static_cast<std::uint64_t>(found) - base_, range.end());
      } else if (errno == ENXIO) { // no data behind `at`
        data = range.end();
      }
      if (data < range.end()) {
        const off_t end = ::lseek(fd(), static_cast<off_t>(base_ + data), SEEK_HOLE);
        if (end > static_cast<off_t>(base_ + data))
          hole = std::min<std::uint64_t>(static_cast<std::uint64_t>(end) - base_, range.end());
      }
    }
    if (data > at)
      append_extent(list, {{at, data - at}, ExtentKind::unallocated});
    if (hole > data)
      append_extent(list, {{data, hole - data}, ExtentKind::data});
    at = std::max(data, hole);
  }
  return list;
}

SourceFile SourceFile::part(Range range) const {
  require(range.offset, range.length, "a part of the image");
  return {backing_, base_ + range.offset, range.length};
}

SourceFile::Identity SourceFile::identity() const {
  Identity id = backing_->identity;
  id.offset = base_;
  return id;
}

void append_extent(std::vector<Extent>& list, Extent extent) {
  if (extent.range.length == 0)
    return;
  if (!list.empty() && list.back().kind == extent.kind && list.back().range.end() == extent.range.offset)
    list.back().range.length += extent.range.length;
  else
    list.push_back(extent);
}

} // namespace kvmport
