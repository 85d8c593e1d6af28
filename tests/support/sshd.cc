// SPDX-License-Identifier: Apache-2.0
#include "tests/support/sshd.h"

#include "tests/support/guests.h"
#include "tests/support/tempdir.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <stdexcept>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport::test {

sockaddr_in loopback(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

namespace {

std::uint16_t free_port() {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = loopback(0);
  socklen_t length = sizeof address;
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0)
    throw std::runtime_error("no free port");
  return ntohs(address.sin_port);
}

} // namespace

Sshd::Sshd(fs::path directory) : directory_(std::move(directory)), port_(free_port()) {
  const auto program = find_program("sshd");
  if (!program)
    throw std::runtime_error("no sshd: install openssh-server");
  for (const char* name : {"host", "user"})
    must_run({"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", (directory_ / name).string()});
  fs::copy_file(directory_ / "user.pub", authorized_keys());
  if (::geteuid() == 0)
    fs::create_directories("/run/sshd"); // its chroot, where no service made it
  write_file_durably(directory_ / "sshd_config",
                     fmt::format("ListenAddress 127.0.0.1:{}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\n"
                                 "UsePAM no\nPidFile none\nPermitRootLogin yes\nPasswordAuthentication no\n"
                                 "MaxStartups 100\nLogLevel ERROR\nSetEnv PATH={}:/usr/bin:/bin\n",
                                 port_, (directory_ / "host").string(), authorized_keys().string(),
                                 fs::absolute(command("kvm-p2v").parent_path()).string()));
  server_.emplace(std::vector<std::string>{*program, "-D", "-e", "-f", (directory_ / "sshd_config").string()},
                  std::vector<std::pair<int, int>>{});
  fingerprint_ = must_run({"ssh-keygen", "-lf", (directory_ / "host.pub").string()});
  fingerprint_ = fingerprint_.substr(fingerprint_.find("SHA256:"));
  fingerprint_.resize(fingerprint_.find(' '));
  wait_until_it_listens();
}

void Sshd::wait_until_it_listens() const {
  for (int i = 0; i < 100; i++) {
    const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_in address = loopback(port_);
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0)
      return;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  throw std::runtime_error("sshd does not start");
}

} // namespace kvmport::test
