// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/initramfs_writer.h"

#include "base/file.h"

#include <archive.h>
#include <archive_entry.h>
#include <fmt/format.h>
#include <memory>
#include <sys/stat.h>

namespace kvmport {
namespace {

constexpr std::uint64_t largest_file = 256U << 20;

class ArchiveWriter {
 public:
  ArchiveWriter(const std::filesystem::path& path, int level) : archive_(::archive_write_new()), path_(path) {
    check(::archive_write_set_format_cpio_newc(archive_.get()));
    check(::archive_write_add_filter_zstd(archive_.get()));
    check(::archive_write_set_filter_option(archive_.get(), "zstd", "compression-level",
                                            fmt::format("{}", level).c_str()));
    check(::archive_write_set_bytes_in_last_block(archive_.get(), 1)); // no padding to a tape's block
    check(::archive_write_open_filename(archive_.get(), path.c_str()));
  }
  void write(::archive_entry* entry, std::string_view content) {
    check(::archive_write_header(archive_.get(), entry));
    while (!content.empty()) {
      const auto n = ::archive_write_data(archive_.get(), content.data(), content.size());
      if (n <= 0)
        check(ARCHIVE_FATAL);
      content.remove_prefix(static_cast<std::size_t>(n));
    }
  }
  void close() { check(::archive_write_close(archive_.get())); }

 private:
  struct Free {
    void operator()(::archive* a) const { ::archive_write_free(a); }
  };
  void check(int result) {
    if (result != ARCHIVE_OK)
      throw Error("IO_ERROR", path_.string() + ": the initramfs can't be written",
                  ::archive_error_string(archive_.get()) ? ::archive_error_string(archive_.get()) : "");
  }
  std::unique_ptr<::archive, Free> archive_;
  std::filesystem::path path_;
};

} // namespace

void InitramfsTreeWriter::add(const std::string& name, Entry entry) {
  for (auto slash = name.find('/'); slash != std::string::npos; slash = name.find('/', slash + 1))
    entries_.try_emplace(name.substr(0, slash), Entry{S_IFDIR | 0755U, {}, {}});
  entries_[name] = std::move(entry);
}

void InitramfsTreeWriter::directory(const std::string& name, std::uint32_t permissions) {
  add(name, {S_IFDIR | permissions, {}, {}});
}
void InitramfsTreeWriter::file(const std::string& name, std::string content, std::uint32_t permissions) {
  add(name, {S_IFREG | permissions, std::move(content), {}});
}
void InitramfsTreeWriter::copy(const std::string& name, const std::filesystem::path& source,
                               std::uint32_t permissions) {
  add(name, {S_IFREG | permissions, {}, source});
}
void InitramfsTreeWriter::symlink(const std::string& name, const std::string& target) {
  add(name, {S_IFLNK | 0777U, target, {}});
}

std::uint64_t InitramfsTreeWriter::write(const std::filesystem::path& path, std::int64_t time, int level) const {
  struct Free {
    void operator()(::archive_entry* e) const { ::archive_entry_free(e); }
  };
  ArchiveWriter archive(path, level);
  std::uint64_t packed = 0;
  for (const auto& [name, entry] : entries_) {
    const std::unique_ptr<::archive_entry, Free> header(::archive_entry_new());
    ::archive_entry_set_pathname(header.get(), name.c_str());
    ::archive_entry_set_mode(header.get(), entry.mode);
    ::archive_entry_set_uid(header.get(), 0);
    ::archive_entry_set_gid(header.get(), 0);
    ::archive_entry_set_mtime(header.get(), time, 0);
    std::string content;
    if (S_ISLNK(entry.mode))
      ::archive_entry_set_symlink(header.get(), entry.content.c_str());
    else if (S_ISREG(entry.mode))
      content = entry.source.empty() ? entry.content : read_file(entry.source, largest_file);
    ::archive_entry_set_size(header.get(), static_cast<std::int64_t>(content.size()));
    archive.write(header.get(), content);
    packed += content.size();
  }
  archive.close();
  return packed;
}

} // namespace kvmport
