// SPDX-License-Identifier: Apache-2.0
#include "tests/support/guests.h"

#include "base/bytes.h"
#include "tests/support/tempdir.h"

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

fs::path directory_from(const char* variable, const char* fallback) {
  const char* value = std::getenv(variable);
  return fs::absolute(value != nullptr ? value : fallback);
}

} // namespace

fs::path command(const std::string& name) {
  return directory_from("KVMPORT_BIN", "build/bin") / name;
}

fs::path guest_cache() {
  const fs::path cache = directory_from("KVMPORT_GUESTS", "build/guests");
  fs::create_directories(cache);
  return cache;
}

fs::path make_guest(const std::string& name) {
  must_run({"tests/guests/make-guest", name, guest_cache().string()});
  return guest_cache() / name;
}

std::vector<std::string> package_guest(const fs::path& guest, const std::string& format, const fs::path& directory) {
  fs::create_directories(directory);
  const std::string name = guest.filename().string();
  const std::map<std::string, std::string> endings{
      {"ova", ".ova"}, {"vmx", ".vmx"}, {"vbox", ".vbox"}, {"libvirt", ".xml"}};
  const auto ending = endings.find(format);
  const fs::path out = directory / (name + (ending != endings.end() ? ending->second : "." + format));
  must_run({"tests/guests/package-guest", guest.string(), format, out.string()});
  if (ending != endings.end())
    return {out.string()};
  std::vector<std::string> disks;
  for (const auto& entry : fs::directory_iterator(directory))
    disks.push_back(entry.path().string());
  std::sort(disks.begin(), disks.end());
  return disks;
}

std::vector<std::string> convert_argv(const std::vector<std::string>& sources, const fs::path& out,
                                      const std::vector<std::string>& more) {
  std::vector<std::string> argv{command("kvm-v2v").string(), "convert"};
  argv.insert(argv.end(), sources.begin(), sources.end());
  argv.insert(argv.end(), {"-o", out.string()});
  argv.insert(argv.end(), more.begin(), more.end());
  return argv;
}

std::map<std::string, std::string> digests(const fs::path& directory) {
  std::map<std::string, std::string> all;
  for (const auto& entry : fs::recursive_directory_iterator(directory))
    if (entry.is_regular_file())
      all[entry.path().string()] = sha256_of(entry.path());
  return all;
}

std::map<std::string, std::string> tree_of(const fs::path& disk, const fs::path& scratch) {
  const fs::path raw = scratch / "tree.raw";
  const fs::path mounted = scratch / "mounted";
  fs::remove(raw);
  fs::create_directories(mounted);
  must_run({"qemu-img", "convert", "-O", "raw", disk.string(), raw.string()});
  // The first entry of the MBR: its start in sectors at 446+8.
  UniqueFd fd = open_source(raw);
  Bytes mbr(512);
  read_exact(fd.get(), 0, mbr, "mbr");
  const std::uint64_t start = std::uint64_t{load_le<std::uint32_t>(mbr, 446 + 8)} * 512;
  must_run({"mount", "-o", "ro,noload,loop,offset=" + std::to_string(start), raw.string(), mounted.string()});
  std::map<std::string, std::string> tree;
  try {
    std::istringstream list(must_run({"find", mounted.string(), "-printf", "%P\\t%y %m %u:%g %l\\n"}));
    for (std::string line; std::getline(list, line);)
      tree[line.substr(0, line.find('\t'))] = line.substr(line.find('\t') + 1);
    for (auto& [path, what] : tree)
      if (what.starts_with("f"))
        what += sha256_of(mounted / path);
  } catch (...) {
    run_process({"umount", mounted.string()}, std::chrono::seconds(60));
    throw;
  }
  must_run({"umount", mounted.string()});
  fs::remove(raw);
  return tree;
}

} // namespace kvmport::test
