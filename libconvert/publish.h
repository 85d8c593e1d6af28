// SPDX-License-Identifier: Apache-2.0
// Giving the result its names. Several files can't be renamed at once, so the intent is written first
// (NAME.report.json.intent.partial): a run that is killed between two renames is rolled forward by the next.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace kvmport {

struct Publication {
  std::string source_id; ///< names the source and its settings; a run of other settings does not roll it forward
  std::filesystem::path directory;
  /// Files that stand complete under the first name and get the second (names inside `directory`).
  std::vector<std::pair<std::string, std::string>> renames;
  /// Small files to write: name and content. The report is written last and is `report_name`.
  std::vector<std::pair<std::string, std::string>> texts;
  /// Working files that go when all else is done.
  std::vector<std::string> removes;
  std::string report_name, report;

  /// Everything that has its final name afterwards, the report last.
  std::vector<std::filesystem::path> files() const;
};

/// What has to follow once all names are there (a domain is defined). May be done twice: when it fails, or the run is
/// killed meanwhile, roll_forward() does it again.
using AfterNames = std::function<void(const Publication&)>;

/// Writes the intent, renames, writes the texts, then the report, then does `after`; durable when it returns. Error
/// FILE_EXISTS when a final name is taken and `replace` is not set: then nothing was renamed.
void publish(const Publication& publication, bool replace, const AfterNames& after = {});

/// Completes a publication of the same `source_id` that an earlier run began. Returns the files when there was one,
/// else nothing; the intent of another is forgotten, since its partial files are about to be replaced.
std::vector<std::filesystem::path> roll_forward(const std::filesystem::path& directory, const std::string& report_name,
                                                const std::string& source_id, const AfterNames& after = {});

} // namespace kvmport
