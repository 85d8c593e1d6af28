// SPDX-License-Identifier: Apache-2.0
// The serial console: for good when the user asks for it, and on the boot proof's throw-away overlay, where the entries
// also lose what hides messages and menus lose their waiting time.
#include "libconvert/guest/linux/boot_config.h"
#include "libconvert/guest/linux/steps.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <charconv>

namespace kvmport::linux_guest {

namespace {

std::string serial_port(const GuestInfo& info) {
  return info.arch == "aarch64" ? "ttyAMA0" : "ttyS0";
}

bool is_word_of(std::string_view word, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

/// Words that hide messages.
bool is_quieting(std::string_view word) {
  return is_word_of(word, {"quiet", "splash", "rhgb", "splash=silent", "splash=verbose"}) ||
         word.starts_with("vt.handoff=") || word.starts_with("loglevel=");
}

/// `args` without the words that `drop` picks, each with one blank beside it.
std::string without_words(std::string_view args, const std::function<bool(std::string_view)>& drop) {
  std::string out;
  std::size_t copied = 0;
  for (const Word& word : split_words(args)) {
    if (!drop(word.text))
      continue;
    out.append(args.substr(copied, word.at - copied));
    copied = word.at + word.text.size();
    if (copied < args.size())
      copied++;
    else if (out.ends_with(' '))
      out.pop_back();
  }
  return out.append(args.substr(copied));
}

/// The command line with console=tty0 and, last, the serial port: /dev/console is the last one, and systemd starts a
/// login there. `loud` also drops what hides messages.
std::string with_serial(std::string_view args, const std::string& port, bool loud) {
  std::string out = without_words(args, [&](std::string_view word) {
    return word == "console=" + port || word.starts_with("console=" + port + ",") || (loud && is_quieting(word));
  });
  const auto words = split_words(out);
  const bool has_screen =
      std::any_of(words.begin(), words.end(), [](const Word& word) { return word.text == "console=tty0"; });
  const auto add = [&](const std::string& word) { out += (out.empty() || out.ends_with(' ') ? "" : " ") + word; };
  if (!has_screen)
    add("console=tty0");
  add("console=" + port + ",115200n8");
  return out;
}

bool ends_with_serial(std::string_view args, const std::string& port) {
  const auto words = split_words(args);
  const auto last =
      std::find_if(words.rbegin(), words.rend(), [](const Word& word) { return word.text.starts_with("console="); });
  return last != words.rend() && (last->text == "console=" + port || last->text.starts_with("console=" + port + ","));
}

// --- menus without waiting -----------------------------------------------------------------------------------------

bool waits(std::string_view number, int most) {
  const std::string text = unquote(trim(number));
  int value = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), value).ec != std::errc{})
    return false;
  return value < 0 || value > most;
}

/// GRUB 2: "set timeout=5" → 1; output stays on the text screen, where it can be read.
void hurry_grub2(std::string& line) {
  const auto words = split_words(line);
  if (words.size() >= 2 && words[0].text == "set" && words[1].text.starts_with("timeout=") &&
      (waits(words[1].text.substr(8), 1) || words[1].text.find("${") != std::string_view::npos))
    line.replace(words[1].at, words[1].text.size(), "timeout=1");
  else if (words.size() == 2 && words[0].text == "terminal_output" && words[1].text == "gfxterm")
    line.replace(words[1].at, words[1].text.size(), "console");
}

/// "timeout 5", "timeout=5", "timeout menu-force", "TIMEOUT 50".
void hurry_keyword(std::string& line, int most) {
  const std::size_t at = line.find_first_not_of(" \t");
  if (at == std::string::npos || !starts_with_nocase(std::string_view(line).substr(at), "timeout"))
    return;
  const std::size_t value = line.find_first_not_of(" \t=", at + 7);
  if (value == std::string::npos || value == at + 7)
    return;
  if (waits(std::string_view(line).substr(value), most) || line.compare(value, 5, "menu-") == 0)
    line.replace(value, std::string::npos, std::to_string(most));
}

