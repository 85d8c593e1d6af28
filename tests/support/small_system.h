// SPDX-License-Identifier: Apache-2.0
// Disks that are taken for guests, made in an instant; they do not boot.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

namespace kvmport::test {

/// An ext4, DIR/NAME, on a whole disk of 32 MiB, from the tree that `fill` makes.
std::filesystem::path ext4_disk(const std::filesystem::path& dir, const std::string& name,
                                const std::function<void(const std::filesystem::path&)>& fill);
/// A tree that is taken for an operating system.
void small_system(const std::filesystem::path& tree);
} // namespace kvmport::test
