// SPDX-License-Identifier: Apache-2.0
// What tests on real guests share: making and packing them, converting, and comparing what came out.
#pragma once

#include "base/process.h"

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace kvmport::test {

/// A command of ours from KVMPORT_BIN (build/bin).
std::filesystem::path command(const std::string& name);
/// The folder in which guests are cached: KVMPORT_GUESTS (build/guests).
std::filesystem::path guest_cache();
/// Makes the guest `name` (once) and returns its folder, see tests/guests/make-guest.
std::filesystem::path make_guest(const std::string& name);
/// Packs it as `format` into `directory` (which is made) and returns what to convert.
std::vector<std::string> package_guest(const std::filesystem::path& guest, const std::string& format,
                                       const std::filesystem::path& directory);
/// Whether tests of many minutes run too, and every guest and not only those that stand for the others: KVMPORT_SLOW,
/// which `make test-slow` sets. A test that they concern calls KVMPORT_ONLY_SLOW() first.
bool slow_tests();
#define KVMPORT_ONLY_SLOW()                                                                                            \
  if (!kvmport::test::slow_tests())                                                                                    \
  GTEST_SKIP() << "make test-slow runs it"
/// The command line of a conversion.
std::vector<std::string> convert_argv(const std::vector<std::string>& sources, const std::filesystem::path& out,
                                      const std::vector<std::string>& more = {});
/// A name for GoogleTest: '-' becomes '_'.
std::string identifier(std::string name);
/// Every file below `directory` with its SHA-256.
std::map<std::string, std::string> digests(const std::filesystem::path& directory);
/// The content of every ext and FAT filesystem of a disk image, in partitions and logical volumes: "DEVICE:PATH"
/// (device as "1" for the first partition, or "vg0/root") with type, mode, owner, label and a digest of its content.
/// Fails the test when e2fsck or fsck.vfat find anything. `scratch`: a directory for a raw copy.
std::map<std::string, std::string> tree_of(const std::filesystem::path& disk, const std::filesystem::path& scratch);

} // namespace kvmport::test
