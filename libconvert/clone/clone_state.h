// SPDX-License-Identifier: Apache-2.0
// What a run of several clones has done so far, in a SQLite file in the output directory: a run that was stopped, or in
// which some clones failed, is repeated for the rest with the same addresses.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

namespace kvmport {

/// Safe from several threads. Errors: STATE_FAILED with SQLite's words.
class CloneRunState {
 public:
  /// Opens or makes `file`. `settings`: what must be the same when a run goes on; another one begins anew.
  CloneRunState(const std::filesystem::path& file, const std::string& settings);
  ~CloneRunState();
  CloneRunState(const CloneRunState&) = delete;
  CloneRunState& operator=(const CloneRunState&) = delete;

  /// Random, kept for the run: addresses come of it.
  std::string seed() const;
  /// The UUID that a clone of this name has been given; nothing for one that is not known.
  std::optional<std::string> uuid(const std::string& name) const;
  bool done(const std::string& name) const;
  void remember_uuid(const std::string& name, const std::string& uuid);
  void remember_done(const std::string& name);
  void remember_failed(const std::string& name, const std::string& error);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

} // namespace kvmport
