// SPDX-License-Identifier: Apache-2.0
#include "libconvert/guest/linux/boot_config.h"

#include "base/error.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <array>
#include <set>

namespace kvmport::linux_guest {

namespace {

bool one_of(std::string_view word, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

// --- lines of each dialect ---------------------------------------------------------------------------------------

/// A line that holds a command line: the arguments begin at `at` and are `length` long.
struct ArgsSpan {
  std::size_t at = 0, length = 0;
  KernelArgs about;
};

/// From word `index` to the end of the line, without trailing blanks (npos length 0 when there is no such word).
ArgsSpan from_word(std::string_view body, const std::vector<Word>& words, std::size_t index) {
  ArgsSpan span;
  span.at = index < words.size() ? words[index].at : body.size();
  span.length = words.empty() || index >= words.size() ? 0 : words.back().at + words.back().text.size() - span.at;
  return span;
}

/// The value of NAME=value or NAME="value" that begins at `from`, quotes left out.
ArgsSpan value_span(std::string_view body, std::size_t from) {
  ArgsSpan span;
  span.at = from;
  if (from < body.size() && (body[from] == '"' || body[from] == '\'')) {
    const std::size_t close = body.find(body[from], from + 1);
    span.at = from + 1;
    span.length = (close == std::string_view::npos ? body.size() : close) - span.at;
  } else {
    const std::size_t end = body.find_first_of(" \t", from);
    span.length = (end == std::string_view::npos ? body.size() : end) - from;
  }
  return span;
}

bool is_grub_linux(std::string_view word) {
  return one_of(word, {"linux", "linux16", "linuxefi", "$linux"});
}

/// Whether the entry that line `at` belongs to also loads an initramfs: looks until the entry ends.
bool entry_has_initrd(const std::vector<std::string>& lines, std::size_t at, BootConfigKind kind) {
  for (std::size_t i = at + 1; i < lines.size(); i++) {
    const auto words = split_words(line_body(lines[i]));
    if (words.empty())
      continue;
    const std::string first = lower(words[0].text);
    if (first.starts_with("initrd") || first.starts_with("$initrd") || first.starts_with("module"))
      return true;
    if (kind == BootConfigKind::grub2 && (first == "}" || first == "menuentry" || is_grub_linux(first)))
      return false;
    if (kind != BootConfigKind::grub2 && one_of(first, {"title", "label", "kernel"}))
      return false;
  }
  return false;
}

/// syslinux may name the initramfs before the command line, or in it.
bool label_has_initrd(const std::vector<std::string>& lines, std::size_t at) {
  std::size_t first = at;
  while (first > 0) {
    const auto words = split_words(line_body(lines[first]));
    if (!words.empty() && lower(words[0].text) == "label")
      break;
    first--;
  }
  for (std::size_t i = first; i < lines.size(); i++) {
    const auto words = split_words(line_body(lines[i]));
    if (words.empty())
      continue;
    const std::string word = lower(words[0].text);
    if (i > first && word == "label")
      return false;
    if (word == "initrd" || (word == "append" && line_body(lines[i]).find("initrd=") != std::string_view::npos))
      return true;
  }
  return false;
}

std::optional<ArgsSpan> grub2_span(const std::vector<std::string>& lines, std::size_t i) {
  const std::string_view body = line_body(lines[i]);
  const auto words = split_words(body);
  if (words.size() < 2)
    return std::nullopt;
  if (is_grub_linux(words[0].text)) {
    ArgsSpan span = from_word(body, words, 2);
    span.about.has_initrd = entry_has_initrd(lines, i, BootConfigKind::grub2);
    return span;
  }
  // Xen: "module2 /vmlinuz placeholder root=… ro"; the next module is the initramfs.
  if (one_of(words[0].text, {"module", "module2"}) && body.find("root=") != std::string_view::npos)
    return from_word(body, words, 2);
  if (words[0].text != "set")
    return std::nullopt;
  const std::size_t equals = body.find('=', words[1].at);
  if (equals == std::string_view::npos)
    return std::nullopt;
  const std::string_view name = body.substr(words[1].at, equals - words[1].at);
  ArgsSpan span = value_span(body, equals + 1);
  const std::string_view value = body.substr(span.at, span.length);
  if (name.find("kernelopts") == std::string_view::npos && value.find("root=") == std::string_view::npos &&
      value.find("resume=") == std::string_view::npos)
    return std::nullopt;
  span.about.where = KernelArgs::Where::variable;
  span.about.name = name;
  return span;
}

std::optional<ArgsSpan> grub_legacy_span(const std::vector<std::string>& lines, std::size_t i) {
  const std::string_view body = line_body(lines[i]);
  const auto words = split_words(body);
  if (words.size() < 2)
    return std::nullopt;
  if (words[0].text == "kernel") {
    std::size_t first = 2; // "kernel [--no-mem-option] [--type=linux] FILE ARGS"
    while (first - 1 < words.size() && words[first - 1].text.starts_with("--"))
      first++;
    ArgsSpan span = from_word(body, words, first);
    span.about.has_initrd = entry_has_initrd(lines, i, BootConfigKind::grub_legacy);
    return span;
  }
  if (words[0].text == "module" && body.find("root=") != std::string_view::npos)
    return from_word(body, words, 2);
  // Debian's update-grub reads settings from comments: "# kopt=root=/dev/sda1 ro".
  if (words[0].text != "#" || !words[1].text.starts_with("kopt"))
    return std::nullopt;
  const std::size_t equals = body.find('=', words[1].at);
  if (equals == std::string_view::npos)
    return std::nullopt;
  ArgsSpan span;
  span.at = equals + 1;
  span.length = body.size() - span.at;
  span.about.where = KernelArgs::Where::variable;
  span.about.name = body.substr(words[1].at, equals - words[1].at);
  return span;
}

std::optional<ArgsSpan> keyword_span(const std::vector<std::string>& lines, std::size_t i, BootConfigKind kind) {
  const std::string_view body = line_body(lines[i]);
  const auto words = split_words(body);
  if (words.empty())
    return std::nullopt;
  const bool syslinux = kind == BootConfigKind::syslinux;
  if (lower(words[0].text) != (syslinux ? "append" : "options"))
    return std::nullopt;
  ArgsSpan span = from_word(body, words, 1);
  if (syslinux)
    span.about.has_initrd = label_has_initrd(lines, i);
  else
    span.about.has_initrd = std::any_of(lines.begin(), lines.end(), [](const std::string& line) {
      return line.starts_with("initrd") || line.find("initrd=") != std::string::npos || line.starts_with("efi") ||
             line.starts_with("uki");
    });
  return span;
}

std::optional<ArgsSpan> refind_span(const std::vector<std::string>& lines, std::size_t i) {
  const std::string_view body = line_body(lines[i]);
  const std::string_view text = trim(body);
  if (text.empty() || text.front() == '#')
    return std::nullopt;
  ArgsSpan span;
  if (text.starts_with("options") || text.starts_with("add_options")) {
    const std::size_t value = body.find_first_not_of(" \t", body.find("options") + 7);
    if (value == std::string_view::npos)
      return std::nullopt;
    return body[value] == '"' ? value_span(body, value) : from_word(body, split_words(body), 1);
  }
  if (text.front() != '"') // refind_linux.conf: "title" "command line"
    return std::nullopt;
  const std::size_t close = body.find('"', body.find('"') + 1);
  const std::size_t open = close == std::string_view::npos ? close : body.find('"', close + 1);
  if (open == std::string_view::npos)
    return std::nullopt;
  return value_span(body, open);
}

bool is_args_variable(std::string_view name) {
  return name.starts_with("GRUB_CMDLINE_") || name.starts_with("EXTLINUX_") || name == "kernelopts" ||
         name == "default_kernel_opts" || name == "root" || name == "xen_opts" || name == "cmdline" ||
         name == "kernel_cmdline";
}

std::optional<ArgsSpan> variable_span(const std::vector<std::string>& lines, std::size_t i) {
  const std::string_view body = line_body(lines[i]);
  std::size_t at = body.find_first_not_of(" \t");
  if (at == std::string_view::npos)
    return std::nullopt;
  if (body.substr(at).starts_with("export "))
    at = body.find_first_not_of(" \t", at + 7);
  const std::size_t equals = at == std::string_view::npos ? at : body.find('=', at);
  if (equals == std::string_view::npos)
    return std::nullopt;
  std::string_view name = body.substr(at, equals - at);
  if (name.ends_with('+'))
    name.remove_suffix(1);
  if (!is_args_variable(name))
    return std::nullopt;
  ArgsSpan span = value_span(body, equals + 1);
  span.about.where = KernelArgs::Where::variable;
  span.about.name = name;
  return span;
}

std::optional<ArgsSpan> cmdline_span(const std::vector<std::string>& lines, std::size_t i) {
  const std::string_view body = line_body(lines[i]);
  const auto words = split_words(body);
  if (words.empty() || words[0].text.starts_with('#'))
    return std::nullopt;
  return from_word(body, words, 0);
}

std::optional<ArgsSpan> args_span(const std::vector<std::string>& lines, std::size_t i, BootConfigKind kind) {
  switch (kind) {
  case BootConfigKind::grub2:
    return grub2_span(lines, i);
  case BootConfigKind::grub_legacy:
    return grub_legacy_span(lines, i);
  case BootConfigKind::loader_entry:
  case BootConfigKind::syslinux:
    return keyword_span(lines, i, kind);
  case BootConfigKind::refind:
    return refind_span(lines, i);
  case BootConfigKind::shell_vars:
    return variable_span(lines, i);
  case BootConfigKind::cmdline_file:
    return cmdline_span(lines, i);
  case BootConfigKind::grub_env:
    break;
  }
  return std::nullopt;
}

// --- grubenv (GRUB manual 2.06, section 17.1: "Environment block") -------------------------------------------------

std::string edit_grubenv(std::string_view text, const ArgsEdit& edit) {
  const std::size_t size = text.size();
  std::string_view used = text;
  while (used.ends_with('#'))
    used.remove_suffix(1);
  std::string out = edit_lines(used, [&](std::string& line, std::size_t number) {
    const std::size_t equals = line.find('=');
    if (equals == std::string::npos || !is_args_variable(line.substr(0, equals)))
      return true;
    KernelArgs about;
    about.where = KernelArgs::Where::variable;
    about.name = line.substr(0, equals);
    about.line = number;
    std::string value = line.substr(equals + 1);
    edit(value, about);
    line.replace(equals + 1, std::string::npos, value);
    return true;
  });
  if (out == used)
    return std::string(text);
  if (out.size() > size)
    throw Error("GUEST_UNSUPPORTED", "the new kernel options do not fit into GRUB's environment block",
                std::to_string(out.size()) + " bytes needed, the block has " + std::to_string(size),
                "shorten kernelopts in the guest's grubenv before the conversion");
  out.append(size - out.size(), '#');
  return out;
}

// --- finding -----------------------------------------------------------------------------------------------------

/// Collects configurations once each, however many links lead to them.
class Finder {
 public:
  explicit Finder(const Draft& draft) : draft_(draft) {}

  void file(const std::string& path, BootConfigKind kind) {
    if (draft_.is_directory(path) || !draft_.exists(path))
      return;
    const std::string real = draft_.guest().exists(path) ? draft_.guest().realpath(path) : path;
    if (seen_.insert(real).second)
      found.push_back({kind, real});
  }
  void files(const std::string& directory, std::string_view ending, BootConfigKind kind) {
    for (const std::string& name : draft_.list(directory))
      if (name.ends_with(ending))
        file(join_path(directory, name), kind);
  }

  std::vector<BootConfig> found;

 private:
  const Draft& draft_;
  std::set<std::string> seen_;
};

void find_in_grub_directory(Finder& finder, const std::string& directory) {
  finder.files(directory, ".cfg", BootConfigKind::grub2);
  finder.file(directory + "/grubenv", BootConfigKind::grub_env);
  finder.file(directory + "/menu.lst", BootConfigKind::grub_legacy);
  finder.file(directory + "/grub.conf", BootConfigKind::grub_legacy);
}

void find_on_esp(Finder& finder, const Draft& draft, const std::string& esp) {
  const std::string efi = find_nocase(draft, esp, "EFI");
  if (efi.empty())
    return;
  for (const std::string& vendor : draft.list(efi)) {
    const std::string directory = join_path(efi, vendor);
    const bool refind = equal_nocase(vendor, "refind"), syslinux = equal_nocase(vendor, "syslinux");
    for (const std::string& name : draft.list(directory)) {
      const std::string small = lower(name), path = join_path(directory, name);
      if (small == "grubenv")
        finder.file(path, BootConfigKind::grub_env);
      else if (small == "grub.conf")
        finder.file(path, BootConfigKind::grub_legacy);
      else if (small == "refind.conf")
        finder.file(path, BootConfigKind::refind);
      else if (small.ends_with(".cfg") && !refind)
        finder.file(path, syslinux || small == "syslinux.cfg" ? BootConfigKind::syslinux : BootConfigKind::grub2);
    }
  }
}

} // namespace

std::string find_nocase(const Draft& draft, const std::string& directory, std::string_view relative) {
  std::string path = directory;
  while (!relative.empty()) {
    const std::size_t slash = relative.find('/');
    const std::string_view part = relative.substr(0, slash);
    relative = slash == std::string_view::npos ? std::string_view{} : relative.substr(slash + 1);
    const std::vector<std::string> names = draft.list(path);
    auto hit = std::find(names.begin(), names.end(), part);
    if (hit == names.end())
      hit = std::find_if(names.begin(), names.end(), [&](const std::string& n) { return equal_nocase(n, part); });
    if (hit == names.end())
      return {};
    path = join_path(path, *hit);
  }
  return path;
}

std::vector<std::string> esp_directories(const GuestInfo& info, const Draft& draft) {
  std::vector<std::string> found;
  std::set<std::string> seen;
  for (const std::string& path : {info.esp_path, std::string("/boot/efi"), std::string("/efi"), std::string("/boot")}) {
    if (path.empty() || !draft.is_directory(path))
      continue;
    // "/boot/efi" is a mount point, not the EFI directory of an ESP at /boot.
    const bool plain = path == "/boot" && path != info.esp_path;
    if (plain ? !draft.is_directory("/boot/EFI") : find_nocase(draft, path, "EFI").empty())
      continue;
    if (seen.insert(draft.guest().realpath(path)).second)
      found.push_back(path);
  }
  return found;
}

std::vector<BootConfig> find_boot_configs(const GuestInfo& info, const Draft& draft) {
  Finder finder(draft);
  const std::vector<std::string> esps = esp_directories(info, draft);
  std::vector<std::string> tops{"/boot", "/"};
  tops.insert(tops.end(), esps.begin(), esps.end());
  for (const std::string& top : tops) {
    for (std::string_view name : {"grub", "grub2"})
      find_in_grub_directory(finder, join_path(top, name));
    for (std::string_view name : {"extlinux", "syslinux"})
      for (std::string_view ending : {".conf", ".cfg"})
        finder.files(join_path(top, name), ending, BootConfigKind::syslinux);
    for (std::string_view name : {"extlinux.conf", "syslinux.cfg"})
      finder.file(join_path(top, name), BootConfigKind::syslinux);
    finder.files(join_path(top, "loader/entries"), ".conf", BootConfigKind::loader_entry);
    finder.file(join_path(top, "refind_linux.conf"), BootConfigKind::refind);
  }
  for (const std::string& esp : esps)
    find_on_esp(finder, draft, esp);
  return finder.found;
}

std::vector<BootConfig> find_cmdline_sources(const Draft& draft) {
  Finder finder(draft);
  finder.file("/etc/default/grub", BootConfigKind::shell_vars);
  finder.files("/etc/default/grub.d", ".cfg", BootConfigKind::shell_vars);
  finder.file("/etc/sysconfig/grub", BootConfigKind::shell_vars);
  finder.file("/etc/default/extlinux", BootConfigKind::shell_vars);
  finder.file("/etc/update-extlinux.conf", BootConfigKind::shell_vars);
  finder.file("/etc/dracut.conf", BootConfigKind::shell_vars);
  finder.files("/etc/dracut.conf.d", ".conf", BootConfigKind::shell_vars);
  finder.files("/etc/grub.d", "_custom", BootConfigKind::grub2);
  finder.file("/etc/kernel/cmdline", BootConfigKind::cmdline_file);
  finder.files("/etc/kernel/cmdline.d", ".conf", BootConfigKind::cmdline_file);
  finder.files("/etc/cmdline.d", ".conf", BootConfigKind::cmdline_file);
  return finder.found;
}

std::string boot_config_places() {
  return "grub.cfg, menu.lst and grub.conf in /boot/grub, /boot/grub2 and EFI/*; loader/entries/*.conf and "
         "EFI/Linux/*.efi "
         "on /boot and the EFI system partition; extlinux.conf and syslinux.cfg; refind_linux.conf";
}

std::vector<std::string> find_unified_kernels(const GuestInfo& info, const Draft& draft) {
  std::vector<std::string> found;
  for (const std::string& esp : esp_directories(info, draft)) {
    const std::string directory = find_nocase(draft, esp, "EFI/Linux");
    if (directory.empty())
      continue;
    for (const std::string& name : draft.list(directory))
      if (lower(name).ends_with(".efi"))
        found.push_back(join_path(directory, name));
  }
  return found;
}

std::string edit_kernel_args(BootConfigKind kind, std::string_view text, const ArgsEdit& edit) {
  if (kind == BootConfigKind::grub_env)
    return edit_grubenv(text, edit);
  const std::vector<std::string> lines = split_lines(text);
  std::string out;
  for (std::size_t i = 0; i < lines.size(); i++) {
    const auto span = args_span(lines, i, kind);
    if (!span) {
      out += lines[i];
      continue;
    }
    std::string args = lines[i].substr(span->at, span->length);
    KernelArgs about = span->about;
    about.line = i + 1;
    edit(args, about);
    const std::size_t end = span->at + span->length;
    out.append(lines[i], 0, span->at);
    if (span->length == 0 && !args.empty() && !out.empty() &&
        !one_of(out.substr(out.size() - 1), {" ", "\t", "=", "\"", "'"}))
      out += ' ';
    out.append(args).append(lines[i], end);
  }
  return out;
}

void edit_boot_config(const BootConfig& config, Draft& draft, const std::string& reason, const ArgsEdit& edit) {
  const auto text = draft.try_read(config.path);
  if (!text)
    return;
  std::string after = edit_kernel_args(config.kind, *text, edit);
  if (after != *text)
    draft.write(config.path, after, reason);
}

} // namespace kvmport::linux_guest
