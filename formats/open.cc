// SPDX-License-Identifier: Apache-2.0
// Opening by content, and the one place where names that stand in images become open files.
#include "formats/chain.h"
#include "formats/probe.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <fcntl.h>
#include <linux/openat2.h>
#include <map>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

using Opener = std::unique_ptr<Image> (*)(SourceFile, const OpenContext&);

Opener opener_of(const std::string& format) {
  static const std::map<std::string, Opener, std::less<>> openers{
      {"raw", open_raw},
      {"qcow2", open_qcow2},
      {"vmdk", open_vmdk},
      {"vdi", open_vdi},
      {"vhd", open_vhd},
      {"vhdx", open_vhdx},
      // What qcow2 headers call raw and VHD.
      {"file", open_raw},
      {"host_device", open_raw},
      {"vpc", open_vhd},
  };
  const auto found = openers.find(format);
  return found == openers.end() ? nullptr : found->second;
}

/// "nbd://…", "json:{…}": things that other tools take for more than a file's name.
bool is_protocol(const std::string& name) {
  const std::size_t colon = name.find(':');
  return colon != std::string::npos && colon > 1 && name.find('/') > colon &&
         std::all_of(name.begin(), name.begin() + static_cast<std::ptrdiff_t>(colon),
                     [](unsigned char c) { return std::isalnum(c) != 0 || c == '+' || c == '-' || c == '.'; });
}

bool is_there(const fs::path& path) {
  struct stat st {};
  return ::lstat(path.c_str(), &st) == 0;
}

Error not_allowed(const SourceFile& from, const std::string& name, std::string_view why, const std::string& reason) {
  return {"PATH_NOT_ALLOWED", from.path().string() + " names a " + std::string(why) + " that it may not reach: " + name,
          reason, "if you trust the image, allow the directory with --allow-directory"};
}

/// Opens `relative` below `directory` without following any link on the way.
UniqueFd open_beneath(const fs::path& directory, const fs::path& relative) {
  const UniqueFd dir(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!dir)
    return {};
  constexpr std::uint64_t flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
  open_how how{};
  how.flags = flags;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  UniqueFd fd(static_cast<int>(::syscall(SYS_openat2, dir.get(), relative.c_str(), &how, sizeof how)));
  if (!fd && errno == ENOSYS) // kernels before 5.6; the path is canonical already
    fd = UniqueFd(::openat(dir.get(), relative.c_str(), static_cast<int>(flags)));
  return fd;
}

} // namespace

OpenContext::OpenContext(OpenOptions options) : options_(std::move(options)) {}

SourceFile OpenContext::open_file(const SourceFile& from, const std::string& name, std::string_view why) const {
  if (name.empty() || name.find('\0') != std::string::npos)
    throw corrupt(from, "the name of its " + std::string(why) + " is not a file name");
  std::error_code ignored;
  const fs::path own = fs::absolute(from.path()).parent_path();
  const fs::path target = own / name; // an absolute name replaces `own`
  if (is_protocol(name) && !is_there(target))
    throw not_allowed(from, name, why, "it is not the name of a file");
  const fs::path wanted = fs::weakly_canonical(target, ignored);
  std::vector<fs::path> roots{own, fs::weakly_canonical(from.path(), ignored).parent_path()};
  roots.insert(roots.end(), options_.allowed_directories.begin(), options_.allowed_directories.end());
  for (const fs::path& given : roots) {
    const fs::path root = fs::weakly_canonical(given, ignored);
    const fs::path relative = wanted.lexically_relative(root);
    if (wanted.empty() || root.empty() || relative.empty() || relative == "." || *relative.begin() == "..")
      continue;
    UniqueFd fd = open_beneath(root, relative);
    if (!fd && (errno == ENOENT || errno == ENOTDIR))
      throw Error("PARENT_MISSING", from.path().string() + " needs the " + std::string(why) + " " + name,
                  wanted.string() + " is not there", "put it there, or name its directory with --allow-directory");
    if (!fd && (errno == ELOOP || errno == EXDEV))
      throw not_allowed(from, name, why, "a symbolic link leads there");
    if (!fd)
      throw system_error(errno, "can't open " + wanted.string());
    struct stat st {};
    if (::fstat(fd.get(), &st) != 0 || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)))
      throw Error("NOT_A_DISK", wanted.string() + " is neither a regular file nor a block device");
    return SourceFile::from_fd(std::move(fd), wanted);
  }
  throw not_allowed(from, name, why, wanted.string() + " is outside of the image's directory");
}

std::unique_ptr<Image> OpenContext::open_referenced(const SourceFile& from, const std::string& name,
                                                    const std::string& format_hint, std::string_view why) const {
  const SourceFile file = open_file(from, name, why);
  OpenContext below = *this;
  below.options_.format.clear();
  below.options_.window = {};
  below.chain_.push_back(from.identity());
  if (std::find(below.chain_.begin(), below.chain_.end(), file.identity()) != below.chain_.end())
    throw Error("CHAIN_LOOP", from.path().string() + " has itself among its parents", name);
  if (below.chain_.size() >= max_depth)
    throw Error("CHAIN_LOOP", from.path().string() + " stands in a chain that is too long",
                "more than " + std::to_string(max_depth) + " images", "merge snapshots with the tool that made them");
  return open_format(file, format_hint, below);
}

std::unique_ptr<Image> open_format(const SourceFile& file, const std::string& format, const OpenContext& context) {
  const std::string name = format.empty() ? probe_content(file) : format;
  if (const Opener open = opener_of(name))
    return open(file, context);
  if (format.empty())
    throw unsupported_format(file, name);
  throw Error("FORMAT_UNKNOWN", "there is no reader for the format " + format,
              "it was named for " + file.path().string(), "use one of raw, qcow2, vmdk, vdi, vhd, vhdx");
}

std::unique_ptr<Image> open_image(const fs::path& path, const OpenOptions& options) {
  return open_format(SourceFile::open(path, options.window), options.format, OpenContext(options));
}

std::string probe_format(const fs::path& path, const OpenOptions& options) {
  return probe_content(SourceFile::open(path, options.window));
}

} // namespace kvmport
