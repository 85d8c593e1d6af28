// SPDX-License-Identifier: Apache-2.0
#include "cmd/cli.h"

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <fmt/format.h>
#include <iostream>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <unistd.h>

namespace kvmport {
namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;

constexpr const char* version = "0.1.0";

StopToken stop_token;

extern "C" void on_signal(int number) {
  if (stop_token.requested()) {
    std::signal(number, SIG_DFL);
    std::raise(number);
  }
  stop_token.request();
}

std::string dump(const json& j) {
  return j.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string human_bytes(double bytes) {
  const char* unit = "B";
  for (const char* next : {"KiB", "MiB", "GiB", "TiB"}) {
    if (bytes < 1024)
      break;
    bytes /= 1024;
    unit = next;
  }
  return fmt::format("{:.{}f} {}", bytes, bytes < 10 && *unit != 'B' ? 1 : 0, unit);
}

std::string human_time(double seconds) {
  const auto s = static_cast<long>(seconds + 0.5);
  return s < 60 ? fmt::format("{} s", s) : fmt::format("{}:{:02} min", s / 60, s % 60);
}

/// One JSON object a line on stdout.
class JsonSink final : public EventSink {
 public:
  void stage(std::string_view stage, std::string_view text) override {
    print({{"event", "stage"}, {"stage", stage}, {"text", text}});
  }
  void progress(std::string_view stage, std::uint64_t done, std::uint64_t total) override {
    print({{"event", "progress"}, {"stage", stage}, {"done", done}, {"total", total}});
  }
  void message(Level level, std::string_view code, std::string_view text) override {
    print({{"event", "message"},
           {"level", level == Level::warning ? "warning" : "info"},
           {"code", code},
           {"text", text}});
  }

 private:
  void print(const json& j) {
    const std::string line = dump(j) + "\n";
    const std::lock_guard lock(mutex_);
    std::cout << line << std::flush;
  }
  std::mutex mutex_;
};

/// Stages and messages as lines on stderr; progress as a bar on a terminal, as a line every tenth elsewhere.
class TextSink final : public EventSink {
 public:
  TextSink(std::string program, bool quiet)
      : program_(std::move(program)), quiet_(quiet), terminal_(::isatty(STDERR_FILENO) == 1) {}
  ~TextSink() override { clear_bar(); }

  void stage(std::string_view, std::string_view text) override {
    if (!quiet_)
      line(printable(text));
  }

  void message(Level level, std::string_view, std::string_view text) override {
    if (level == Level::warning)
      line("warning: " + printable(text));
    else if (!quiet_)
      line(printable(text));
  }

  void progress(std::string_view stage, std::uint64_t done, std::uint64_t total) override {
    if (quiet_ || total == 0)
      return;
    const std::lock_guard lock(mutex_);
    Progress& p = stages_[std::string(stage)];
    if (done < p.last)
      p = {};
    p.last = done;
    const unsigned tenth = static_cast<unsigned>(static_cast<double>(done) / static_cast<double>(total) * 10);
    if (terminal_)
      draw(stage, p, done, total);
    else if (tenth > p.tenth)
      std::cerr << program_ << ": " << describe(stage, p, done, total) << "\n";
    p.tenth = tenth;
  }

 private:
  struct Progress {
    Clock::time_point start = Clock::now();
    std::uint64_t last = 0;
    unsigned tenth = 0;
  };

  static std::string describe(std::string_view stage, const Progress& p, std::uint64_t done, std::uint64_t total) {
    const double seconds = std::chrono::duration<double>(Clock::now() - p.start).count();
    const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
    std::string text =
        fmt::format("{} {:3.0f} % of {}", stage, 100 * static_cast<double>(done) / static_cast<double>(total),
                    human_bytes(static_cast<double>(total)));
    if (rate > 0)
      text += fmt::format(", {}/s, {} left", human_bytes(rate), human_time(static_cast<double>(total - done) / rate));
    return text;
  }

  void draw(std::string_view stage, const Progress& p, std::uint64_t done, std::uint64_t total) {
    constexpr int width = 24;
    const int filled = static_cast<int>(static_cast<double>(done) / static_cast<double>(total) * width);
    std::cerr << "\r\x1b[K[" << std::string(filled, '#') << std::string(width - filled, '.') << "] "
              << describe(stage, p, done, total) << std::flush;
    bar_ = true;
  }

  void clear_bar() {
    if (bar_)
      std::cerr << "\r\x1b[K" << std::flush;
    bar_ = false;
  }

  void line(const std::string& text) {
    const std::lock_guard lock(mutex_);
    clear_bar();
    std::cerr << program_ << ": " << text << std::endl;
  }

  std::string program_;
  bool quiet_, terminal_, bar_ = false;
  std::map<std::string, Progress> stages_;
  std::mutex mutex_;
};

} // namespace

void add_output_options(CLI::App& app, OutputOptions& output) {
  app.add_flag("--json", output.json, "Print events and the result as JSON, one object a line");
  app.add_flag("--quiet", output.quiet, "Print warnings, errors and the result only");
}

std::unique_ptr<EventSink> make_sink(const OutputOptions& output, const std::string& program) {
  if (output.json)
    return std::make_unique<JsonSink>();
  return std::make_unique<TextSink>(program, output.quiet);
}

StopToken& stop_on_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  return stop_token;
}

std::string printable(std::string_view text) {
  // Invalid UTF-8 is replaced by the JSON library; then C0 and C1 controls go.
  const std::string valid = json::parse(dump(std::string(text))).get<std::string>();
  std::string out;
  for (std::size_t i = 0; i < valid.size(); i++) {
    const auto c = static_cast<unsigned char>(valid[i]);
    const bool c1 = c == 0xC2 && i + 1 < valid.size() && static_cast<unsigned char>(valid[i + 1]) < 0xA0;
    if (c1)
      i++;
    out += c1 || (c < 0x20 && c != '\n' && c != '\t') || c == 0x7F ? '?' : valid[i];
  }
  return out;
}

void print_error(const Error& error, const OutputOptions& output, const std::string& program) {
  if (output.json) {
    std::cout << dump({{"event", "error"},
                       {"code", error.code()},
                       {"summary", error.summary()},
                       {"why", error.why()},
                       {"hint", error.hint()}})
              << std::endl;
    return;
  }
  std::string text = program + ": " + error.code() + ": " + printable(error.summary());
  if (!error.why().empty())
    text += ": " + printable(error.why());
  if (!error.hint().empty())
    text += "\n  " + printable(error.hint());
  std::cerr << text << std::endl;
}

int run_command(CLI::App& app, int argc, char** argv, const OutputOptions& output, const std::function<int()>& body) {
  app.set_version_flag("--version", app.get_name() + " (kvmport) " + version);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? exit_done : exit_usage;
  }
  try {
    return body();
  } catch (const Error& error) {
    print_error(error, output, app.get_name());
    return error.code() == "USAGE" ? exit_usage : exit_failed;
  } catch (const std::exception& error) {
    print_error(Error("INTERNAL", "an unexpected error", error.what(), "please report it"), output, app.get_name());
    return exit_failed;
  }
}

} // namespace kvmport