std::string hurry_syslinux(std::string text) {
  bool prompts = false, has_timeout = false;
  text = edit_lines(text, [&](std::string& line, std::size_t) {
    const auto words = split_words(line);
    if (words.empty())
      return true;
    const std::string key = lower(words[0].text);
    prompts = prompts || key == "ui" || (key == "prompt" && words.size() > 1 && words[1].text != "0");
    if (key == "timeout" && words.size() > 1) {
      has_timeout = true;
      if (words[1].text == "0") // waits for ever
        line.replace(words[1].at, words[1].text.size(), "10");
      else
        hurry_keyword(line, 10); // tenths of a second
    }
    return true;
  });
  if (prompts && !has_timeout)
    text = "TIMEOUT 10\n" + text;
  return text;
}

std::string hurry(BootConfigKind kind, const std::string& text) {
  if (kind == BootConfigKind::syslinux)
    return hurry_syslinux(text);
  return edit_lines(text, [&](std::string& line, std::size_t) {
    if (kind == BootConfigKind::grub2)
      hurry_grub2(line);
    else if (kind == BootConfigKind::grub_legacy || kind == BootConfigKind::refind)
      hurry_keyword(line, 1);
    return true;
  });
}

/// A loader entry may have no options line at all.
std::string add_missing_options(std::string text) {
  bool has = false, linux_entry = false;
  for (const std::string& line : split_lines(text)) {
    has = has || line.starts_with("options");
    linux_entry = linux_entry || line.starts_with("linux");
  }
  if (has || !linux_entry)
    return text;
  if (!text.ends_with('\n'))
    text += '\n';
  return text + "options \n";
}

// --- init without systemd ------------------------------------------------------------------------------------------

/// A getty on the serial port for sysvinit and busybox init; systemd and upstart-with-console find it by console=.
void add_getty(const std::string& port, Draft& draft, const std::string& reason) {
  const auto text = draft.try_read("/etc/inittab");
  if (!text || draft.lstat("/lib/systemd/systemd") || draft.lstat("/usr/lib/systemd/systemd"))
    return;
  bool busybox = false, sysv = false;
  for (const std::string& line : split_lines(*text)) {
    const std::string_view body = trim(line);
    if (body.starts_with('#'))
      continue;
    if (body.find(port) != std::string_view::npos && body.find("respawn") != std::string_view::npos)
      return;
    busybox = busybox || body.find("::respawn:") != std::string_view::npos;
    sysv = sysv || body.find(":respawn:") != std::string_view::npos;
  }
  if (!busybox && !sysv)
    return;
  std::string getty;
  for (const char* path : {"/sbin/agetty", "/sbin/getty", "/usr/sbin/agetty", "/usr/sbin/getty"})
    if (getty.empty() && draft.lstat(path))
      getty = path;
  if (getty.empty())
    return;
  std::string line = busybox ? port + "::respawn:" : "S0:2345:respawn:";
  line += getty + " -L 115200 " + port + " vt100\n";
  draft.write("/etc/inittab", *text + (text->ends_with('\n') || text->empty() ? "" : "\n") + line, reason);
}

/// upstart starts gettys by one job each.
void add_upstart_getty(const std::string& port, Draft& draft, const std::string& reason) {
  const std::string job = "/etc/init/" + port + ".conf";
  if (!draft.exists("/etc/init/tty1.conf") || draft.exists(job) || draft.exists("/etc/init/serial.conf") ||
      draft.lstat("/lib/systemd/systemd") || draft.lstat("/usr/lib/systemd/systemd"))
    return;
  draft.write(job,
              "start on stopped rc RUNLEVEL=[2345]\nstop on runlevel [!2345]\nrespawn\nexec /sbin/getty -L 115200 " +
                  port + " vt100\n",
              reason);
}

