// SPDX-License-Identifier: Apache-2.0
#include "cmd/accept_command.h"

#include "libconvert/machine/text.h"
#include "libconvert/p2v/enrol.h"
#include "libconvert/p2v/medium_settings.h"

#include <fmt/format.h>
#include <iostream>
#include <pwd.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport {
namespace {

constexpr unsigned most_requests = 50;
constexpr const char* examples = R"(
Examples:
  kvm-p2v accept --dir /srv/p2v
  kvm-p2v accept --dir /srv/p2v --listen 10.0.0.5:7722 --code MZXW6-YTBOI
)";

struct Listen {
  std::string address;
  std::uint16_t port = default_enrol_port;
};

Listen parse_listen(std::string text) {
  Listen l;
  const auto colon = text.rfind(':');
  if (const bool bare_v6 = text.find(':') != colon && !text.starts_with('['); colon != text.npos && !bare_v6) {
    const auto port = parse_number(text.substr(colon + 1));
    if (!port || *port > 65535)
      throw Error("USAGE", "--listen takes ADDRESS:PORT", printable(text, false));
    l.port = static_cast<std::uint16_t>(*port);
    text.resize(colon);
  }
  if (text.starts_with('[') && text.ends_with(']'))
    text = text.substr(1, text.size() - 2);
  l.address = text;
  return l;
}

/// The fingerprints under which this host may be known, ed25519 first: the medium asks for that one.
std::vector<std::string> own_fingerprints(const AcceptArguments& a) {
  std::vector<std::string> out;
  for (const auto& key : a.host_keys) {
    check_host_key(key);
    out.push_back(key);
  }
  for (const char* type : {"ed25519", "ecdsa", "rsa"})
    if (const fs::path file = fmt::format("/etc/ssh/ssh_host_{}_key.pub", type);
        a.host_keys.empty() && fs::exists(file))
      out.push_back(key_fingerprint_of(read_file(file, 16384)));
  if (out.empty())
    throw Error("USAGE", "this host has no host key in /etc/ssh", {}, "name the fingerprint: --host-key SHA256:…");
  return out;
}

fs::path own_authorized_keys() {
  const passwd* user = ::getpwuid(::geteuid());
  if (user == nullptr || user->pw_dir == nullptr)
    throw Error("NOT_FOUND", "the current user has no home directory");
  return fs::path(user->pw_dir) / ".ssh/authorized_keys";
}

/// A person's answer; false without one.
bool asked(const std::string& question) {
  std::fprintf(stderr, "%s [y/N] ", question.c_str());
  std::fflush(stderr);
  std::string answer;
  return std::getline(std::cin, answer) && (answer == "y" || answer == "Y" || answer == "yes");
}

/// Whether this request may come in. One code for each host key; people see the first and how to see the others.
bool agreed(const AcceptArguments& a, const EnrolListener::Caller& caller,
            const std::vector<std::string>& fingerprints) {
  const std::string wanted = normalized_code(a.code);
  std::string shown;
  for (const auto& fingerprint : fingerprints) {
    const std::string code = enrol_code(caller.request.key, fingerprint);
    if (!wanted.empty() && code == wanted)
      return true;
    shown += fmt::format("  {}   for the host key {}\n", code, fingerprint);
  }
  if (!a.code.empty())
    return false;
  std::fprintf(stderr, "%s asks from %s. The code must be one of:\n%s", caller.request.name.c_str(),
               caller.address.c_str(), shown.c_str());
  return asked("Does the medium show the same code?");
}

} // namespace

CLI::App* add_accept_command(CLI::App& app, AcceptArguments& a) {
  CLI::App* c = app.add_subcommand("accept", "Let a boot medium's key in, on the server, after comparing its code");
  c->add_option("--dir", a.directory, "Directory that the medium may capture to")->required();
  c->add_option("--listen", a.listen,
                fmt::format("ADDRESS:PORT (default: every address, port {})", default_enrol_port));
  c->add_option("--code", a.code, "The code that the medium shows, instead of a question");
  c->add_option("--host-key", a.host_keys, "SHA256:…: fingerprint of this server (default: those of /etc/ssh)");
  c->add_option("--authorized-keys", a.authorized_keys, "File that the key is added to (default: the user's own)");
  c->add_option("--timeout", a.timeout, "Seconds to wait")->capture_default_str();
  c->footer(examples);
  return c;
}

int run_accept(const AcceptArguments& a, Console& console, const StopToken& stop) {
  if (!a.code.empty() && normalized_code(a.code).empty())
    throw Error("USAGE", "--code takes the ten characters that the medium shows", printable(a.code, false));
  if (a.code.empty() && (console.json() || ::isatty(STDIN_FILENO) == 0))
    throw Error("USAGE", "nobody can be asked here", {}, "give the code that the medium shows: --code XXXXX-XXXXX");
  const std::string directory = fs::weakly_canonical(a.directory), program = fs::canonical("/proc/self/exe");
  if (!fs::is_directory(directory))
    throw Error("NOT_FOUND", directory + " is no directory");
  const auto fingerprints = own_fingerprints(a);
  const fs::path file = a.authorized_keys.empty() ? own_authorized_keys() : a.authorized_keys;
  const Listen listen = parse_listen(a.listen);
  EnrolListener listener(listen.address, listen.port);
  console.stage("listen", fmt::format("port {}, for captures to {}", listener.port(), directory));
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(a.timeout);
  for (unsigned i = 0; i < most_requests; ++i) {
    const auto caller = listener.next(until, console, stop);
    if (!caller)
      throw Error("ENROL_TIMEOUT", "no medium was let in", fmt::format("within {} seconds", a.timeout));
    const bool yes = agreed(a, *caller, fingerprints);
    if (yes)
      authorize(file, authorized_line(caller->request, program, directory));
    try {
      send_message(caller->socket.get(), yes ? "accepted" : "refused");
    } catch (const Error& e) {
      console.message(EventSink::Level::warning, e.code(), "the medium went away before it was told");
    }
    if (yes) {
      console.result(fmt::format("{} was let in: {}\n", caller->request.name, file.string()),
                     {{"name", caller->request.name}, {"key", caller->request.key}, {"file", file.string()}});
      return exit_done;
    }
    console.message(EventSink::Level::warning, "ENROL_REFUSED",
                    fmt::format("{} from {} was refused: another code", caller->request.name, caller->address));
  }
  throw Error("ENROL_TIMEOUT", "too many requests that were refused", {}, "find out who sends them");
}

} // namespace kvmport
