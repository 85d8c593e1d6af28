// SPDX-License-Identifier: Apache-2.0
// SSH host keys and the snakeoil certificate: keys that the clone must make when it boots. Where nothing in the guest
// does that by itself, a unit is added that does, once. Debian's sshd without host keys does not start.
#include "base/ssh_key.h"
#include "libconvert/clone/identity_rules.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <openssl/evp.h>
#include <openssl/sha.h>

namespace kvmport::identity {
namespace {

using linux_guest::split_lines;
using linux_guest::split_words;

constexpr const char* ssh_rule = "ssh-host-keys";
constexpr const char* key_files = "/etc/ssh/ssh_host_*";
constexpr const char* public_keys = "/etc/ssh/ssh_host_*_key.pub";

/// "SHA256:…" of "TYPE BASE64 comment"; empty when that is no public key.
std::string fingerprint(std::string_view line) {
  const auto words = split_words(line);
  return words.size() < 2 ? std::string() : ssh_fingerprint(words[1].text).value_or("");
}

/// Whether the guest makes missing host keys itself: Red Hat's and Arch's units, SUSE's helper, init scripts that do.
bool makes_host_keys(const GuestInfo& info, const Draft& draft) {
  for (const char* pattern : {"/usr/lib/systemd/system/sshd-keygen*", "/lib/systemd/system/sshd-keygen*",
                              "/usr/lib/systemd/system/sshdgenkeys.service"})
    for (const std::string& path : find_files(info, draft, {pattern}))
      // An empty machine id is no first boot.
      if (const auto unit = read_config(draft, path); unit && unit->find("ConditionFirstBoot") == std::string::npos)
        return true;
  for (const char* path : {"/usr/sbin/sshd-gen-keys-start", "/usr/libexec/ssh/sshd-gen-keys-start"})
    if (draft.exists(path))
      return true;
  if (!has_systemd(draft))
    for (const char* path : {"/etc/init.d/sshd", "/etc/init.d/ssh", "/etc/rc.d/init.d/sshd"})
      if (const auto script = read_config(draft, path); script && script->find("ssh-keygen") != std::string::npos)
        return true;
  return false;
}

void warn_of_other_keys(const GuestInfo& info, Draft& draft) {
  for (const std::string& path : find_files(info, draft, {"/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d/*.conf"}))
    if (const auto text = read_config(draft, path))
      for (const std::string& line : split_lines(*text)) {
        const auto words = split_words(linux_guest::line_body(line));
        if (words.size() > 1 && linux_guest::equal_nocase(words[0].text, "HostKey") &&
            !words[1].text.starts_with("/etc/ssh/ssh_host_"))
          draft.warn("sshd's host key " + std::string(words[1].text) + " (" + path +
                     ") is of a place of its own and was left: the clone has the original's");
      }
  if (!find_files(info, draft,
                  {"/etc/dropbear/*host_key", "/etc/dropbear/initramfs/*host_key", "/etc/dropbear-initramfs/*host_key"})
           .empty())
    draft.warn("Dropbear's host keys in /etc/dropbear were left, as nothing in the guest makes new ones: the clone has "
               "the original's (dropbearkey makes others)");
}

void make_host_keys_at_boot(const GuestInfo& info, const CloneIdentity&, Draft& draft) {
  warn_of_other_keys(info, draft);
  const auto& changes = draft.plan().changes;
  const bool removed = std::ranges::any_of(changes, [](const Change& change) { return change.step == ssh_rule; });
  if (!removed || makes_host_keys(info, draft))
    return;
  if (!has_systemd(draft) || !draft.exists("/usr/bin/ssh-keygen")) {
    draft.warn("nothing in the guest makes new SSH host keys: run ssh-keygen -A in the clone, sshd does not start "
               "without them");
    return;
  }
  add_unit(draft, "kvmport-ssh-host-keys.service",
           "# The clone's own SSH host keys; those of the machine that it was cloned from were removed.\n"
           "[Unit]\n"
           "Description=Make missing SSH host keys\n"
           "Before=ssh.service sshd.service\n"
           "ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key\n"
           "\n"
           "[Service]\n"
           "Type=oneshot\n"
           "ExecStart=/usr/bin/ssh-keygen -A\n"
           "# Who has seen a key must not find an empty file after a loss of power.\n"
           "ExecStart=/bin/sync\n"
           "\n"
           "[Install]\n"
           "WantedBy=multi-user.target\n",
           "multi-user.target", "sshd does not start without host keys, and nothing else in the guest makes them");
}

void report_host_keys(const GuestInfo& info, const Draft& draft, std::vector<IdentityFinding>& found) {
  for (const std::string& path : find_files(info, draft, {key_files})) {
    if (path.ends_with(".pub")) {
      const auto text = read_config(draft, path);
      if (const std::string print = fingerprint(text.value_or("")); !print.empty())
        found.push_back({ssh_rule, path, print});
    } else if (!draft.exists(path + ".pub")) {
      report_digest(ssh_rule, path, draft, found);
    }
  }
}

void make_snakeoil_at_boot(const GuestInfo&, const CloneIdentity&, Draft& draft) {
  const std::string certificate = "/etc/ssl/certs/ssl-cert-snakeoil.pem",
                    key = "/etc/ssl/private/ssl-cert-snakeoil.key";
  if (!draft.exists(key))
    return;
  if (!has_systemd(draft) || !draft.exists("/usr/sbin/make-ssl-cert")) {
    draft.warn("the snakeoil certificate was left, as nothing would make a new one at the next boot");
    return;
  }
  const std::string reason = "the snakeoil certificate and its key would be those of the original";
  draft.remove(certificate, reason);
  draft.remove(key, reason);
  add_unit(draft, "kvmport-snakeoil.service",
           "# The clone's own snakeoil certificate; that of the machine that it was cloned from was removed.\n"
           "[Unit]\n"
           "Description=Make the missing snakeoil certificate\n"
           "DefaultDependencies=no\n"
           "After=local-fs.target systemd-tmpfiles-setup.service\n"
           "Before=basic.target shutdown.target\n"
           "Conflicts=shutdown.target\n"
           "ConditionPathExists=!/etc/ssl/private/ssl-cert-snakeoil.key\n"
           "\n"
           "[Service]\n"
           "Type=oneshot\n"
           "ExecStart=/usr/sbin/make-ssl-cert generate-default-snakeoil --force-overwrite\n"
           "\n"
           "[Install]\n"
           "WantedBy=basic.target\n",
           "basic.target", "services don't start without the certificate that they are set up with");
}

void report_snakeoil(const GuestInfo&, const Draft& draft, std::vector<IdentityFinding>& found) {
  report_digest("snakeoil-certificate", "/etc/ssl/certs/ssl-cert-snakeoil.pem", draft, found);
}

} // namespace

std::map<std::string, std::string> host_key_fingerprints(const GuestInfo& info, const Draft& draft) {
  std::map<std::string, std::string> prints;
  for (const std::string& path : find_files(info, draft, {public_keys})) {
    const std::string text = read_config(draft, path).value_or("");
    if (const std::string print = fingerprint(text); !print.empty())
      prints[std::string(split_words(text).front().text)] = print;
  }
  return prints;
}

std::vector<IdentityRule> ssh_rules() {
  return {
      {.name = ssh_rule,
       .summary = "SSH host keys, by which clients recognise the original; where the guest doesn't make new ones by "
                  "itself (Debian, Ubuntu), a unit is added that does so at the first boot",
       .paths = {key_files},
       .edit = make_host_keys_at_boot,
       .report = report_host_keys},
      {.name = "snakeoil-certificate",
       .summary = "Debian's self-signed certificate and its key, with a unit that makes new ones at the first boot",
       .by_default = false,
       .edit = make_snakeoil_at_boot,
       .report = report_snakeoil},
      {.name = "ssh-user-keys",
       .summary = "users' SSH directories: their own keys, known hosts and who may log in; off, as it may lock out "
                  "everybody",
       .by_default = false,
       .paths = {"/root/.ssh/**", "/home/*/.ssh/**"}},
  };
}

} // namespace kvmport::identity
