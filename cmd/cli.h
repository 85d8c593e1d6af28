// SPDX-License-Identifier: Apache-2.0
// What every command shares: how work is shown (bar, lines or JSON), how errors end, which signals stop.
// Exit status: 0 done, 1 the command line is wrong, 2 refused or failed, 3 done but not proven.
#pragma once

#include "base/error.h"
#include "base/events.h"

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace kvmport {

enum ExitStatus { exit_done = 0, exit_usage = 1, exit_failed = 2, exit_not_proven = 3 };

/// Options that every command that works for a while has.
struct OutputOptions {
  bool json = false, quiet = false;
};

/// Adds --json and --quiet to `app`.
void add_output_options(CLI::App& app, OutputOptions& output);

/// A sink for `output`: JSON objects, one a line, on stdout; else on stderr a bar when it is a terminal, lines when it
/// is not; quiet: warnings only. Safe from several threads.
std::unique_ptr<EventSink> make_sink(const OutputOptions& output, const std::string& program);

/// The token that SIGINT and SIGTERM set. The second signal ends the process at once. Call before starting threads.
StopToken& stop_on_signals();

/// Text from an image or guest made safe for a terminal: control characters but newline and tab become '?', foreign
/// bytes too.
std::string printable(std::string_view text);

/// Tells an error as `output` wants it.
void print_error(const Error& error, const OutputOptions& output, const std::string& program);

/// Parses the command line (usage errors and --help end here), then runs `body`, whose result is the exit status;
/// Errors and exceptions end as print_error tells. Error USAGE ends with status 1.
int run_command(CLI::App& app, int argc, char** argv, const OutputOptions& output, const std::function<int()>& body);

} // namespace kvmport
