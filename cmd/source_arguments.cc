// SPDX-License-Identifier: Apache-2.0
#include "cmd/source_arguments.h"

#include "base/file.h"

#include <iostream>

namespace kvmport {
namespace {

/// "NAME=VALUE" in two; Error USAGE when there is no "=".
std::pair<std::string, std::string> split(const std::string& text, const std::string& option) {
  const std::size_t at = text.find('=');
  if (at == std::string::npos || at == 0)
    throw Error("USAGE", option + " takes NAME=VALUE, not " + text);
  return {text.substr(0, at), text.substr(at + 1)};
}

Key read_key(const std::string& text) {
  auto [selector, file] = split(text, "--key");
  Key key{selector, {}};
  if (file == "-") {
    std::getline(std::cin, key.passphrase);
  } else {
    key.passphrase = read_file(file, 1U << 20);
    key.passphrase.resize(std::min(key.passphrase.find('\n'), key.passphrase.size()));
  }
  if (key.passphrase.empty())
    throw Error("KEY_MISSING", "the key for " + selector + " is empty", "the first line of " + file + " was read");
  return key;
}

} // namespace

void add_source_options(CLI::App& command, SourceOptions& source, ApplianceOptions& guest, SourceArguments& arguments) {
  command.add_option("--input-format", source.input_format, "Take bare disks as this format instead of probing");
  command.add_option("--allow-directory", source.read.allowed_directories,
                     "Descriptions and images may also refer to files below this directory");
  command.add_option("--disk", arguments.disks, "NAME=PATH: use PATH for the disk that the description calls NAME");
  command.add_option("--select", source.read.select, "Take this machine of a description that holds several");
  command.add_option("--root", guest.root, "Root device of the system to convert, when there are several");
  command.add_option("--key", arguments.keys,
                     "DEVICE=FILE: passphrase of an encrypted device (or 'all'), first line of FILE");
  command.add_option("--guest-access", arguments.access, "How to get into the guest")
      ->check(CLI::IsMember({"auto", "userspace", "appliance"}))
      ->capture_default_str();
}

void finish_source(const SourceArguments& arguments, SourceOptions& source, ApplianceOptions& guest) {
  for (const auto& key : arguments.keys)
    guest.keys.push_back(read_key(key));
  for (const auto& disk : arguments.disks) {
    const auto [name, path] = split(disk, "--disk");
    source.read.disk_paths[name] = path;
  }
}

AccessWish parse_access(const std::string& text) {
  return text == "userspace"   ? AccessWish::userspace
         : text == "appliance" ? AccessWish::appliance
                               : AccessWish::automatic;
}

} // namespace kvmport
