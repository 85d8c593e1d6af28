// SPDX-License-Identifier: Apache-2.0
#include "libconvert/clone/identity_rules.h"

#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <openssl/sha.h>

namespace kvmport::identity {

using linux_guest::split_lines;
using linux_guest::trim;

namespace {

constexpr std::uint64_t config_limit = 1U << 20;

constexpr std::array unit_directories{"/etc/systemd/system/", "/usr/lib/systemd/system/", "/lib/systemd/system/"};

bool is_hex(char c) {
  return std::isxdigit(static_cast<unsigned char>(c)) != 0;
}

} // namespace

std::string sha256_hex(std::string_view bytes) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  ::SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest.data());
  std::string hex;
  for (const unsigned char byte : digest) {
    hex += "0123456789abcdef"[byte >> 4U];
    hex += "0123456789abcdef"[byte & 15U];
  }
  return hex;
}

std::string derived_hex(const CloneIdentity& identity, std::string_view old_value, std::size_t digits) {
  return sha256_hex(identity.seed + '\n' + std::string(old_value)).substr(0, digits);
}

std::string derived_uuid(const CloneIdentity& identity, std::string_view old_uuid) {
  std::string hex = derived_hex(identity, linux_guest::lower(old_uuid), 32);
  hex[12] = '4';
  hex[16] = "89ab"[static_cast<unsigned char>(hex[16]) & 3U];
  for (const std::size_t at : {8U, 13U, 18U, 23U})
    hex.insert(at, 1, '-');
  return hex;
}

std::vector<std::size_t> find_uuids(std::string_view text) {
  constexpr std::string_view form = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
  const auto fits = [&](std::size_t at) {
    for (std::size_t i = 0; i < form.size(); i++)
      if (form[i] == 'x' ? !is_hex(text[at + i]) : text[at + i] != '-')
        return false;
    return (at == 0 || !is_hex(text[at - 1])) && (at + form.size() == text.size() || !is_hex(text[at + form.size()]));
  };
  std::vector<std::size_t> found;
  for (std::size_t at = 0; at + form.size() <= text.size(); at++)
    if (fits(at))
      found.push_back(at);
  return found;
}

void write_discreetly(Draft& draft, const std::string& path, const std::string& content, const std::string& reason,
                      std::uint32_t mode) {
  const std::size_t before = draft.plan().changes.size();
  draft.write(path, content, reason, mode);
  auto& changes = draft.plan().changes;
  if (changes.size() > before && (changes.back().mode & 04U) == 0)
    changes.back().binary = true;
}

void report_digest(const std::string& rule, const std::string& path, const Draft& draft,
                   std::vector<IdentityFinding>& found) {
  const auto content = read_config(draft, path);
  if (content && !content->empty())
    found.push_back({rule, path, "sha256:" + sha256_hex(*content)});
}

std::optional<std::string> read_config(const Draft& draft, const std::string& path) {
  // lstat() of the draft does not follow the last link; a link's own size says nothing about its target.
  const auto st = draft.lstat(path);
  if (!st || st->size > config_limit)
    return std::nullopt;
  if (st->type == FileType::symlink) {
    const auto target = draft.guest().stat(path);
    if (!target || target->size > config_limit)
      return std::nullopt;
  }
  return draft.try_read(path);
}

bool has_systemd(const Draft& draft) {
  return draft.exists("/usr/lib/systemd/systemd") || draft.exists("/lib/systemd/systemd");
}

std::optional<std::string> find_unit(const Draft& draft, const std::string& name) {
  for (const char* directory : unit_directories)
    if (draft.exists(directory + name))
      return directory + name;
  return std::nullopt;
}

void add_unit(Draft& draft, const std::string& name, const std::string& content, const std::string& target,
              const std::string& reason) {
  const std::string path = std::string("/etc/systemd/system/") + name;
  draft.write(path, content, reason);
  draft.symlink(path, "/etc/systemd/system/" + target + ".wants/" + name, reason);
}

std::string configured_hostname(const Draft& draft) {
  std::string name;
  for (const char* path : {"/etc/hostname", "/etc/HOSTNAME"})
    if (const auto text = read_config(draft, path); text && name.empty())
      for (const std::string& line : split_lines(*text))
        if (const std::string_view body = trim(line); name.empty() && !body.empty() && body.front() != '#')
          name = body;
  const std::array<std::pair<const char*, const char*>, 3> keys{{{"/etc/sysconfig/network", "HOSTNAME"},
                                                                 {"/etc/conf.d/hostname", "hostname"},
                                                                 {"/etc/conf.d/hostname", "HOSTNAME"}}};
  for (const auto& [path, key] : keys)
    if (const auto text = read_config(draft, path); text && name.empty())
      name = linux_guest::shell_value(*text, key).value_or("");
  return name == "localhost" || name.starts_with("localhost.") ? std::string() : name;
}

std::string lvm_system_id_source(const Draft& draft) {
  std::string source;
  for (const char* path : {"/etc/lvm/lvm.conf", "/etc/lvm/lvmlocal.conf"})
    if (const auto text = read_config(draft, path))
      for (const std::string& line : split_lines(*text)) {
        const std::string_view body = trim(line);
        const std::size_t equals = body.find('=');
        if (equals == std::string_view::npos || trim(body.substr(0, equals)) != "system_id_source")
          continue;
        std::string_view value = body.substr(equals + 1);
        source = linux_guest::unquote(trim(value.substr(0, value.find('#'))));
      }
  return source == "none" ? std::string() : source;
}

} // namespace kvmport::identity
