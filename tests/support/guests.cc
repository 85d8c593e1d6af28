// SPDX-License-Identifier: Apache-2.0
#include "tests/support/guests.h"

#include "formats/block_stack.h"

#include "base/bytes.h"
#include "tests/support/tempdir.h"

#include <algorithm>
#include <cstdlib>
#include <gtest/gtest.h>
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

bool slow_tests() {
  return std::getenv("KVMPORT_SLOW") != nullptr;
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

std::string identifier(std::string name) {
  std::ranges::replace(name, '-', '_');
  return name;
}

namespace {

using Tree = std::map<std::string, std::string>;

void expect_clean(const std::vector<std::string>& fsck) {
  const ProcessResult result = run_process(fsck, std::chrono::minutes(5));
  EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
}

/// What the kernel shows of the files in `directory`; "%" names what find(1) prints of each besides its type.
void add_tree(const fs::path& directory, const std::string& device, const std::string& columns, Tree& tree) {
  std::istringstream list(must_run({"find", directory.string(), "-printf", "%P\\t%y " + columns + "\\n"}));
  for (std::string line; std::getline(list, line);) {
    const std::string path = line.substr(0, line.find('\t'));
    std::string what = line.substr(line.find('\t') + 1);
    if (what.starts_with("f"))
      what += " " + sha256_of(directory / path);
    tree[device + ":/" + path] = what;
  }
  // "# file: PATH", then what it has; nothing is printed of files without attributes.
  std::istringstream labels(
      must_run({"getfattr", "-R", "-h", "-d", "-m", ".", "--absolute-names", directory.string()}));
  std::string path;
  for (std::string line; std::getline(labels, line);) {
    if (line.starts_with("# file: "))
      path = line.substr(8 + directory.string().size());
    else if (!line.empty())
      tree[device + ":" + (path.empty() ? "/" : path)] += " " + line;
  }
}

void add_ext(const fs::path& raw, Range range, const std::string& device, const fs::path& scratch, Tree& tree) {
  const fs::path mounted = scratch / "mounted";
  fs::create_directories(mounted);
  const std::string at = std::to_string(range.offset);
  expect_clean({"e2fsck", "-fn", raw.string() + "?offset=" + at});
  must_run({"mount", "-o", "ro,noload,loop,offset=" + at + ",sizelimit=" + std::to_string(range.length), raw.string(),
            mounted.string()});
  try {
    add_tree(mounted, device, "%m %U:%G %l", tree);
  } catch (...) {
    run_process({"umount", mounted.string()}, std::chrono::seconds(60));
    throw;
  }
  must_run({"umount", mounted.string()});
}

void add_fat(const fs::path& raw, Range range, const std::string& device, const fs::path& scratch, Tree& tree) {
  const fs::path files = scratch / "files", part = scratch / "part.raw";
  must_run({"dd", "if=" + raw.string(), "of=" + part.string(), "iflag=skip_bytes,count_bytes", "bs=1M",
            "skip=" + std::to_string(range.offset), "count=" + std::to_string(range.length), "status=none"});
  expect_clean({"fsck.vfat", "-n", part.string()});
  fs::create_directories(files);
  must_run({"mcopy", "-s", "-n", "-Q", "-i", part.string(), "::/", files.string()});
  add_tree(files, device, "", tree);
  fs::remove_all(files);
  fs::remove(part);
}

} // namespace

std::map<std::string, std::string> tree_of(const fs::path& disk, const fs::path& scratch) {
  const fs::path raw = scratch / "tree.raw";
  fs::remove(raw);
  must_run({"qemu-img", "convert", "-O", "raw", disk.string(), raw.string()});
  Tree tree;
  {
    const auto image = open_image(raw, {.format = "raw", .allowed_directories = {}, .window = {}});
    const BlockStack stack({{image.get(), nullptr, image->info().logical_sector}});
    for (const StackDevice& device : stack.devices()) {
      const bool ext = device.content.type.starts_with("ext"), fat = device.content.type == "vfat";
      if (!ext && !fat)
        continue;
      const bool volume = device.kind == StackDevice::Kind::volume;
      Range range = device.range();
      if (volume) // the test guests' volumes lie in one piece
        dynamic_cast<const MappedImage&>(*device.place.image).walk({0, 1}, [&](const MappedImage::Part& part) {
          range.offset = part.targets.front().offset;
        });
      const std::string name = volume ? device.name : std::to_string(device.partition.number);
      (ext ? add_ext : add_fat)(raw, range, name, scratch, tree);
    }
  }
  fs::remove(raw);
  return tree;
}

} // namespace kvmport::test
