// SPDX-License-Identifier: Apache-2.0
#include "libconvert/publish.h"

#include "base/file.h"
#include "libconvert/report.h"

#include <nlohmann/json.hpp>

namespace fs = std::filesystem;
using nlohmann::json;

namespace kvmport {
namespace {

fs::path intent_path(const fs::path& directory, const std::string& report_name) {
  return directory / (report_name + ".intent.partial");
}

json to_json(const Publication& p) {
  return {{"source_id", p.source_id}, {"renames", p.renames},         {"texts", p.texts},
          {"removes", p.removes},     {"report_name", p.report_name}, {"report", p.report}};
}

Publication from_json(const fs::path& directory, const json& j) {
  Publication p;
  p.directory = directory;
  p.source_id = j.at("source_id").get<std::string>();
  p.renames = j.at("renames").get<decltype(p.renames)>();
  p.texts = j.at("texts").get<decltype(p.texts)>();
  p.removes = j.at("removes").get<decltype(p.removes)>();
  p.report_name = j.at("report_name").get<std::string>();
  p.report = j.at("report").get<std::string>();
  return p;
}

/// Renames what still has its partial name, writes the rest. Safe to repeat.
void complete(const Publication& p) {
  for (const auto& [from, to] : p.renames)
    if (fs::exists(p.directory / from))
      fs::rename(p.directory / from, p.directory / to);
    else if (!fs::exists(p.directory / to))
      throw Error("NOT_FOUND", (p.directory / from).string() + " is not there any more", "it was to become " + to,
                  "remove " + intent_path(p.directory, p.report_name).string());
  sync_directory(p.directory);
  for (const auto& [name, content] : p.texts)
    write_file_durably(p.directory / name, content);
  for (const auto& [name, content] : p.texts)
    if (content.starts_with("#!"))
      fs::permissions(p.directory / name, fs::perms::owner_exec | fs::perms::group_exec | fs::perms::others_exec,
                      fs::perm_options::add);
  write_file_durably(p.directory / p.report_name, p.report);
  for (const auto& name : p.removes)
    fs::remove(p.directory / name);
}

} // namespace

std::vector<fs::path> Publication::files() const {
  std::vector<fs::path> all;
  for (const auto& rename : renames)
    all.push_back(directory / rename.second);
  for (const auto& text : texts)
    all.push_back(directory / text.first);
  all.push_back(directory / report_name);
  return all;
}

void publish(const Publication& p, bool replace, const AfterNames& after) {
  if (!replace)
    for (const auto& file : p.files())
      if (fs::exists(file))
        throw Error("FILE_EXISTS", file.string() + " exists already", {},
                    "remove it, name another directory, or use --force");
  const fs::path intent = intent_path(p.directory, p.report_name);
  write_file_durably(intent, to_json(p).dump());
  complete(p);
  if (after)
    after(p);
  fs::remove(intent);
}

std::vector<fs::path> roll_forward(const fs::path& directory, const std::string& report_name,
                                   const std::string& source_id, const AfterNames& after) {
  const fs::path intent = intent_path(directory, report_name);
  if (!fs::exists(intent))
    return {};
  const json j = json::parse(read_file(intent, 256U << 20), nullptr, false);
  if (j.is_discarded() || !j.contains("source_id") || j["source_id"] != source_id) {
    fs::remove(intent);
    return {};
  }
  const Publication p = from_json(directory, j);
  complete(p);
  if (after)
    after(p);
  fs::remove(intent);
  return p.files();
}

} // namespace kvmport