void add_console(const GuestInfo& info, Draft& draft, const BootConfig& config, bool loud, const std::string& reason) {
  const auto text = draft.try_read(config.path);
  if (!text)
    return;
  const std::string port = serial_port(info);
  std::string after = *text;
  if (config.kind == BootConfigKind::loader_entry)
    after = add_missing_options(after);
  // Several "options" lines are joined by the loader: the console goes to the last.
  std::size_t last_options = 0;
  if (config.kind == BootConfigKind::loader_entry)
    edit_kernel_args(config.kind, after,
                     [&](std::string&, const KernelArgs& about) { last_options = std::max(last_options, about.line); });
  after = edit_kernel_args(config.kind, after, [&](std::string& args, const KernelArgs& about) {
    const bool source = config.kind == BootConfigKind::shell_vars || config.kind == BootConfigKind::cmdline_file;
    const bool entry = about.where == KernelArgs::Where::entry || source;
    const bool wanted = entry && (last_options == 0 || about.line == last_options);
    if (wanted && source && config.kind == BootConfigKind::shell_vars && about.name != "GRUB_CMDLINE_LINUX" &&
        about.name != "default_kernel_opts" && about.name != "EXTLINUX_PARAMETERS")
      return;
    const auto words = split_words(args);
    if (ends_with_serial(args, port) &&
        (!loud || std::none_of(words.begin(), words.end(), [](const Word& word) { return is_quieting(word.text); })))
      return;
    if (wanted)
      args = with_serial(args, port, loud);
    else if (loud) // a variable that entries put in: only make it louder
      args = without_words(args, is_quieting);
  });
  if (loud)
    after = hurry(config.kind, after);
  if (after != *text)
    draft.write(config.path, after, reason);
}

void hurry_systemd_boot(const GuestInfo& info, Draft& draft, const std::string& reason) {
  for (const std::string& esp : esp_directories(info, draft)) {
    const std::string path = find_nocase(draft, esp, "loader/loader.conf");
    const auto text = path.empty() ? std::nullopt : draft.try_read(path);
    if (!text)
      continue;
    const std::string after = edit_lines(*text, [](std::string& line, std::size_t) {
      if (line.starts_with("timeout"))
        hurry_keyword(line, 1);
      return true;
    });
    if (after != *text)
      draft.write(path, after, reason);
  }
}

/// Where root may log in: without the port there, a password is never accepted on it.
void allow_root_login(const std::string& port, Draft& draft, const std::string& reason) {
  const auto text = draft.try_read("/etc/securetty");
  if (!text)
    return;
  for (const std::string& line : split_lines(*text))
    if (trim(line) == port)
      return;
  draft.write("/etc/securetty", *text + (text->ends_with('\n') || text->empty() ? "" : "\n") + port + "\n", reason);
}

} // namespace

void serial_console_step(const GuestInfo& info, Draft& draft) {
  const std::string reason = "a serial console was asked for";
  std::vector<BootConfig> configs = find_boot_configs(info, draft);
  for (const BootConfig& config : find_cmdline_sources(draft))
    configs.push_back(config);
  for (const BootConfig& config : configs)
    add_console(info, draft, config, false, reason);
  add_getty(serial_port(info), draft, reason);
  add_upstart_getty(serial_port(info), draft, reason);
  allow_root_login(serial_port(info), draft, reason);
}

void instrument_step(const GuestInfo& info, Draft& draft) {
  const std::string reason = "boot proof only: messages and login on the serial port, no waiting in menus";
  for (const BootConfig& config : find_boot_configs(info, draft))
    add_console(info, draft, config, true, reason);
  hurry_systemd_boot(info, draft, reason);
  add_getty(serial_port(info), draft, reason);
  add_upstart_getty(serial_port(info), draft, reason);
  if (!find_unified_kernels(info, draft).empty())
    draft.note("unified kernel images carry their own command line: the boot proof reads the screen for them");
}

} // namespace kvmport::linux_guest
