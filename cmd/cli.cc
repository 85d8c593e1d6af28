// SPDX-License-Identifier: Apache-2.0
#include "cmd/cli.h"

#include <algorithm>
#include <cmath>
#include <csignal>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

namespace kvmport {
namespace {

using Clock = std::chrono::steady_clock;

/// A decoded character and the bytes that it took; value -1 for bytes that are not UTF-8.
struct Character {
  long value = -1;
  std::size_t length = 1;
};

Character decode(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80)
    return {lead, 1};
  const std::size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < length)
    return {};
  long value = lead & (0x7f >> length);
  for (std::size_t i = 1; i < length; i++) {
    if ((byte(i) & 0xc0) != 0x80)
      return {};
    value = value << 6 | (byte(i) & 0x3f);
  }
  const long least[] = {0, 0, 0x80, 0x800, 0x10000};
  if (value < least[length] || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff))
    return {};
  return {value, length};
}

bool is_control(long c) {
  return c < 0x20 || (c >= 0x7f && c < 0xa0);
}

bool steers_text(long c) {
  return c == 0x061c || (c >= 0x200e && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

unsigned terminal_width() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col : 80;
}

std::string duration(double seconds) {
  const auto whole = static_cast<unsigned long>(std::lround(seconds));
  return whole < 3600 ? fmt::format("{}:{:02}", whole / 60, whole % 60)
                      : fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

/// The token that a signal sets: a handler has no other way to reach it.
std::atomic<StopToken*>& signalled() {
  static std::atomic<StopToken*> token{nullptr};
  return token;
}

void on_signal(int) {
  if (StopToken* token = signalled().load())
    token->request();
}

/// Lets SIGINT and SIGTERM set `token` as long as it lives. The second signal has its usual effect.
class SignalScope {
 public:
  explicit SignalScope(StopToken& token) {
    signalled() = &token;
    struct sigaction action {};
    action.sa_handler = on_signal;
    action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
    for (const int number : {SIGINT, SIGTERM})
      ::sigaction(number, &action, nullptr);
    ::signal(SIGPIPE, SIG_IGN); // a write to a closed pipe is an error of that write
  }
  SignalScope(const SignalScope&) = delete;
  SignalScope& operator=(const SignalScope&) = delete;
  ~SignalScope() {
    for (const int number : {SIGINT, SIGTERM})
      ::signal(number, SIG_DFL);
    signalled() = nullptr;
  }
};

} // namespace

void add_common_options(CLI::App& app, CommonArguments& arguments) {
  app.add_flag("--json", arguments.json, "Print events as JSON, one object a line, on stdout");
  app.add_flag("--quiet", arguments.quiet, "Print only errors and the outcome");
}

std::string printable(std::string_view text, bool keep_newlines) {
  std::string out;
  while (!text.empty()) {
    const Character c = decode(text);
    if (c.value == '\n' && keep_newlines)
      out += '\n';
    else if (c.value < 0 || steers_text(c.value))
      out += "\xef\xbf\xbd";
    else if (is_control(c.value))
      out += fmt::format("\\x{:02x}", c.value);
    else
      out += text.substr(0, c.length);
    text.remove_prefix(c.length);
  }
  return out;
}

std::string human_size(std::uint64_t bytes) {
  const char* const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < std::size(units); unit++)
    value /= 1024;
  return unit == 0 ? fmt::format("{} bytes", bytes) : fmt::format("{:.1f} {}", value, units[unit]);
}

Console::Console(std::string program, const CommonArguments& arguments)
    : program_(std::move(program)), arguments_(arguments), terminal_(::isatty(STDERR_FILENO) == 1) {}

Console::~Console() {
  const std::lock_guard lock(mutex_);
  clear_bar();
}

void Console::clear_bar() {
  if (bar_shown_)
    std::fputs("\r\033[K", stderr);
  bar_shown_ = false;
}

void Console::line(const std::string& text) {
  clear_bar();
  std::fputs((text + "\n").c_str(), stderr);
}

void Console::emit(const nlohmann::json& object) {
  clear_bar();
  std::puts(object.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace).c_str());
  std::fflush(stdout);
}

void Console::stage(std::string_view name, std::string_view text) {
  const std::lock_guard lock(mutex_);
  meters_.erase(std::string(name));
  if (arguments_.json)
    emit({{"event", "stage"}, {"stage", name}, {"text", text}});
  else if (!arguments_.quiet)
    line(printable(text));
}

