// SPDX-License-Identifier: Apache-2.0
// A guest with Debian's kernel and a root of its own in which this test binary runs, see make-live-guest. Tests of the
// suite LiveInGuest run there alone.
#pragma once

#include "base/process.h"
#include "tests/support/guests.h"
#include "tests/support/tempdir.h"

#include <fstream>
#include <gtest/gtest.h>
#include <string>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

namespace kvmport::test {

namespace fs = std::filesystem;

#define ONLY_IN_GUEST()                                                                                                \
  if (::getenv("KVMPORT_IN_GUEST") == nullptr)                                                                         \
  GTEST_SKIP() << "LiveGuest runs it in a guest"

inline dev_t device_of(const fs::path& path) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0 || !S_ISBLK(st.st_mode))
    throw std::runtime_error(path.string() + " is no block device");
  return st.st_rdev;
}

class LiveGuestBase : public testing::Test {
 protected:
  static constexpr std::uint64_t mib = 1U << 20;
  /// How the guest calls this binary.
  static constexpr const char* program = "exe --gtest_brief=1 --gtest_filter=";

  /// `programs` are there besides what make-live-guest takes anyway.
  void make(const std::vector<std::string>& programs = {}) const {
    std::vector<std::string> argv{"tests/p2v/make-live-guest", dir_.path().string(),
                                  "/proc/" + std::to_string(::getpid()) + "/exe"};
    argv.insert(argv.end(), programs.begin(), programs.end());
    must_run(argv);
  }
  fs::path file(const std::string& name) const { return dir_.path() / name; }
  void make_disk(const std::string& name, const std::string& size) const {
    must_run({"truncate", "-s", size, file(name + ".raw").string()});
  }

  /// What the guest says on its console. Disks: vda, vdb, vdc and what `more` names; vdc holds the commands.
  std::string boot(const std::string& commands, const std::vector<std::string>& more) const {
    std::string padded = commands;
    padded.resize((padded.size() + 65535) / 65536 * 65536, '\0');
    std::ofstream(file("vdc.raw")) << padded;
    std::vector<std::string> argv{"qemu-system-x86_64",
                                  "-nodefaults",
                                  "-no-user-config",
                                  "-display",
                                  "none",
                                  "-m",
                                  "1024",
                                  "-smp",
                                  "2",
                                  "-accel",
                                  "tcg",
                                  "-cpu",
                                  "max",
                                  "-no-reboot",
                                  "-kernel",
                                  file("vmlinuz").string(),
                                  "-initrd",
                                  file("initrd").string(),
                                  "-append",
                                  "console=ttyS0 quiet panic=-1",
                                  "-serial",
                                  "stdio"};
    for (const char* name : {"vda", "vdb", "vdc"})
      argv.insert(argv.end(), {"-drive", disk(name)});
    argv.insert(argv.end(), more.begin(), more.end());
    const ProcessResult result = run_process(argv, std::chrono::seconds(900));
    EXPECT_FALSE(result.timed_out);
    EXPECT_NE(result.out.find("guest: done"), std::string::npos) << result.err << result.out;
    std::string text = result.out;
    std::erase(text, '\r');
    return text;
  }
  std::string disk(const std::string& name) const {
    return "if=virtio,format=raw,discard=unmap,cache=unsafe,file=" + file(name + ".raw").string();
  }

  const TempDir dir_;
};

} // namespace kvmport::test
