// SPDX-License-Identifier: Apache-2.0
// What people and programs have left behind: none of it identifies the machine to others, all of it tells of the
// original. Off by default but for queued mail, which two machines would send twice. Files that programs expect to
// exist are emptied, not removed, so that owners and modes stay.
#include "libconvert/clone/identity_rules.h"

namespace kvmport::identity {
namespace {

using Action = IdentityRule::Action;

/// Logs by name, not everything below /var/log: some databases keep files there that they can't do without.
std::vector<std::string> log_files() {
  std::vector<std::string> globs;
  for (const char* name : {"*.log",
                           "messages",
                           "syslog",
                           "secure",
                           "maillog",
                           "mail.*",
                           "cron",
                           "spooler",
                           "debug",
                           "dmesg",
                           "boot",
                           "btrfsmaintenance",
                           "faillog",
                           "tallylog",
                           "kern.*",
                           "auth.*",
                           "daemon.*",
                           "user.*",
                           "rpmpkgs",
                           "up2date",
                           "warn",
                           "zypp/*",
                           "YaST2/*",
                           "apt/*.log",
                           "apt/*.log.*",
                           "apt/*.xz",
                           "audit/audit.log*",
                           "anaconda/*",
                           "installer/**",
                           "unattended-upgrades/*",
                           "apache2/*",
                           "httpd/*",
                           "nginx/*",
                           "cups/*",
                           "exim4/*",
                           "samba/*",
                           "sssd/*",
                           "sa/*",
                           "sysstat/*",
                           "chrony/*",
                           "ntpstats/*",
                           "rhsm/*",
                           "tuned/*",
                           "gdm3/*",
                           "gdm/*",
                           "lightdm/*",
                           "squid/*",
                           "ppp/*",
                           "postgresql/*",
                           "dist-upgrade/*",
                           "landscape/*",
                           "insights-client/*",
                           "libvirt/**",
                           "vmware-*",
                           "vboxadd-*",
                           "amazon/ssm/*"})
    globs.push_back(std::string("/var/log/") + name);
  return globs;
}

std::vector<std::string> history_files() {
  std::vector<std::string> globs;
  for (const char* home : {"/root/", "/home/*/"})
    for (const char* name : {".bash_history",
                             ".zsh_history",
                             ".zhistory",
                             ".histfile",
                             ".sh_history",
                             ".ash_history",
                             ".local/share/fish/fish_history",
                             ".config/fish/fish_history",
                             ".python_history",
                             ".node_repl_history",
                             ".psql_history",
                             ".mysql_history",
                             ".mariadb_history",
                             ".sqlite_history",
                             ".rediscli_history",
                             ".mongo_history",
                             ".lesshst",
                             ".viminfo",
                             ".local/state/less/history",
                             ".local/state/python_history",
                             ".local/share/nvim/shada/*",
                             ".wget-hsts"})
      globs.push_back(std::string(home) + name);
  return globs;
}

} // namespace

std::vector<IdentityRule> trace_rules() {
  return {
      {.name = "mail-queue",
       .summary = "mail that waits to be sent: the original sends it",
       .trace = true,
       .paths = {"/var/spool/postfix/incoming/**", "/var/spool/postfix/active/**", "/var/spool/postfix/deferred/**",
                 "/var/spool/postfix/defer/**", "/var/spool/postfix/hold/**", "/var/spool/postfix/maildrop/*",
                 "/var/spool/exim4/input/**", "/var/spool/exim4/msglog/**", "/var/spool/exim/input/**",
                 "/var/spool/mqueue/*", "/var/spool/clientmqueue/*"}},
      {.name = "rotated-logs",
       .summary = "old logs that were rotated away",
       .by_default = false,
       .trace = true,
       .paths = {"/var/log/*.[0-9]", "/var/log/*.[0-9][0-9]", "/var/log/*-20[0-9][0-9]*", "/var/log/*.gz",
                 "/var/log/*.xz", "/var/log/*.zst", "/var/log/*.bz2", "/var/log/*.old", "/var/log/*/*.gz",
                 "/var/log/*/*.xz", "/var/log/*/*.zst"}},
      {.name = "logs",
       .summary = "the logs of the system and of common services",
       .by_default = false,
       .trace = true,
       .action = Action::empty,
       .paths = log_files()},
      {.name = "journal",
       .summary = "systemd's journal, whose folder bears the old machine id",
       .by_default = false,
       .trace = true,
       .paths = {"/var/log/journal/**"}},
      {.name = "login-records",
       .summary = "who logged in, when and from where (wtmp, btmp, lastlog), and process accounting",
       .by_default = false,
       .trace = true,
       .action = Action::empty,
       .paths = {"/var/log/wtmp*", "/var/log/btmp*", "/var/log/lastlog", "/var/lib/wtmpdb/wtmp.db",
                 "/var/lib/lastlog/lastlog2.db", "/var/account/pacct", "/var/log/account/pacct*"}},
      {.name = "histories",
       .summary = "what people typed: histories of shells, databases, editors and pagers",
       .by_default = false,
       .trace = true,
       .paths = history_files()},
      {.name = "mail-spool",
       .summary = "local mailboxes",
       .by_default = false,
       .trace = true,
       .action = Action::empty,
       .paths = {"/var/mail/*", "/var/spool/mail/*"}},
      {.name = "crash-data",
       .summary = "dumps of crashed programs and kernels",
       .by_default = false,
       .trace = true,
       .paths = {"/var/crash/**", "/var/lib/systemd/coredump/*", "/var/lib/apport/coredump/*", "/var/spool/abrt/**",
                 "/var/tmp/abrt/**", "/var/log/dump/**", "/var/lib/systemd/pstore/**"}},
      {.name = "tmp-files",
       .summary = "temporary files",
       .by_default = false,
       .trace = true,
       .paths = {"/tmp/**", "/var/tmp/**"}},
      {.name = "package-caches",
       .summary = "packages that were downloaded",
       .by_default = false,
       .trace = true,
       .paths = {"/var/cache/apt/archives/*.deb", "/var/cache/apt/archives/partial/*", "/var/cache/apt/*.bin",
                 "/var/cache/dnf/**", "/var/cache/libdnf5/**", "/var/cache/yum/**", "/var/cache/zypp/packages/**",
                 "/var/cache/PackageKit/**", "/var/cache/pacman/pkg/*", "/var/cache/apk/*"}},
      {.name = "account-backups",
       .summary = "old copies of the files of users and groups",
       .by_default = false,
       .trace = true,
       .paths = {"/etc/passwd-", "/etc/shadow-", "/etc/group-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-"}},
  };
}

} // namespace kvmport::identity
