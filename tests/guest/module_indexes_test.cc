// SPDX-License-Identifier: Apache-2.0
// Indexes that are cut from those of the host's kernel, byte for byte against what depmod makes of the same modules.
#include "libconvert/guest/linux/module_indexes.h"
#include "libconvert/guest/linux/modules.h"
#include "libconvert/guest/linux/text.h"
#include "tests/support/tempdir.h"

#include <algorithm>
#include <filesystem>
#include <gmock/gmock.h>
#include <set>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

using linux_guest::cut_module_indexes;
using linux_guest::IndexValue;
using linux_guest::module_name;
using linux_guest::write_kmod_index;

/// Every line of modules.dep as its words in alphabetical order; the lines stay in theirs.
std::vector<std::vector<std::string>> sorted_words(const std::string& text) {
  std::vector<std::vector<std::string>> lines;
  for (const auto& line : linux_guest::split_lines(text)) {
    auto& words = lines.emplace_back();
    for (const auto& word : linux_guest::split_words(linux_guest::line_body(line)))
      words.emplace_back(word.text);
    std::ranges::sort(words);
  }
  return lines;
}

class ModuleIndexes : public testing::Test {
 protected:
  void SetUp() override {
    std::error_code none;
    for (const auto& entry : fs::directory_iterator("/lib/modules", none))
      if (fs::exists(entry.path() / "modules.dep") && fs::exists(entry.path() / "kernel"))
        modules_ = entry.path();
    if (modules_.empty())
      GTEST_SKIP() << "no kernel modules on this host";
    for (const auto& line : linux_guest::split_lines(*read("modules.dep"))) {
      const auto colon = line.find(':');
      auto& needs = needs_[module_name(line.substr(0, colon))];
      paths_[module_name(line.substr(0, colon))] = line.substr(0, colon);
      for (const auto& word : linux_guest::split_words(linux_guest::line_body(line).substr(colon + 1)))
        needs.insert(module_name(word.text));
    }
  }

  std::optional<std::string> read(const std::string& name) const {
    if (!fs::exists(modules_ / name))
      return std::nullopt;
    return read_file(modules_ / name, 64U << 20);
  }

  /// Every `step`th module with all that it needs.
  std::map<std::string, std::string> choose(std::size_t step) const {
    std::map<std::string, std::string> chosen;
    std::size_t number = 0;
    for (const auto& [name, path] : paths_)
      if (number++ % step == 0) {
        chosen[name] = path;
        for (const auto& need : needs_.at(name))
          chosen[need] = paths_.at(need);
      }
    return chosen;
  }

  fs::path modules_;
  std::map<std::string, std::string> paths_;
  std::map<std::string, std::set<std::string>> needs_;
};

TEST_F(ModuleIndexes, AreWhatDepmodWrites) {
  for (const std::size_t step : {3U, 40U, 5000U}) {
    const auto chosen = choose(step);
    const TempDir stage;
    const fs::path directory = stage.path() / "lib/modules" / modules_.filename();
    for (const auto& [name, path] : chosen) {
      fs::create_directories((directory / path).parent_path());
      fs::copy_file(modules_ / path, directory / path);
    }
    for (const char* list : {"modules.order", "modules.builtin", "modules.builtin.modinfo"})
      fs::copy_file(modules_ / list, directory / list);
    must_run({"depmod", "-b", stage.path().string(), modules_.filename().string()});
    const auto files = cut_module_indexes(chosen, [this](const char* name) { return read(name); });
    ASSERT_TRUE(files) << step;
    EXPECT_THAT(*files, testing::SizeIs(8));
    for (const auto& [name, content] : *files) {
      const std::string by_depmod = read_file(directory / name, 64U << 20);
      if (name == "modules.dep") // what a module needs may stand in any order that respects what that needs
        EXPECT_EQ(sorted_words(content), sorted_words(by_depmod)) << chosen.size() << " modules";
      else if (name == "modules.dep.bin")
        EXPECT_EQ(content.size(), by_depmod.size()) << chosen.size() << " modules";
      else
        EXPECT_TRUE(content == by_depmod) << name << " of " << chosen.size() << " modules";
    }
  }
}

TEST_F(ModuleIndexes, PathsMayDiffer) {
  auto chosen = choose(500);
  for (auto& [name, path] : chosen)
    path = "other/" + name + ".ko";
  const auto files = cut_module_indexes(chosen, [this](const char* name) { return read(name); });
  ASSERT_TRUE(files);
  EXPECT_THAT(files->front().second, testing::Not(testing::HasSubstr("kernel/")));
}

TEST_F(ModuleIndexes, NotEnoughIsSaid) {
  const auto from_host = [this](const char* name) { return read(name); };
  EXPECT_FALSE(cut_module_indexes({{"no_such_module", "kernel/no_such_module.ko"}}, from_host));
  ASSERT_THAT(needs_.at("virtio_net"), testing::Not(testing::IsEmpty()));
  EXPECT_FALSE(cut_module_indexes({{"virtio_net", paths_.at("virtio_net")}}, from_host)) << "what it needs is missing";
  EXPECT_FALSE(cut_module_indexes(choose(500), [&](const char* name) {
    return std::string(name) == "modules.symbols" ? std::nullopt : read(name);
  }));
}

TEST(KmodIndex, RefusesWhatItCannotHold) {
  EXPECT_TRUE(write_kmod_index({}));
  EXPECT_FALSE(write_kmod_index({{"\xc3\xa4", IndexValue{"module", 0}}}));
}

} // namespace
} // namespace kvmport::test
