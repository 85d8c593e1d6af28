// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/link.h"

#include "libconvert/machine/text.h"
#include "libconvert/p2v/host_keys.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

constexpr int socket_buffer = 1 << 20;

[[noreturn]] void reject(const std::string& text, const std::string& why) {
  throw Error("USAGE", "can't capture to " + printable(text), why,
              "name a directory, or ssh://[USER@]HOST[:PORT]/DIRECTORY");
}

bool has_control_characters(const std::string& text) {
  return std::any_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

/// `text` as one word of a POSIX shell.
std::string shell_quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text)
    quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

/// A directory as the server's shell shall see it: "/~/x" counts from the home directory.
std::string remote_directory(const std::string& directory) {
  if (directory == "/~" || directory.starts_with("/~/"))
    return "\"$HOME\"" + shell_quoted(directory.substr(2));
  return shell_quoted(directory);
}

} // namespace

LinkTarget parse_link_target(const std::string& text) {
  LinkTarget target;
  const std::string scheme = "ssh://";
  if (has_control_characters(text))
    reject(text, "it holds control characters");
  if (!text.starts_with(scheme)) {
    if (text.empty() || text.find("://") != std::string::npos)
      reject(text, "it is neither a directory nor an ssh:// address");
    target.directory = text;
    return target;
  }
  const std::size_t slash = text.find('/', scheme.size());
  if (slash == std::string::npos || slash + 1 == text.size())
    reject(text, "the directory on the server is missing");
  std::string authority = text.substr(scheme.size(), slash - scheme.size());
  target.directory = text.substr(slash);
  if (const std::size_t at = authority.rfind('@'); at != std::string::npos) {
    target.user = authority.substr(0, at);
    authority = authority.substr(at + 1);
    if (target.user.empty())
      reject(text, "the user before the @ is missing");
    if (target.user.find(':') != std::string::npos)
      reject("ssh://…", "a password has no place in an address: ssh asks for it, or use a key");
  }
  const std::size_t bracket = authority.starts_with('[') ? authority.find(']') : 0;
  if (bracket == std::string::npos)
    reject(text, "the bracket of the address is not closed");
  if (const std::size_t colon = authority.find(':', bracket); colon != std::string::npos) {
    const auto port = parse_number(authority.substr(colon + 1));
    if (!port || *port == 0 || *port > 65535)
      reject(text, "the port is no number from 1 to 65535");
    target.port = static_cast<std::uint16_t>(*port);
    authority.resize(colon);
  }
  if (bracket != 0 && (bracket + 1 != authority.size() || authority.find(':') == std::string::npos))
    reject(text, "brackets are for an IPv6 address, with nothing behind but the port");
  target.host = bracket != 0 ? authority.substr(1, bracket - 1) : authority;
  if (target.host.empty())
    reject(text, "the host is missing");
  for (const auto* word : {&target.host, &target.user})
    if (word->starts_with('-') || word->find_first_of(" '\"\\$`") != std::string::npos)
      reject(text, "\"" + *word + "\" is no name of a host or user");
  return target;
}

// --- a connection --------------------------------------------------------------------------------------------------

namespace {

struct Ends {
  UniqueFd ours, theirs;
};

Ends make_ends() {
  auto [ours, theirs] = socket_pair(SOCK_STREAM);
  for (const UniqueFd* fd : {&ours, &theirs})
    ::setsockopt(fd->get(), SOL_SOCKET, SO_SNDBUF, &socket_buffer, sizeof socket_buffer);
  return {std::move(ours), std::move(theirs)};
}

Child start(const std::vector<std::string>& argv, const StopToken& stop, int errors,
            std::unique_ptr<Connection>& connection) {
  Ends in = make_ends(), out = make_ends();
  ::shutdown(in.ours.get(), SHUT_RD);
  ::shutdown(out.ours.get(), SHUT_WR);
  Child child(argv, {{in.theirs.get(), 0}, {out.theirs.get(), 1}, {errors, 2}});
  connection = std::make_unique<Connection>(std::move(out.ours), std::move(in.ours), stop);
  return child;
}

} // namespace

