// SPDX-License-Identifier: Apache-2.0
// What all commands share: how they print (progress bar, plain lines, JSON), how errors and signals become exit codes,
// and the options that each of them has. Text that may come from an image is made harmless before it reaches a
// terminal.
#pragma once

#include "base/error.h"
#include "base/events.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <functional>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>

namespace kvmport {

inline constexpr const char* version_text = "0.1.0";

/// Exit codes of every command.
enum ExitCode : int { exit_done = 0, exit_usage = 1, exit_failed = 2, exit_not_proven = 3 };

struct CommonArguments {
  bool json = false, quiet = false;
};

/// Adds --json and --quiet.
void add_common_options(CLI::App& app, CommonArguments& arguments);

/// `text` without anything that could steer a terminal: control characters become \xNN, bytes that are not UTF-8 and
/// characters that change the direction of text become U+FFFD. Newlines stay when `keep_newlines`.
std::string printable(std::string_view text, bool keep_newlines = false);
/// "1.5 GiB".
std::string human_size(std::uint64_t bytes);

/// Prints events. On a terminal: one line a stage and a progress bar on stderr; in a pipe: a line a stage and each 10
/// %; with --json: one object a line on stdout and nothing for people; with --quiet: neither stages nor progress. Safe
/// from several threads.
class Console final : public EventSink {
 public:
  Console(std::string program, const CommonArguments& arguments);
  ~Console() override;

  void stage(std::string_view name, std::string_view text) override;
  void progress(std::string_view name, std::uint64_t done, std::uint64_t total) override;
  void message(Level level, std::string_view code, std::string_view text) override;

  bool json() const { return arguments_.json; }
  /// The outcome: `text` for people or `object` (one line, "event" is "result") for programs, on stdout.
  void result(std::string_view text, nlohmann::json object);
  /// The same with an object that is text already.
  void result(std::string_view text, const std::string& json_line);
  /// "PROGRAM: CODE: summary: why" and the hint, or the event "error".
  void error(const Error& error);

 private:
  struct Meter {
    std::chrono::steady_clock::time_point begin, drawn;
    std::uint64_t first = 0; ///< `done` of the first report: bytes that an earlier run did
    unsigned tenths = 0;     ///< last step that was printed in a pipe
    bool complete = false;
  };

  void draw(std::string_view name, const Meter& meter, std::uint64_t done, std::uint64_t total);
  void clear_bar();
  void emit(const nlohmann::json& object);
  void line(const std::string& text);

  const std::string program_;
  const CommonArguments& arguments_;
  const bool terminal_;
  std::mutex mutex_;
  std::map<std::string, Meter, std::less<>> meters_;
  bool bar_shown_ = false;
};

/// Parses the command line and runs `action`; returns the exit code. SIGINT and SIGTERM set the token; a second one
/// ends the process at once. Errors are printed: code USAGE gives exit_usage, others exit_failed.
int run_program(CLI::App& app, int argc, char** argv, const CommonArguments& arguments,
                const std::function<int(Console&, const StopToken&)>& action);

} // namespace kvmport
