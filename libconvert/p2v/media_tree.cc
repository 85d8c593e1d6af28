// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/media_parts.h"

#include "base/file.h"
#include "base/process.h"
#include "libconvert/p2v/host_programs.h"

#include <fmt/format.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

constexpr const char* init_script =
#include "libconvert/p2v/media_init.inc"
    ;
constexpr const char* udhcpc_script =
#include "libconvert/p2v/media_udhcpc.inc"
    ;

fs::path needed_program(const std::string& name, const char* package) {
  const auto path = find_program(name);
  if (!path)
    throw Error("PROGRAM_MISSING", name + " is not installed", {}, std::string("install ") + package);
  return *path;
}

void add_programs(InitramfsTreeWriter& tree, const fs::path& agent) {
  for (const char* folder : {"bin", "sbin", "lib", "lib64"}) {
    tree.directory(std::string("usr/") + folder);
    tree.symlink(folder, std::string("usr/") + folder);
  }
  const fs::path busybox = needed_program("busybox", "busybox-static");
  if (!libraries_of(busybox).empty())
    throw Error("PROGRAM_MISSING", busybox.string() + " is not the static one", {}, "install busybox-static");
  tree.copy("usr/bin/busybox", busybox, 0755);
  add_program(tree, needed_program("kmod", "kmod"), "kmod");
  // busybox has a modprobe as well, which reads all indexes for each call.
  for (const char* name : {"modprobe", "insmod", "rmmod", "lsmod", "modinfo"})
    tree.symlink(std::string("usr/sbin/") + name, "../bin/kmod");
  for (const char* name : {"ssh", "ssh-keygen", "ssh-keyscan"})
    add_program(tree, needed_program(name, "openssh-client"), name);
  add_program(tree, fs::canonical(agent), "kvm-p2v");
  // Loaded by name: users and host names. Since glibc 2.34 the C library has them in itself.
  for (const char* name : {"libnss_files.so.2", "libnss_dns.so.2"})
    add_library_if_there(tree, fs::path("/lib/x86_64-linux-gnu") / name);
}

void add_settings(InitramfsTreeWriter& tree) {
  tree.file("init", init_script, 0755);
  tree.file("usr/share/kvmport/udhcpc", udhcpc_script, 0755);
  tree.file("etc/mdev.conf", "$MODALIAS=.* 0:0 660 @modprobe -bq \"$MODALIAS\"\n");
  tree.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
  tree.file("etc/group", "root:x:0:\n");
  tree.file("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n");
  tree.file("etc/hosts", "127.0.0.1 localhost p2v\n::1 localhost\n");
  tree.file("etc/resolv.conf", "");
  // Long silent phases of a conversion must not look like a dead link.
  tree.file("root/.ssh/config", "Host *\n  ServerAliveInterval 15\n  ServerAliveCountMax 4\n", 0600);
  tree.directory("root", 0700);
  tree.directory("root/.ssh", 0700);
  for (const char* folder : {"dev", "proc", "sys", "run", "mnt"})
    tree.directory(folder);
  tree.directory("tmp", 01777);
  for (const char* terminal : {"l/linux", "v/vt100", "v/vt220", "x/xterm"})
    for (const char* base : {"/lib/terminfo", "/usr/share/terminfo"})
      if (fs::exists(fs::path(base) / terminal))
        tree.copy(std::string("usr/lib/terminfo/") + terminal, fs::path(base) / terminal);
}

void add_identity(InitramfsTreeWriter& tree, const fs::path& key) {
  // Without a passphrase, its public half can be had without asking.
  const ProcessResult r =
      run_process({needed_program("ssh-keygen", "openssh-client"), "-y", "-P", "", "-f", key}, std::chrono::minutes(1));
  if (r.exit_code != 0)
    throw Error("IDENTITY_INVALID", key.string() + ": no private key that can be used without a passphrase",
                r.err.substr(0, 300), "make one for this medium alone: ssh-keygen -t ed25519 -N '' -f FILE");
  tree.file(medium_identity.substr(1), read_file(key, 64U << 10), 0600);
}

void add_modules(InitramfsTreeWriter& tree, const MediaOptions& options, const MediumKernel& kernel,
                 MediaResult& result) {
  const MediumModules modules = choose_medium_modules(kernel);
  const std::string base = "usr/lib/modules/" + kernel.version + "/";
  std::set<std::string> firmware;
  for (const auto& [name, path] : modules.chosen) {
    tree.copy(base + path, kernel.modules / path);
    firmware.merge(firmware_of_module(read_file(kernel.modules / path, 256U << 20)));
  }
  for (const auto& [name, content] : modules.indexes)
    tree.file(base + name, content);
  for (const char* name : {"modules.order", "modules.builtin", "modules.builtin.bin", "modules.builtin.alias.bin",
                           "modules.builtin.modinfo"})
    if (fs::exists(kernel.modules / name))
      tree.copy(base + name, kernel.modules / name);
  for (const auto& name : firmware) {
    if (fs::is_regular_file(options.firmware / name)) {
      tree.copy("usr/lib/firmware/" + name, options.firmware / name);
      ++result.firmware_files;
    } else {
      result.missing_firmware.push_back(name);
    }
  }
  result.modules = modules.chosen.size();
}

} // namespace

void fill_medium_tree(InitramfsTreeWriter& tree, const MediaOptions& options, const MediumKernel& kernel,
                      MediaResult& result) {
  add_programs(tree, options.agent);
  add_settings(tree);
  add_modules(tree, options, kernel, result);
  if (!options.identity.empty())
    add_identity(tree, options.identity);
}

} // namespace kvmport
