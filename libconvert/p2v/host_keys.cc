// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/host_keys.h"

#include "base/process.h"
#include "base/ssh_key.h"
#include "libconvert/machine/text.h"

#include <fmt/format.h>
#include <sstream>

namespace kvmport {

std::vector<HostKey> scan_host_keys(const std::string& host, std::uint16_t port) {
  std::vector<std::string> argv{"ssh-keyscan", "-T", "10"};
  if (port != 0)
    argv.insert(argv.end(), {"-p", std::to_string(port)});
  argv.insert(argv.end(), {"--", host});
  const ProcessResult scan = run_process(argv, std::chrono::seconds(60));
  std::vector<HostKey> keys;
  std::istringstream lines(scan.out);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name, type, key;
    if (line.starts_with('#') || !(words >> name >> type >> key))
      continue;
    if (const auto fingerprint = ssh_fingerprint(key))
      keys.insert(type == "ssh-ed25519" ? keys.begin() : keys.end(), {type, *fingerprint, line});
  }
  if (keys.empty())
    throw Error("CONNECTION_LOST",
                fmt::format("no ssh server answers at {}{}", host, port == 0 ? "" : fmt::format(" port {}", port)),
                printable(scan.err, 300), "is the address right, and is the network up?");
  return keys;
}

} // namespace kvmport