LinkConnection::LinkConnection(const std::vector<std::string>& argv, const StopToken& stop)
    : errors_(::memfd_create("errors", MFD_CLOEXEC)), child_(start(argv, stop, errors_.get(), connection_)) {}

LinkConnection::LinkConnection(UniqueFd in, UniqueFd out, const StopToken& stop)
    : connection_(std::make_unique<Connection>(std::move(in), std::move(out), stop)) {}

std::string LinkConnection::complaints() {
  if (!child_)
    return {};
  child_->wait(std::chrono::milliseconds(300)); // what it says last is said before it ends
  Bytes bytes(4096);
  const std::uint64_t size = file_size(errors_.get());
  bytes.resize(read_some(errors_.get(), size - std::min<std::uint64_t>(size, bytes.size()), bytes, "errors"));
  std::string text(as_text(bytes));
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r'))
    text.pop_back();
  return printable(text, 1000);
}

// --- the way there -------------------------------------------------------------------------------------------------

Link::Link(LinkTarget target, bool interactive) : target_(std::move(target)), interactive_(interactive) {
  if (!target_.host.empty() && !target_.host_key.empty())
    pin_host_key();
}

/// Keys that the server shows are taken only when their fingerprint is the one that was asked for; ssh then checks that
/// the server really has that key.
void Link::pin_host_key() {
  std::string known, seen;
  for (const HostKey& key : scan_host_keys(target_.host, target_.port)) {
    seen += (seen.empty() ? "" : ", ") + key.fingerprint + " (" + printable(key.type, 60) + ")";
    if (key.fingerprint == target_.host_key)
      known += key.line + "\n";
  }
  if (known.empty())
    throw Error("HOST_KEY_MISMATCH", target_.host + " does not have the host key " + printable(target_.host_key),
                "it shows " + seen, "compare with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the server");
  files_.emplace();
  write_file_durably(files_->path() / "known_hosts", known);
}

std::vector<std::string> Link::argv() const {
  if (target_.host.empty())
    return {target_.program.empty() ? "/proc/self/exe" : target_.program, "receive", "--", target_.directory};
  std::vector<std::string> argv{
      "ssh", "-T", "-x", "-a", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3", "-o", "ConnectTimeout=20",
      "-o", "ClearAllForwardings=yes",
      // It would write the server's other keys down, on a filesystem that may be frozen by then.
      "-o", "UpdateHostKeys=no",
      // Faster than the default where the processor has AES, which is nearly everywhere.
      "-o", "Ciphers=^aes128-gcm@openssh.com"};
  if (!interactive_ || opened_)
    argv.insert(argv.end(), {"-o", "BatchMode=yes"});
  if (files_)
    argv.insert(argv.end(), {"-o", "UserKnownHostsFile=" + (files_->path() / "known_hosts").string(), "-o",
                             "GlobalKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=yes"});
  if (target_.port != 0)
    argv.insert(argv.end(), {"-p", std::to_string(target_.port)});
  if (!target_.identity.empty())
    argv.insert(argv.end(), {"-i", target_.identity, "-o", "IdentitiesOnly=yes"});
  if (!target_.user.empty())
    argv.insert(argv.end(), {"-l", target_.user});
  argv.insert(argv.end(), {"--", target_.host,
                           shell_quoted(target_.program.empty() ? "kvm-p2v" : target_.program) + " receive -- " +
                               remote_directory(target_.directory)});
  return argv;
}

std::string Link::description() const {
  return target_.host.empty()
             ? target_.directory
             : (target_.user.empty() ? "" : target_.user + "@") + target_.host + ":" + target_.directory;
}

std::unique_ptr<LinkConnection> Link::open(const StopToken& stop) {
  auto link = std::make_unique<LinkConnection>(argv(), stop);
  opened_ = true;
  return link;
}

} // namespace kvmport