void Console::progress(std::string_view name, std::uint64_t done, std::uint64_t total) {
  const std::lock_guard lock(mutex_);
  const auto now = Clock::now();
  auto found = meters_.find(name);
  const bool first = found == meters_.end();
  if (first)
    found = meters_.emplace(name, Meter{now, {}, done, 0, false}).first;
  Meter& meter = found->second;
  if (meter.complete || (done < total && now - meter.drawn < std::chrono::milliseconds(100)))
    return;
  meter.drawn = now;
  meter.complete = done >= total;
  if (arguments_.json) {
    emit({{"event", "progress"}, {"stage", name}, {"done", done}, {"total", total}});
    return;
  }
  if (arguments_.quiet || total == 0)
    return;
  if (terminal_) {
    draw(name, meter, done, total);
    return;
  }
  const auto tenths =
      static_cast<unsigned>(static_cast<double>(std::min(done, total)) / static_cast<double>(total) * 10);
  if (tenths > meter.tenths)
    line(fmt::format("{}: {} %", printable(name), tenths * 10));
  meter.tenths = std::max(meter.tenths, tenths);
}

void Console::draw(std::string_view name, const Meter& meter, std::uint64_t done, std::uint64_t total) {
  const double part = static_cast<double>(std::min(done, total)) / static_cast<double>(total);
  const double seconds = std::chrono::duration<double>(Clock::now() - meter.begin).count();
  const double rate = seconds > 0.2 ? static_cast<double>(done - std::min(done, meter.first)) / seconds : 0;
  std::string tail = fmt::format(" {:3.0f} %  {}", part * 100, human_size(total));
  if (rate > 0 && done < total)
    tail += fmt::format("  {}/s  {} left", human_size(static_cast<std::uint64_t>(rate)),
                        duration(static_cast<double>(total - done) / rate));
  const std::string head = fmt::format("{:8} ", printable(name));
  const std::size_t width = terminal_width() - 1, used = head.size() + tail.size() + 2;
  std::string bar;
  if (width > used + 5) {
    const std::size_t cells = std::min<std::size_t>(width - used, 40);
    const auto full = static_cast<std::size_t>(part * static_cast<double>(cells));
    bar = "[" + std::string(full, '#') + std::string(cells - full, '.') + "]";
  }
  std::fputs(("\r\033[K" + (head + bar + tail).substr(0, width)).c_str(), stderr);
  std::fflush(stderr);
  bar_shown_ = true;
  if (meter.complete)
    clear_bar();
}

void Console::message(Level level, std::string_view code, std::string_view text) {
  const std::lock_guard lock(mutex_);
  if (arguments_.json)
    emit({{"event", "message"},
          {"level", level == Level::warning ? "warning" : "info"},
          {"code", code},
          {"text", text}});
  else if (!arguments_.quiet)
    line((level == Level::warning ? "warning: " : "") + printable(code.empty() ? "" : std::string(code) + ": ") +
         printable(text));
}

void Console::result(std::string_view text, nlohmann::json object) {
  object["event"] = "result";
  result(text, object.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace));
}

void Console::result(std::string_view text, const std::string& json_line) {
  const std::lock_guard lock(mutex_);
  clear_bar();
  if (arguments_.json)
    std::puts(json_line.c_str());
  else
    std::fputs(printable(text, true).c_str(), stdout);
  std::fflush(stdout);
}

void Console::error(const Error& error) {
  const std::lock_guard lock(mutex_);
  if (arguments_.json) {
    emit({{"event", "error"},
          {"code", error.code()},
          {"summary", error.summary()},
          {"why", error.why()},
          {"hint", error.hint()}});
  }
  std::string text = program_ + ": " + error.code() + ": " + printable(error.summary());
  if (!error.why().empty())
    text += ": " + printable(error.why());
  if (!error.hint().empty())
    text += "\n  " + printable(error.hint());
  line(text);
}

namespace {

/// A disk in 2 GiB extents has a file each, and the usual soft limit of 1024 files is reached at 2 TiB.
void allow_many_open_files() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
}

} // namespace

int run_program(CLI::App& app, int argc, char** argv, const CommonArguments& arguments,
                const std::function<int(Console&, const StopToken&)>& action) {
  app.set_version_flag("--version", app.get_name() + " " + version_text);
  Console console(app.get_name(), arguments);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) // --help, --version
      return app.exit(e);
    console.error(Error("USAGE", e.what(), {}, app.get_name() + " --help says how to call it"));
    return exit_usage;
  }
  allow_many_open_files();
  StopToken stop;
  const SignalScope signals(stop);
  try {
    return action(console, stop);
  } catch (const Error& e) {
    console.error(e);
    return e.code() == "USAGE" ? exit_usage : exit_failed;
  } catch (const std::bad_alloc&) {
    console.error(Error("OUT_OF_MEMORY", "there is not enough memory"));
  } catch (const std::exception& e) {
    console.error(Error("INTERNAL", "an unexpected error", e.what()));
  }
  return exit_failed;
}

} // namespace kvmport
