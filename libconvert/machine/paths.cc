// SPDX-License-Identifier: Apache-2.0
#include "libconvert/machine/paths.h"

#include "libconvert/machine/text.h"

#include <algorithm>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

fs::path followed(const fs::path& path) {
  std::error_code error;
  fs::path result = fs::weakly_canonical(fs::absolute(path), error);
  if (error)
    throw Error("PATH_NOT_ALLOWED", "the path " + printable(path.string()) + " can't be followed", error.message());
  return result;
}

fs::path directory_of(const fs::path& description) {
  const fs::path parent = fs::absolute(description).parent_path();
  return followed(parent);
}

fs::path checked(const fs::path& path, const std::string& written, const std::string& what) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status))
    throw Error("DISK_MISSING", what + " is missing: " + printable(written), "there is no " + path.string(),
                "put the file beside the description, or name the file that takes its place (--disk)");
  if (!fs::is_regular_file(status) && !fs::is_block_file(status))
    throw Error("NOT_A_DISK", what + " is neither a file nor a block device: " + path.string());
  return path;
}

/// The last component of a datastore path or a Windows path; "" when `written` is neither.
std::string foreign_basename(const std::string& written) {
  if (!written.empty() && written.front() == '[' && written.find(']') != std::string::npos) {
    const std::string rest(trimmed(std::string_view(written).substr(written.find(']') + 1)));
    return rest.substr(rest.rfind('/') == std::string::npos ? 0 : rest.rfind('/') + 1);
  }
  const bool drive = written.size() > 2 && written[1] == ':' && (written[2] == '\\' || written[2] == '/');
  if (drive || written.rfind("\\\\", 0) == 0)
    return written.substr(written.find_last_of("\\/") + 1);
  return "";
}

bool plain_component(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos;
}

} // namespace

bool lies_in(const fs::path& path, const fs::path& directory) {
  const fs::path relative = followed(path).lexically_relative(followed(directory));
  return !relative.empty() && *relative.begin() != "..";
}

fs::path resolve_file(const fs::path& description, const std::string& written, const std::string& what,
                      const ReadOptions& options, std::vector<std::string>& notes) {
  if (auto named = options.disk_paths.find(written); named != options.disk_paths.end())
    return checked(fs::absolute(named->second), written, what);
  const auto refuse = [&](const std::string& why) -> Error {
    return Error(
        "PATH_NOT_ALLOWED", what + " lies outside of the allowed directories: " + printable(written), why,
        "put the file beside the description, allow its directory (--allow-directory), or name a file for it (--disk)");
  };
  if (written.empty())
    throw Error("DISK_MISSING", what + " has no file name");
  if (written.find('\0') != std::string::npos || written.find("://") != std::string::npos)
    throw refuse("it is not the name of a file");

  const fs::path home = directory_of(description);
  const auto allowed = [&](const fs::path& path) {
    if (lies_in(path, home))
      return true;
    for (const fs::path& directory : options.allowed_directories)
      if (lies_in(path, directory))
        return true;
    return false;
  };
  const std::string basename = foreign_basename(written);
  if (!basename.empty() || written.front() == '[') {
    if (!plain_component(basename))
      throw refuse("it has no file name");
    const fs::path beside = home / basename;
    if (!allowed(beside))
      throw refuse("it is a link to " + followed(beside).string());
    return checked(beside, written, what);
  }
  fs::path path = fs::path(written).is_absolute() ? fs::path(written) : home / written;
  std::error_code ignored;
  if (written.find('\\') != std::string::npos && !fs::exists(path, ignored)) { // "Snapshots\x.vdi", written on Windows
    std::string slashed = written;
    std::replace(slashed.begin(), slashed.end(), '\\', '/');
    path = home / fs::path(slashed).relative_path();
  }
  if (allowed(path))
    return checked(followed(path), written, what);
  const fs::path beside = home / fs::path(written).filename();
  if (fs::path(written).is_absolute() && plain_component(fs::path(written).filename().string()) &&
      fs::exists(beside, ignored) && allowed(beside)) {
    notes.push_back(what + ": " + beside.string() + " is taken for " + printable(written));
    return checked(followed(beside), written, what);
  }
  throw refuse("it leads to " + followed(path).string());
}

} // namespace kvmport
