// SPDX-License-Identifier: Apache-2.0
#include "cmd/receive_command.h"

#include "cmd/source_arguments.h"

#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <unistd.h>

namespace kvmport {
namespace {

constexpr const char* notes = R"(
The agent starts this on the server by ssh; by hand it is of use for local captures and in authorized_keys:
  restrict,command="kvm-p2v receive --only /srv/p2v" ssh-ed25519 AAAA…
)";

/// The protocol's end on descriptor `number`, which becomes a copy of `instead`: nothing else may read or write there.
UniqueFd take_over(int number, int instead) {
  UniqueFd taken(::fcntl(number, F_DUPFD_CLOEXEC, 3));
  if (!taken || ::dup2(instead, number) < 0)
    throw system_error(errno, "can't take the connection over");
  return taken;
}

} // namespace

CLI::App* add_receive_command(CLI::App& app, ReceiveArguments& a) {
  CLI::App* c = app.add_subcommand("receive", "The server side of a capture; the agent starts it over ssh");
  auto* directory = c->add_option("DIR", a.directory, "Directory for the results");
  c->add_option("--only", a.only, "Directory for the results, for a forced command")->excludes(directory);
  c->add_option("--key", a.keys, "DEVICE=FILE: passphrase of an encrypted device (or 'all'), first line of FILE");
  c->add_option("--root", a.delivery.guest.root, "Root device of the system to convert, when there are several");
  c->add_option("--guest-access", a.access, "How to get into the guest")
      ->check(CLI::IsMember({"auto", "userspace", "appliance"}))
      ->capture_default_str();
  c->add_option("--engine", a.delivery.engine, "What runs the proof: auto, qemu, kvm")->capture_default_str();
  c->footer(notes);
  return c;
}

int run_receive(const ReceiveArguments& arguments, Console& console, const StopToken& stop) {
  ReceiveOptions options;
  options.directory = arguments.only.empty() ? arguments.directory : arguments.only;
  if (options.directory.empty())
    throw Error("USAGE", "DIR is needed", "it says where the results go");
  DeliveryOptions delivery = arguments.delivery;
  SourceOptions unused;
  finish_source({arguments.keys, {}, arguments.access}, unused, delivery.guest);
  delivery.access = parse_access(arguments.access);
  options.deliver = make_delivery(delivery);
  ::signal(SIGHUP, SIG_IGN); // a delivery goes on when the agent's connection is gone
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  UniqueFd in = take_over(STDIN_FILENO, null.get()), out = take_over(STDOUT_FILENO, STDERR_FILENO);
  receive_machine(std::move(in), std::move(out), options, console, stop);
  return exit_done;
}

} // namespace kvmport
