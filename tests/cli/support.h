// SPDX-License-Identifier: Apache-2.0
// What the whole-command tests share: running a command, reading its events, and small sources made in an instant.
#pragma once

#include "base/process.h"
#include "tests/support/small_system.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace kvmport::test {

/// A command of ours, with 25 minutes of patience.
ProcessResult run(const std::string& program, const std::vector<std::string>& arguments);
/// The last event of a run with --json; every line must be an object with "event".
nlohmann::json last_event(const ProcessResult& process);
/// The last event of this kind.
nlohmann::json event_of(const ProcessResult& process, const std::string& kind);
/// What lies in a directory, if it exists at all.
std::vector<std::string> names_in(const std::filesystem::path& directory);

/// DIR/disk.FORMAT, 8 MiB of a pattern, made by qemu-img.
std::filesystem::path disk_as(const std::filesystem::path& dir, const std::string& format,
                              const std::vector<std::string>& options = {});
/// Overwrites one byte of a file.
void poke(const std::filesystem::path& file, std::uint64_t offset, std::uint8_t value);
/// DIR/vm.vmx of a machine with this one disk.
std::filesystem::path write_vmx(const std::filesystem::path& dir, const std::string& disk);
/// An OVF of these machines, each with the disk disk.vmdk of disk_as; `memory` false leaves their memory out.
std::string ovf(const std::vector<std::string>& names, bool memory = true);
/// Makes a LUKS2 device of a filesystem image; writes the passphrase to `key_file`, with a newline.
void encrypt(const std::filesystem::path& image, const std::filesystem::path& key_file);

} // namespace kvmport::test
