// SPDX-License-Identifier: Apache-2.0
// A small guest on real files, its description, and what is expected of its clones; shared by the tests of whole runs.
#pragma once

#include "base/error.h"
#include "libconvert/clone/clone.h"
#include "tests/support/small_system.h"
#include "tests/support/tempdir.h"

#include <functional>
#include <gmock/gmock.h>
#include <string>
#include <vector>

namespace kvmport::test {

class Silent : public EventSink {
 public:
  void stage(std::string_view, std::string_view text) override {
    if (on_stage)
      on_stage(std::string(text));
  }
  void progress(std::string_view name, std::uint64_t done, std::uint64_t) override {
    if (on_progress)
      on_progress(std::string(name), done);
  }
  void message(Level, std::string_view, std::string_view) override {}
  std::function<void(const std::string&)> on_stage;
  std::function<void(const std::string&, std::uint64_t)> on_progress;
};

/// The machine "small": src/small.xml and src/small.disk, an ext4 on a whole disk whose raw bytes are src/disk. Clones
/// go to out/.
class Clone : public testing::Test {
 protected:
  void SetUp() override;

  /// The source's disk in this format, and its description. `more`: in <os>; `devices`: in <devices>.
  void describe(const std::string& format, const std::string& options = "", const std::string& more = "",
                const std::string& devices = "");
  static std::string domain(const std::string& name, const std::string& disk, const std::string& format,
                            const std::string& more = "", const std::string& devices = "");
  std::filesystem::path disk() const { return dir / "src/small.disk"; }
  std::filesystem::path out(const std::string& name = "") const { return dir / "out" / name; }

  CloneOptions options() const;
  CloneResult clone(const CloneOptions& options, const std::vector<CloneRequest>& requests) {
    return clone_guest(options, requests, sink, stop);
  }
  /// The files of a clone's disk by debugfs, without the room's own code.
  std::string guest_file(const std::filesystem::path& image, const std::string& path);
  /// The clone is whole, and differs from its source where it must and nowhere else.
  void expect_own_machine(const std::filesystem::path& image, const std::string& name);
  static std::vector<std::string> names(const std::filesystem::path& directory);
  static std::string code_of(const std::function<void()>& what);

  TempDir temporary;
  std::filesystem::path dir = temporary.path();
  std::string source_digest;
  Silent sink;
  StopToken stop;
};

} // namespace kvmport::test
