// SPDX-License-Identifier: Apache-2.0
// FAT (an EFI system partition) by the mtools, on a copy of it in memory that is put back by flush(). There is no
// library for FAT in distributions; mtools come closest, and know short and long names and what Windows and firmware
// make of them.
#include "base/process.h"
#include "libconvert/guest/filesystem_paths.h"
#include "libconvert/guest/userspace/staged_range.h"
#include "libconvert/guest/userspace/volume.h"

#include <algorithm>
#include <map>
#include <sstream>
#include <sys/mman.h>
#include <unistd.h>

namespace kvmport {
namespace {

constexpr std::uint64_t most_content = 1ULL << 30;
constexpr std::size_t most_entries = 100000;
constexpr std::chrono::seconds limit{60};

std::string lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

UniqueFd memory_file() {
  UniqueFd fd(::memfd_create("kvmport", MFD_CLOEXEC));
  if (!fd)
    throw system_error(errno, "can't make a file in memory");
  return fd;
}

std::string content_of(int fd) {
  std::string text(static_cast<std::size_t>(file_size(fd)), '\0');
  read_exact(fd, 0, std::as_writable_bytes(std::span(text)), "a file in memory");
  return text;
}

class FatVolume final : public Volume {
 public:
  FatVolume(WritableImage& disk, Range range) : staged_(disk, range, most_content) { scan(); }

  std::optional<FileStat> lstat(const std::string& path) const override {
    const auto entry = entries_.find(lower(path));
    if (path != "/" && entry == entries_.end())
      return std::nullopt;
    FileStat stat;
    stat.type = path == "/" || entry->second.directory ? FileType::directory : FileType::regular;
    stat.mode = 0755; // as mount(8) shows it
    if (stat.type == FileType::regular)
      stat.size = content(entry->second).size();
    return stat;
  }

  std::vector<std::string> list(const std::string& directory) const override {
    std::vector<std::string> names;
    for (const auto& [key, entry] : entries_)
      if (lower(guest_path::parent(entry.path)) == lower(directory))
        names.push_back(guest_path::name(entry.path));
    std::ranges::sort(names);
    return names;
  }

  std::string read(const std::string& path, std::uint64_t bytes) const override {
    const auto entry = entries_.find(lower(path));
    if (entry == entries_.end() || entry->second.directory)
      throw Error("GUEST_FILE_MISSING", path + " is no file of the guest");
    return content(entry->second).substr(0, bytes);
  }

  std::string readlink(const std::string& path) const override {
    throw Error("GUEST_READ_FAILED", path + " is no link: FAT has none");
  }
  std::optional<std::string> label(const std::string&) const override { return std::nullopt; }

  FreeSpace free_space() const override {
    // "                        65 298 432 bytes free"
    std::istringstream lines(run("mdir", {"::/"}));
    FreeSpace space;
    for (std::string line; std::getline(lines, line);)
      if (line.ends_with(" bytes free")) {
        std::erase_if(line, [](unsigned char c) { return std::isdigit(c) == 0; });
        space.bytes = line.empty() ? 0 : std::stoull(line);
      }
    return space;
  }

  void rewrite(const std::string& path, std::string_view content) override { put(path, content); }
  void create(const std::string& path, std::string_view content, std::uint32_t) override { put(path, content); }
  void append(const std::string& path, std::string_view more) override {
    put(path, read(path, UINT64_MAX) + std::string(more));
  }

  void remove(const std::string& path) override {
    const auto entry = entries_.find(lower(path));
    if (entry == entries_.end())
      throw Error("GUEST_FILE_MISSING", path + " is no file of the guest");
    run(entry->second.directory ? "mrd" : "mdel", {dos(entry->second.path)});
    entries_.erase(entry);
  }

  void rename(const std::string& from, const std::string& to) override {
    const std::string all = read(from, UINT64_MAX);
    remove(from);
    put(to, all);
  }

  void copy(const std::string& from, const std::string& to) override { put(to, read(from, UINT64_MAX)); }
  void symlink(const std::string&, const std::string& path) override {
    throw Error("GUEST_WRITE_FAILED", "can't make the link " + path + " in the guest", "FAT has no links");
  }
  void make_directory(const std::string& path) override {
    run("mmd", {dos(path)});
    entries_[lower(path)] = {path, true, {}};
  }
  void set_label(const std::string& path, const std::string&) override {
    throw Error("GUEST_WRITE_FAILED", "can't label " + path + " in the guest", "FAT has no labels");
  }
  void flush() override { staged_.commit(); }

 private:
  struct Entry {
    std::string path; ///< as it is spelled there
    bool directory = false;
    mutable std::optional<std::string> content; ///< once it was read
  };

  static std::string dos(const std::string& path) { return "::" + path; }

  /// Runs one of the mtools on the copy; `in` is its input.
  std::string run(const std::string& tool, const std::vector<std::string>& arguments, std::string_view in = {}) const {
    const UniqueFd input = memory_file(), output = memory_file(), errors = memory_file();
    write_exact(input.get(), 0, as_bytes(in), "a file in memory");
    std::vector<std::string> argv{"prlimit",
                                  "--core=0",
                                  "--cpu=60",
                                  "--as=1073741824",
                                  "env",
                                  "LC_ALL=C.UTF-8",
                                  "MTOOLSRC=/dev/null",
                                  "MTOOLS_SKIP_CHECK=1",
                                  tool,
                                  "-i",
                                  staged_.path()};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    Child child(argv, {{input.get(), 0}, {output.get(), 1}, {errors.get(), 2}});
    if (child.wait(limit) != 0) {
      const std::string why = content_of(errors.get());
      const bool full = why.find("full") != std::string::npos;
      throw Error(full ? "GUEST_NO_SPACE" : "GUEST_WRITE_FAILED",
                  "the EFI system partition can't be read or changed (" + tool + ")", why);
    }
    return content_of(output.get());
  }

  /// Every file and directory. Names that mtools would take for patterns are left out.
  void scan() {
    std::istringstream lines(run("mdir", {"-b", "-/", "-a", "::/"}));
    for (std::string line; std::getline(lines, line);) {
      if (!line.starts_with("::/") || line.find_first_of("*?[]\\\"") != std::string::npos)
        continue;
      const bool directory = line.ends_with('/');
      const std::string path = guest_path::clean(line.substr(2));
      if (path == "/" || entries_.size() >= most_entries)
        continue;
      entries_[lower(path)] = {path, directory, {}};
    }
  }

  const std::string& content(const Entry& entry) const {
    if (!entry.content)
      entry.content = run("mtype", {dos(entry.path)});
    return *entry.content;
  }

  void put(const std::string& path, std::string_view content) {
    if (path.find_first_of("*?[]\\\"") != std::string::npos)
      throw Error("GUEST_WRITE_FAILED", "can't write " + path + " in the guest", "FAT has no such names");
    const auto known = entries_.find(lower(path));
    const std::string spelled = known == entries_.end() ? path : known->second.path;
    run("mcopy", {"-o", "-", dos(spelled)}, content);
    entries_[lower(path)] = {spelled, false, std::string(content)};
  }

  StagedRange staged_;
  std::map<std::string, Entry> entries_; ///< by path in lower case
};

} // namespace

std::unique_ptr<Volume> open_fat_volume(WritableImage& disk, Range range, std::string& why_not) {
  if (!find_program("mtools")) {
    why_not = "mtools are not installed";
    return nullptr;
  }
  try {
    return std::make_unique<FatVolume>(disk, range);
  } catch (const Error& error) {
    why_not = error.what();
    return nullptr;
  }
}

} // namespace kvmport
